"""Check that the scorer ranks the true edit first:

    python -m csd_core.mini_editor.training.scorer_check --images FOLDER more.jpg

Photographs are cut into squares, and every square is edited by all instructions. For the captions of each
instruction the edits are ranked by directional similarity; for each edit the captions.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from csd_core.command import run_command
from csd_core.evaluation.metrics.clip import directional_similarity
from csd_core.evaluation.metrics.extractors import ClipExtractor
from csd_core.mini_editor.captions import canonical_captions
from csd_core.mini_editor.edits import INSTRUCTIONS, affected_mask, apply_edit
from csd_core.mini_editor.training.data import NAMES, rng_for
from csd_core.mini_editor.training.measures import LEAST_AFFECTED
from csd_core.mini_editor.training.pictures import held_out_pictures, read_pictures, squares, to_tensor

SIZE = 192
"""Pixels of the side of a square."""


@dataclass
class CheckConfig:
    """What to rank on."""

    images: tuple[Path, ...] = ()
    """Photographs, and folders of them. Default: scikit-image's held-out ones, whole and in quarters."""
    model: str = "mini"
    """The scorer, or any model of csd-evaluate --clip."""


def with_quarters(pictures: Iterable[Image.Image]) -> list[Image.Image]:
    """Each picture, followed by its four quarters."""
    parts = []
    for picture in pictures:
        width, height = picture.width // 2, picture.height // 2
        corners = [(x, y) for y in (0, height) for x in (0, width)]
        parts += [picture, *(picture.crop((x, y, x + width, y + height)) for x, y in corners)]
    return parts


def rank(extractor: ClipExtractor, images: Sequence[Tensor]) -> dict[str, list[tuple[bool, bool]]]:
    """Rank edits and captions of images (3, H, W) in [0, 1].

    Returns:
        Instruction -> for every image of which it affects enough pixels: whether its edit comes first for its
        captions, whether its captions come first for its edit.
    """
    rng = rng_for(0)
    first: dict[str, list[tuple[bool, bool]]] = {name: [] for name in NAMES}
    for image in images:
        outcomes = {name: str(rng.choice(INSTRUCTIONS[name].outcomes)) for name in NAMES}
        asked = [n for n in NAMES if float(affected_mask(n, image).float().mean()) >= LEAST_AFFECTED]
        source = extractor.images([image]).expand(len(asked), -1)
        edits = extractor.images([apply_edit(name, image, outcomes[name]) for name in asked])
        captions = [canonical_captions(name, outcomes[name]) for name in asked]
        before, after = (extractor.texts(list(texts)) for texts in zip(*captions, strict=True))
        similarity = torch.stack(
            [directional_similarity(source, edits, b, a) for b, a in zip(before, after, strict=True)], dim=1
        )  # (edit, captions)
        for k, name in enumerate(asked):
            first[name].append((int(similarity[:, k].argmax()) == k, int(similarity[k].argmax()) == k))
    return first


def check(config: CheckConfig) -> None:
    """Rank edits and captions, and print how often the right ones come first."""
    given = read_pictures(config.images).values()
    pictures = list(given) or with_quarters(held_out_pictures().values())
    images = [to_tensor(square) for picture in pictures for square in squares(picture, SIZE)]
    first = rank(ClipExtractor.from_pretrained(config.model), images)
    print("| instruction | questions | true edit first | true captions first |\n|---|---|---|---|")
    for name, pairs in {**first, "all": [pair for several in first.values() for pair in several]}.items():
        shares = (f"{100 * sum(way) / len(pairs):.0f} %" for way in zip(*pairs, strict=True))
        print(f"| {name} | {len(pairs)} | {' | '.join(shares)} |")


if __name__ == "__main__":
    sys.exit(run_command(CheckConfig, check))
