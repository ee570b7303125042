"""How near an editor's results are to the ground truth of its instructions.

Images are (3, H, W) in [0, 1], batches (n, 3, H, W); PSNR and gains are in dB. What cannot be measured
is NaN.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from csd_core.evaluation.metrics.pixels import gradient_correlation, psnr
from csd_core.mini_editor.edits import Instruction, affected_mask, apply_edit

LEAST_AFFECTED = 0.02
"""A photograph with a smaller share of affected pixels tells nothing of an edit."""
EQUAL_DB = 100.0
"""Counts as the PSNR of images that are equal, or nearly so: one of them must not make a mean infinite."""
LEAST_GAIN_DB = 1.0
"""Shares of a smaller gain say nothing."""


def mean(values: Iterable[float]) -> float:
    """Mean of what was measured; NaN where nothing was."""
    measured = [value for value in values if not math.isnan(value)]
    return sum(measured) / len(measured) if measured else math.nan


def decibels(image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """PSNR, at most EQUAL_DB."""
    return min(psnr(image, target, mask), EQUAL_DB)


def mean_decibels(images: Tensor, targets: Tensor) -> float:
    """Mean over image and target of each pair of two batches."""
    return mean(decibels(*pair) for pair in zip(images, targets, strict=True))


def true_edits(instruction: Instruction, source: Tensor) -> dict[str, Tensor]:
    """The ground truth for each outcome."""
    return {outcome: apply_edit(instruction.name, source, outcome) for outcome in instruction.outcomes}


def nearest_outcome(instruction: Instruction, source: Tensor, result: Tensor) -> tuple[str, float]:
    """(outcome, PSNR) of the ground truth that `result` is nearest to."""
    return _nearest(true_edits(instruction, source), result)


def _nearest(truths: Mapping[str, Tensor], result: Tensor) -> tuple[str, float]:
    scores = {outcome: decibels(result, truth) for outcome, truth in truths.items()}
    best = max(scores, key=lambda outcome: scores[outcome])
    return best, scores[best]


def score(instruction: Instruction, sources: Tensor, results: Tensor) -> dict[str, float]:
    """How well an instruction was followed; where several answers are right, the nearest one counts.

    Args:
        instruction: what was asked for.
        sources: (n, 3, H, W).
        results: (draws * n, 3, H, W), one set of n after the other.

    Returns:
        Means over photographs and draws, by name:
        images: photographs with enough affected pixels; the others do not count.
        source, result: PSNR to the ground truth, inside the affected pixels. gain: result - source.
        edges: gradient correlation with the ground truth, inside the affected pixels.
        structure: gradient correlation with the source, outside the affected pixels for a local edit.
        outside: PSNR to the source outside the affected pixels; NaN unless the edit is local.
    """
    rows = []
    images = 0
    for k, source in enumerate(sources):
        if affected_mask(instruction.name, source).float().mean() >= LEAST_AFFECTED:
            images += 1
            rows += _score_one(instruction, source, results[k :: len(sources)])
    fields = ("source", "result", "edges", "structure", "outside")
    means = {field: mean(row[field] for row in rows) for field in fields}
    return {"images": images, **means, "gain": means["result"] - means["source"]}


def _score_one(instruction: Instruction, source: Tensor, results: Tensor) -> list[dict[str, float]]:
    truths = true_edits(instruction, source)
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


def mean_by_kind(kinds: Sequence[str], scores: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Kind -> means of its instructions' scores. `kinds`, `scores`: one of each per instruction."""
    return {
        kind: {
            field: mean(s[field] for k, s in zip(kinds, scores, strict=True) if k == kind)
            for field in scores[0]
        }
        for kind in dict.fromkeys(kinds)
    }


def share_kept(canonical: Sequence[float], other: Sequence[float]) -> float:
    """Sum of the gains `other` over the sum of the gains `canonical`, each a number of dB per instruction.

    Sums, because the share of one small gain is mostly noise; NaN where even the sum is small.
    """
    pairs = [pair for pair in zip(canonical, other, strict=True) if not math.isnan(sum(pair))]
    total = sum(before for before, _ in pairs)
    return sum(after for _, after in pairs) / total if total >= LEAST_GAIN_DB else math.nan
