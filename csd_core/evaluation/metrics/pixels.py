"""Similarity of two images, visibility of window borders, and agreement of the edits of many images.

Images are (..., 3, H, W) in [0, 1]; a mask (H, W) bool selects the pixels that count, by default all.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from csd_core.image_ops import LUMA

LEAST_CHROMA = 1e-3
"""A mean change of colour with less chroma, a quarter of an 8-bit level, counts as grey."""


def psnr(image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal images, NaN where no pixel counts."""
    error = (image - target).square().mean(dim=-3)
    mean = float((error if mask is None else error[..., mask]).mean())
    return math.inf if mean == 0 else -10 * math.log10(mean)


def gradient_correlation(image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """Similarity of the edges of two images (3, H, W), whatever their colours: a correlation in [-1, 1].

    Pearson's coefficient of the horizontal and vertical differences of luma, taken together. A difference
    counts where both of its pixels do. NaN where one of the images is flat, or no pixel counts.
    """
    pair = torch.stack([_differences(image, mask), _differences(target, mask)]).double()
    pair = pair - pair.mean(dim=1, keepdim=True)
    variances = pair.square().sum(dim=1)
    return float((pair[0] * pair[1]).sum() / variances.prod().sqrt())


def seam_score(image: Tensor, source: Tensor, rows: Sequence[int], columns: Sequence[int]) -> float:
    """Visibility of the borders of windows: 1 as in the source, more where they show. At least 0.

    The mean step of luma across the borders over the mean step elsewhere, divided by the same ratio of the
    source, which may have edges of its own there.

    Args:
        image: (3, H, W).
        source: (3, H, W).
        rows: a border lies between row y - 1 and y, for each y; 0 and H do not count.
        columns: likewise.
    """
    return _steps_across(image, rows, columns) / _steps_across(source, rows, columns)


def hue_spread(frames: Iterable[Tensor], sources: Iterable[Tensor]) -> float:
    """Spread of the hue of an edit over frames: circular standard deviation, in degrees.

    The edit of a frame is its mean change of colour (dR, dG, dB), as a point on the chromaticity plane
        z = dR - (dG + dB) / 2 + i sqrt(3) / 2 (dG - dB)
    with chroma |z| and hue arg z: red 0, green 120, blue 240. Frames are weighted by chroma:
        sqrt(-2 ln(|sum of z| / sum of |z|))
    which for equal chromas is that of Mardia, Statistics of Directional Data, 1972, and of scipy. At least 0;
    infinite where hues cancel out; NaN where the changes are grey, with a mean chroma below LEAST_CHROMA.

    Args:
        frames: (3, H, W) in [0, 1] each; an iterator is read one frame at a time.
        sources: as many.
    """
    points = [_colour_point(frame - source) for frame, source in zip(frames, sources, strict=True)]
    chroma, together = sum(map(abs, points)), abs(sum(points))
    if chroma < LEAST_CHROMA * max(len(points), 1):
        return math.nan
    # rounding may make |sum of z| larger than sum of |z|
    return math.degrees(math.sqrt(2 * math.log(max(1, chroma / together)))) if together else math.inf


def _colour_point(change: Tensor) -> complex:
    """The mean of a change of colour (3, H, W) on the chromaticity plane, grey at 0."""
    red, green, blue = change.double().mean(dim=(1, 2)).tolist()
    return complex(red - (green + blue) / 2, math.sqrt(3) / 2 * (green - blue))


def _steps_across(image: Tensor, rows: Sequence[int], columns: Sequence[int]) -> float:
    luma = (image * image.new_tensor(LUMA)[:, None, None]).sum(dim=0).double()
    across, elsewhere = [], []
    for steps, borders in ((luma.diff(dim=0), rows), (luma.diff(dim=1).T, columns)):
        is_border = torch.zeros(len(steps), dtype=torch.bool)
        is_border[[y - 1 for y in borders if 0 < y <= len(steps)]] = True
        across.append(steps[is_border].abs().flatten())
        elsewhere.append(steps[~is_border].abs().flatten())
    return float(torch.cat(across).mean() / torch.cat(elsewhere).mean())


def _differences(image: Tensor, mask: Tensor | None) -> Tensor:
    """Differences of neighbouring luma values, first along rows, then along columns, as one vector."""
    luma = (image * image.new_tensor(LUMA)[:, None, None]).sum(dim=0)
    counts = torch.ones_like(luma, dtype=torch.bool) if mask is None else mask
    rows = luma.diff(dim=1)[counts[:, 1:] & counts[:, :-1]]
    columns = luma.diff(dim=0)[counts[1:] & counts[:-1]]
    return torch.cat([rows, columns])
