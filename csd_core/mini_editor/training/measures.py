"""Distance of an editor's results from the ground truth of its instructions.

Images are (3, H, W) in [0, 1], batches (n, 3, H, W); PSNR and gains are in dB. NaN: could not be measured.
"""

import math
from collections.abc import Iterable, Mapping

from torch import Tensor

from csd_core.evaluation.metrics.pixels import gradient_correlation, psnr
from csd_core.mini_editor.edits import Instruction, affected_mask, apply_edit

LEAST_AFFECTED = 0.02
"""Photographs with a smaller share of affected pixels do not count."""
EQUAL_DB = 100.0
"""Upper bound of a PSNR, so that equal images do not make a mean infinite."""


def mean(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    measured = [value for value in values if not math.isnan(value)]
    return sum(measured) / len(measured) if measured else math.nan


def decibels(image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """PSNR, at most EQUAL_DB."""
    return min(psnr(image, target, mask), EQUAL_DB)


def mean_decibels(images: Tensor, targets: Tensor) -> float:
    """Mean PSNR of two batches, image by image."""
    return mean(decibels(*pair) for pair in zip(images, targets, strict=True))


def nearest_outcome(instruction: Instruction, source: Tensor, result: Tensor) -> tuple[str, float]:
    """(outcome, PSNR) of the ground truth with the highest PSNR to `result`."""
    return _nearest(_true_edits(instruction, source), result)


def score(instruction: Instruction, sources: Tensor, results: Tensor) -> dict[str, float]:
    """How well an instruction was followed; of several right answers the nearest one counts.

    Args:
        instruction: what was asked for.
        sources: (n, 3, H, W).
        results: (seeds * n, 3, H, W), one set of n after the other.

    Returns:
        Means over photographs and seeds, by name:
        photos: photographs with enough affected pixels; only these count.
        source, result: PSNR to the ground truth, inside the affected pixels. gain: result - source.
        edges: gradient correlation with the ground truth, inside the affected pixels.
        structure: gradient correlation with the source, outside the affected pixels for a local edit.
        outside: PSNR to the source outside the affected pixels; NaN unless the edit is local.
    """
    counted = [
        k
        for k, source in enumerate(sources)
        if affected_mask(instruction.name, source).float().mean() >= LEAST_AFFECTED
    ]
    rows = [row for k in counted for row in _score_one(instruction, sources[k], results[k :: len(sources)])]
    names = ("source", "result", "edges", "structure", "outside")
    means = {name: mean(row[name] for row in rows) for name in names}
    return {"photos": len(counted), **means, "gain": means["result"] - means["source"]}


def _true_edits(instruction: Instruction, source: Tensor) -> dict[str, Tensor]:
    return {outcome: apply_edit(instruction.name, source, outcome) for outcome in instruction.outcomes}


def _nearest(truths: Mapping[str, Tensor], result: Tensor) -> tuple[str, float]:
    scores = {outcome: decibels(result, truth) for outcome, truth in truths.items()}
    best = max(scores, key=lambda outcome: scores[outcome])
    return best, scores[best]


def _score_one(instruction: Instruction, source: Tensor, results: Tensor) -> list[dict[str, float]]:
    truths = _true_edits(instruction, source)
    inside = affected_mask(instruction.name, source)
    local = instruction.kind == "local"
    rows = []
    for result in results:
        truth = truths[_nearest(truths, result)[0]]
        rows.append(
            {
                "source": decibels(source, truth, inside),
                "result": decibels(result, truth, inside),
                "edges": gradient_correlation(result, truth, inside),
                "structure": gradient_correlation(result, source, ~inside if local else None),
                "outside": decibels(result, source, ~inside) if local else math.nan,
            }
        )
    return rows
