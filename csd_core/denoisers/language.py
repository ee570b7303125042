"""Whether a small editor understands a prompt. Standard library only, so that importing it costs nothing."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from csd_core.errors import UserError

LANGUAGE_FILE = "language.json"
"""In a model's folder: instruction -> its wordings. Only small editors have one."""

ENOUGH = 0.5
"""A prompt counts as understood from this likeness to one wording on."""

_NO_MEANING = """
a add all an and as at be by change cover everything for from give have if in into it its let like look make
of on only or please put the them there these they thing things this time to turn use were with"""
FILLER = frozenset(_NO_MEANING.split())
"""Words that do not tell instructions apart."""


def words(prompt: str) -> frozenset[str]:
    """Distinct words in lower case and British spelling."""
    return frozenset(re.findall(r"[a-z]+", prompt.lower().replace("color", "colour").replace("gray", "grey")))


def likeness(prompt: str, wordings: Iterable[str]) -> float:
    """How much of the best wording is in the prompt, in [0, 1].

    The Tversky index (1977) of their words without FILLER: a missing word counts fully, one too many half, so
    that "a snowy day" still means snow while "turn purple things green" does not mean orange ones.
    """
    asked = words(prompt) - FILLER

    def index(wording: str) -> float:
        known = words(wording) - FILLER
        shared = len(asked & known)
        return shared / max(len(known) + len(asked - known) / 2, 1)

    return max((index(wording) for wording in wordings), default=0.0)


def read_language(folder: Path) -> dict[str, list[str]] | None:
    """The wordings that the model in `folder` was trained on; None if it understands any prompt.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / LANGUAGE_FILE
    if not path.is_file():
        return None
    try:
        language = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        language = None
    if not _is_language(language):
        raise UserError(
            f'{path}: expected a JSON object {{"name": ["wording", ...], ...}}; fetch the model again'
        )
    return language


def _is_language(content: Any) -> bool:
    if not isinstance(content, dict) or not content:
        return False
    return all(isinstance(of, list) and of and all(map(_is_text, of)) for of in content.values())


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(words(value))


def unknown_prompt_message(prompt: str, language: Mapping[str, Sequence[str]]) -> str | None:
    """A note for users on a prompt outside the language; None if it is understood or empty."""
    everything = [wording for wordings in language.values() for wording in wordings]
    if not words(prompt) or likeness(prompt, everything) >= ENOUGH:
        return None
    known = "; ".join(wordings[0] for wordings in language.values())
    return f"this editor was not taught {prompt!r} and may ignore it; it knows: {known}"
