"""Whether the scorer means something: does it rank the true edit first?

    python -m csd_core.mini_editor.training.scorer_check --images folder more.jpg

A photograph is edited by all instructions. For the captions of each instruction the edits are ranked by
metrics.clip.directional_similarity; and for each edit the instructions. Photographs are cut into
squares, the items. Default: those that neither the editor nor the scorer was trained on.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from csd_core.command import run_command
from csd_core.evaluation.metrics.clip import directional_similarity
from csd_core.evaluation.metrics.extractors import ClipExtractor
from csd_core.image_ops import resize
from csd_core.io.images import read_picture
from csd_core.mini_editor.captions import canonical_captions
from csd_core.mini_editor.edits import INSTRUCTIONS, affected_mask, apply_edit
from csd_core.mini_editor.training.sources import HELD_OUT_PHOTOGRAPHS, photograph

NAMES = list(INSTRUCTIONS)
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
LEAST_AFFECTED = 0.02
"""A local edit of a smaller share of the pixels is not asked about."""


@dataclass
class CheckConfig:
    """What to rank on."""

    images: tuple[Path, ...] = ()
    """Photographs, and folders of them. Default: the held-out ones that the libraries bring."""
    model: str = "mini"
    """The scorer, or any model of csd-evaluate --clip."""
    size: int = 192
    """Pixels of the side of an item, at which it is edited."""


@dataclass(frozen=True)
class Ranking:
    """Shares of questions answered right, by instruction and over all."""

    edits: dict[str, float]
    """Among all edits, the true one has the highest directional similarity to the captions."""
    captions: dict[str, float]
    """Among all captions, those of the instruction have the highest to the edit."""
    questions: int

    @property
    def edit_share(self) -> float:
        """Over all questions, not instructions."""
        return self.edits["all"]


def squares(image: Tensor, size: int) -> Iterator[Tensor]:
    """An image (3, H, W) cut along its long side into squares (3, size, size) that do not overlap."""
    side = min(image.shape[-2:])
    for y in range(0, image.shape[-2] - side + 1, side):
        for x in range(0, image.shape[-1] - side + 1, side):
            yield resize(image[None, :, y : y + side, x : x + side], (size, size))[0]


def held_out(size: int) -> list[Tensor]:
    """Items (3, size, size) of the held-out photographs: each whole, and in four quarters."""
    items = []
    for name in HELD_OUT_PHOTOGRAPHS:
        image = torch.from_numpy(photograph(name)).permute(2, 0, 1)
        height, width = image.shape[1] // 2, image.shape[2] // 2
        quarters = [image[:, y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
        items += [item for part in (image, *quarters) for item in squares(part, size)]
    return items


def rank(extractor: ClipExtractor, items: Sequence[Tensor], seed: int = 0) -> Ranking:
    """Ask for every item and instruction that changes enough of it.

    Args:
        extractor: of images and captions.
        items: (3, H, W) in [0, 1] each.
        seed: draws one outcome of each choice.
    """
    generator = torch.Generator().manual_seed(seed)
    right: dict[str, list[tuple[bool, bool]]] = {name: [] for name in NAMES}
    for item in items:
        outcomes = {name: _draw(INSTRUCTIONS[name].outcomes, generator) for name in NAMES}
        asked = [n for n in NAMES if float(affected_mask(n, item).float().mean()) >= LEAST_AFFECTED]
        source = extractor.images([item]).expand(len(asked), -1)
        edits = extractor.images([apply_edit(name, item, outcomes[name]) for name in asked])
        captions = [canonical_captions(name, outcomes[name]) for name in asked]
        before, after = (extractor.texts(list(several)) for several in zip(*captions, strict=True))
        table = torch.stack(
            [directional_similarity(source, edits, b, a) for b, a in zip(before, after, strict=True)], dim=1
        )  # (edit, captions)
        for k, name in enumerate(asked):
            right[name].append((int(table[:, k].argmax()) == k, int(table[k].argmax()) == k))
    every = [pair for pairs in right.values() for pair in pairs]
    shares = [
        {
            name: _share([pair[way] for pair in pairs])
            for name, pairs in {**right, "all": every}.items()
            if pairs
        }
        for way in (0, 1)
    ]
    return Ranking(shares[0], shares[1], len(every))


def _draw(outcomes: Sequence[str], generator: torch.Generator) -> str:
    return outcomes[int(torch.randint(len(outcomes), (), generator=generator))]


def _share(answers: Sequence[bool]) -> float:
    return sum(answers) / len(answers)


def check(config: CheckConfig) -> None:
    """Rank edits and captions, and print the shares that came first."""
    paths = [
        path
        for given in config.images
        for path in (sorted(given.iterdir()) if given.is_dir() else [given])
        if path.suffix.lower() in SUFFIXES
    ]
    items = [item for path in paths for item in squares(read_picture(path).to_tensor(), config.size)]
    ranking = rank(ClipExtractor.from_pretrained(config.model), items or held_out(config.size))
    print("| instruction | true edit first | true captions first |\n|---|---|---|")
    for name, share in ranking.edits.items():
        print(f"| {name} | {100 * share:.0f} % | {100 * ranking.captions[name]:.0f} % |")
    print(f"{ranking.questions} questions")


if __name__ == "__main__":
    sys.exit(run_command(CheckConfig, check))
