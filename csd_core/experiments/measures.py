"""Measures of a cell by one set of extractors, kept beside its edit.

FOLDER/<key of the cell>/measures-<hash of extractors and instruction>.json
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from csd_core.experiments.grid import Cell
from csd_core.experiments.settings import Prompt
from csd_core.io.files import written_beside

if TYPE_CHECKING:
    from csd_core.evaluation import Measured, Tools

VERSION = 2
"""Rises when the measures of this module change their meaning."""
EQUAL_DB = 100.0
"""PSNR of images that are equal or nearly so: an infinite one would make the mean infinite."""


@dataclass(frozen=True)
class CellMeasure:
    """One measure of a cell."""

    mean: float | None
    """None: does not apply, or could not be measured."""
    n: int = 1
    """Frames, pairs or parts that it is the mean of."""


CellMeasures = dict[str, CellMeasure]
"""By the key of a column."""


def kept_measures(
    cell: Cell, folder: Path, prompt: Prompt, tools: "Tools", measure: Callable[[], CellMeasures]
) -> CellMeasures:
    """The measures of a cell by these extractors, from their file, or made now and kept."""
    depends_on = {
        "version": VERSION,
        "extractor": tools.clip.identity if tools.clip else None,
        "lpips": tools.lpips is not None,
        "prompt": asdict(prompt),
    }
    digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:12]
    path = cell.path(folder) / f"measures-{digest}.json"
    if path.is_file():
        kept = json.loads(path.read_text())["measures"]
        return {key: CellMeasure(**fields) for key, fields in kept.items()}
    measures = measure()
    whole = {**depends_on, "measures": {key: asdict(fields) for key, fields in measures.items()}}
    with written_beside(path) as beside:
        beside.write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n")
    return measures


def all_measures(
    evaluated: Sequence["Measured"], prompt: Prompt, before: Sequence[Tensor], after: Sequence[Tensor]
) -> CellMeasures:
    """The measures of csd-evaluate, and those against the true edit where it is known."""
    measures = {measured.key: CellMeasure(finite(measured.mean), measured.n) for measured in evaluated}
    return {**measures, **(true_measures(prompt, before, after) if prompt.instruction else {})}


def true_measures(prompt: Prompt, before: Sequence[Tensor], after: Sequence[Tensor]) -> CellMeasures:
    """Against the true edit of the frames (3, H, W) in [0, 1], or of one picture.

    psnr_true: PSNR to the true edit, dB. Where several edits are right, to the one nearest to all frames.
    psnr_corners: the same of a picture's four corners alone, a quarter of the short side each.
    hue_spread, share: only where several edits are right. How far hues differ between frames, or parts of a
        picture, in degrees; share of them whose nearest true edit is the commonest one.
    """
    from csd_core.evaluation.metrics.pixels import hue_spread

    psnr, _ = nearest_true_edit(prompt.instruction, before, after)
    measures = {"psnr_true": CellMeasure(psnr, len(after))}
    if len(after) == 1:
        psnr, _ = nearest_true_edit(prompt.instruction, before, after, corners=True)
        measures["psnr_corners"] = CellMeasure(psnr, 4)
    if prompt.is_choice:
        if len(after) == 1:
            before, after = parts(before[0]), parts(after[0])
        _, share = nearest_true_edit(prompt.instruction, before, after)
        measures["hue_spread"] = CellMeasure(finite(hue_spread(after, before)), len(after))
        measures["share"] = CellMeasure(share, len(after))
    return measures


def nearest_true_edit(
    instruction: str, before: Sequence[Tensor], after: Sequence[Tensor], *, corners: bool = False
) -> tuple[float, float]:
    """Mean PSNR in dB to the true edit nearest to all frames; share of frames nearest to the commonest one.

    Args:
        instruction: key of mini_editor.edits.INSTRUCTIONS.
        before: frames (3, H, W) in [0, 1].
        after: the edited frames.
        corners: compare their corners alone.
    """
    from csd_core.evaluation.metrics.pixels import psnr
    from csd_core.mini_editor.edits import INSTRUCTIONS, apply_edit

    compared = corners_of if corners else lambda image: image
    outcomes = INSTRUCTIONS[instruction].outcomes
    scores = [
        {
            outcome: min(psnr(compared(edited), compared(apply_edit(instruction, source, outcome))), EQUAL_DB)
            for outcome in outcomes
        }
        for source, edited in zip(before, after, strict=True)
    ]
    nearest = Counter(max(of_frame, key=lambda outcome: of_frame[outcome]) for of_frame in scores)
    best = max(fmean(of_frame[outcome] for of_frame in scores) for outcome in outcomes)
    return best, max(nearest.values()) / len(scores)


def corners_of(image: Tensor) -> Tensor:
    """The four corners (4, 3, side, side) of an image (3, H, W), side a quarter of its short side."""
    side = max(1, min(image.shape[-2:]) // 4)
    rows = (image[:, :side], image[:, -side:])
    return torch.stack([part for row in rows for part in (row[..., :side], row[..., -side:])])


def parts(image: Tensor) -> list[Tensor]:
    """An image (3, H, W) cut into squares of half its short side; what is left over is dropped."""
    side = min(image.shape[-2:]) // 2
    rows = image.unfold(1, side, side).unfold(2, side, side)
    return list(rows.permute(1, 2, 0, 3, 4).flatten(0, 1))


def finite(value: float) -> float | None:
    """None for NaN and infinity, which JSON has no value for."""
    return value if math.isfinite(value) else None
