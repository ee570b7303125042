"""The measures of an edit: what each number is, which direction is better, and its source.

csd_core.evaluation.metrics computes them; the formulas here are text for reports.
    s, e     features of the source and of the edit of an item, normalised; t, t' those of the two captions
    k, k + 1 neighbours: consecutive frames or views, overlapping parts of a panorama
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch

from csd_core.evaluation.metrics.clip import mean_and_error

Over = Literal["item", "pair", "whole"]

CAP_DB = 100.0
"""The PSNR that equal images count with: an infinite value would make the mean infinite."""


@dataclass(frozen=True)
class Measured:
    """A measure and its result.

    Attributes:
        key: its name in report.json.
        title: its name for readers; in MEASURES with {label}: "CLIP", or "scorer" for the model that ships.
        better: which direction is better.
        over: what has a value: every item, every pair of neighbours, or the whole.
        formula: in one line.
        source: paper or definition.
        unit: "" for none.
        values: one for each item or pair, in order; NaN where it is not defined.
        mean: of the values that are not NaN; NaN if there is none.
        error: standard error of the mean, for independent values; NaN for fewer than two.
        n: number of values that are not NaN.
        missing: why it was not measured; "" if it was.
    """

    key: str
    title: str
    better: Literal["higher", "lower"]
    over: Over
    formula: str
    source: str
    unit: str = ""
    values: tuple[float, ...] = ()
    mean: float = math.nan
    error: float = math.nan
    n: int = 0
    missing: str = ""


_PAPER = "Kim et al., arXiv:2307.04787"
_IP2P = f"InstructPix2Pix, arXiv:2211.09800; {_PAPER}"
_WARP = "mean of (edit k+1, warped by the source's {}, - edit k)^2 where {}"

# fmt: off
_ALL = (
    Measured("directional_similarity", "{label} directional similarity", "higher", "item",
             "cos(e - s, t' - t)", f"StyleGAN-NADA, arXiv:2108.00946; {_IP2P}"),
    Measured("image_similarity", "{label} source-target image similarity", "higher", "item",
             "cos(e, s); 1 for what was not edited", _IP2P),
    Measured("image_consistency", "{label} image consistency", "higher", "pair", "cos(e_k, e_k+1)", _PAPER),
    Measured("source_image_consistency", "{label} image consistency of the source", "higher", "pair",
             "cos(s_k, s_k+1)", f"for comparison with image consistency; {_PAPER}"),
    Measured("text_similarity", "{label} image-text similarity", "higher", "item",
             "cos(e, t')", f"{_PAPER}, table 5"),
    Measured("direction_consistency", "{label} direction consistency", "higher", "pair",
             "cos(e_k - s_k, e_k+1 - s_k+1)",
             "after Instruct-NeRF2NeRF, arXiv:2303.12789, whose own formula is ambiguous"),
    Measured("lpips", "LPIPS between neighbours", "lower", "pair",
             "LPIPS(edit k, edit k + 1), AlexNet", f"Zhang et al., arXiv:1801.03924; {_PAPER}, table 1"),
    Measured("fid", "FID of the edits to the sources", "lower", "whole",
             "|m - m'|^2 + tr(C + C' - 2 (C C')^1/2) of Inception features; biased for few images",
             f"Heusel et al., arXiv:1706.08500, Eq. 6; {_PAPER}"),
    Measured("warp_error", "warp error", "lower", "pair",
             _WARP.format("flow", "the source shows both"), "Lai et al., ECCV 2018"),
    Measured("source_warp_error", "warp error of the source", "lower", "pair",
             "the same of the source itself: noise, light and wrong flow",
             "for comparison with the warp error"),
    Measured("depth_error", "depth-reprojection error", "lower", "pair",
             _WARP.format("depth", "both views show it"), "geometry of the source NeRF"),
    Measured("source_depth_error", "depth-reprojection error of the source", "lower", "pair",
             "the same of the source itself: wrong depth and view-dependent light",
             "for comparison with the depth-reprojection error"),
    Measured("seam_score", "seam score", "lower", "whole",
             "(mean step of luma across window borders / elsewhere) over the same of the source; 1: no seam",
             "csd_core.evaluation.metrics.pixels.seam_score"),
    Measured("psnr_outside_mask", "PSNR outside the mask", "higher", "item",
             f"-10 log10 of the mean of (e - s)^2 where the mask is 0; {CAP_DB:.0f} where nothing changed",
             "peak signal-to-noise ratio", unit="dB"),
)
# fmt: on
MEASURES = {measure.key: measure for measure in _ALL}
"""By key, in the order of reports; without values."""


def measured(
    key: str, values: Iterable[float], *, label: str = "CLIP", missing: str = "", over: Over | None = None
) -> Measured:
    """A measure with its values, their mean and error.

    Args:
        key: of MEASURES.
        values: one for each item or pair, NaN where it is not defined; a single one for the whole.
        label: of the numbers of the extractor.
        missing: why nothing was measured, if so.
        over: what has a value, where not as in MEASURES.
    """
    found = tuple(float(value) for value in values)
    mean, error, n = mean_and_error(torch.tensor(found, dtype=torch.float64))
    usual = MEASURES[key]
    title, over = usual.title.format(label=label), over or usual.over
    return replace(usual, title=title, over=over, values=found, mean=mean, error=error, n=n, missing=missing)
