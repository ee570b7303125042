"""Measures of a cell: those of csd-evaluate, and those against the true edit where it is known."""

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from csd_core.experiments.settings import Prompt

if TYPE_CHECKING:
    from csd_core.evaluation import Measured

Measures = dict[str, float | None]
"""By the key of a column. None: does not apply, or could not be measured."""


def all_measures(
    evaluated: Sequence["Measured"], prompt: Prompt, before: Sequence[Tensor], after: Sequence[Tensor]
) -> Measures:
    """The measures of csd-evaluate, and those against the true edit where it is known."""
    measures = {measured.key: finite(measured.mean) for measured in evaluated}
    return {**measures, **(true_measures(prompt, before, after) if prompt.instruction else {})}


def true_measures(prompt: Prompt, before: Sequence[Tensor], after: Sequence[Tensor]) -> Measures:
    """Against the true edit of the frames (3, H, W) in [0, 1], or of one picture.

    psnr_true: PSNR to the true edit, dB. Where several edits are right, to the one nearest to all frames.
    psnr_corners: the same of a picture's four corners alone, a quarter of the short side each.
    hue_spread, share: only where several edits are right. How far hues differ between frames, or parts of a
        picture, in degrees; share of them whose nearest true edit is the commonest one.
    """
    from csd_core.evaluation.metrics.pixels import hue_spread
    from csd_core.mini_editor.edits import INSTRUCTIONS

    psnr, _ = nearest_true_edit(prompt.instruction, before, after)
    measures: Measures = {"psnr_true": psnr}
    if len(after) == 1:
        measures["psnr_corners"], _ = nearest_true_edit(prompt.instruction, before, after, corners=True)
    if INSTRUCTIONS[prompt.instruction].kind == "choice":
        if len(after) == 1:
            before, after = parts(before[0]), parts(after[0])
        _, measures["share"] = nearest_true_edit(prompt.instruction, before, after)
        measures["hue_spread"] = finite(hue_spread(after, before))
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
    from csd_core.evaluation.measures import CAP_DB
    from csd_core.evaluation.metrics.pixels import psnr
    from csd_core.mini_editor.edits import INSTRUCTIONS, apply_edit

    compared = corners_of if corners else lambda image: image
    outcomes = INSTRUCTIONS[instruction].outcomes
    scores = [
        {
            outcome: min(psnr(compared(edited), compared(apply_edit(instruction, source, outcome))), CAP_DB)
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
