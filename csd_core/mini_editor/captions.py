"""Captions of pictures before and after the mini editor's instructions; the scorer is trained on them.

A state names what a picture shows: the result of an instruction ("night", "tint red"), things of one colour
("red things"), or neither ("plain").
"""

import re
from collections.abc import Mapping

from csd_core.mini_editor.edits import HUES, INSTRUCTIONS

PLAIN = "plain"

CAPTIONS: dict[str, tuple[str, ...]] = {
    PLAIN: ("a photo", "a picture", "a photograph", "an image", "a photo of the scene", "the scene by day"),
    "night": ("a photo at night", "the scene at midnight", "a dark night", "a photo at night time"),
    "sunset": ("a photo at sunset", "a sunset", "the scene in the evening light", "a photo in the evening"),
    "sepia": ("an old sepia photo", "an old brown photograph", "a photo in sepia tones", "sepia"),
    "snow": (
        *("a photo in the snow", "a snowy day", "the scene in winter", "a photo covered with snow"),
        *("a snowy winter scene", "a photo of a snowy winter"),
    ),
    "black and white": ("a black and white photo", "a grey photo", "the scene in black and white"),
    "pencil sketch": ("a pencil sketch", "a pencil drawing", "a sketch of the scene", "a drawing in pencil"),
    "blueprint": ("a blueprint", "white lines on blue paper", "a blueprint of the scene"),
    "oil painting": ("an oil painting", "a painting in oil", "the scene painted in oil", "a painting"),
    "single colour": ("a picture in a single colour", "a picture in one hue", "the scene in one colour"),
    "tint": ("a photo with a tint", "a tinted photo", "a photo through coloured glass", "a coloured tint"),
}
"""State -> its captions; the first is the canonical one."""

for hue in HUES:
    CAPTIONS[f"single colour {hue}"] = (
        *(f"a picture in shades of {hue}", f"a {hue} picture", f"the scene all in {hue}"),
    )
    CAPTIONS[f"tint {hue}"] = (
        *(f"a photo with a {hue} tint", f"a photo through {hue} glass", f"a photo tinted {hue}"),
    )
for hue in ("red", "orange", "blue", "green", "pink"):
    CAPTIONS[f"{hue} things"] = (
        *(f"a photo with {hue} things", f"{hue} things", f"a photo of {hue} things"),
        f"things that are {hue}",
    )

RECOLOURED = {
    "red to blue": ("red", "blue"),
    "orange to green": ("orange", "green"),
    "blue to pink": ("blue", "pink"),
}


def states(name: str, outcome: str = "", *, with_outcome: bool = True) -> tuple[str, str]:
    """States of a picture before and after an instruction.

    Args:
        name: key of INSTRUCTIONS.
        outcome: of a choice.
        with_outcome: whether the second state names the outcome.
    """
    if name in RECOLOURED:
        before, after = RECOLOURED[name]
        return f"{before} things", f"{after} things"
    return PLAIN, f"{name} {outcome}".strip() if with_outcome else name


def canonical_captions(name: str, outcome: str = "") -> tuple[str, str]:
    """Captions of a picture before and after an instruction; `name`, `outcome`: see states."""
    before, after = states(name, outcome)
    return CAPTIONS[before][0], CAPTIONS[after][0]


def wordings() -> Mapping[str, tuple[str, ...]]:
    """State -> its captions, followed by the wordings of the instruction that leads to it."""
    texts = dict(CAPTIONS)
    for name, instruction in INSTRUCTIONS.items():
        if name in texts:
            texts[name] = (*texts[name], *instruction.wordings)
    return texts


def known_words() -> list[str]:
    """Every word of every caption."""
    texts = " ".join(text for several in wordings().values() for text in several)
    return sorted(set(re.findall(r"[a-z]+", texts)))
