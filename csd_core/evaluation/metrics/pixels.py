"""How alike two images are, and how alike the edits of many.

Images are (..., 3, H, W) in [0, 1]; a mask (H, W) bool says which pixels count, by default all.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)

LEAST_CHROMA = 1e-3
"""A mean change of colour with less of it, a quarter of a level of 8 bits, is grey."""


def psnr(image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal images, NaN where no pixel counts."""
    error = (image - target).square().mean(dim=-3)
    mean = float((error if mask is None else error[..., mask]).mean())
    return math.inf if mean == 0 else -10 * math.log10(mean)


def gradient_correlation(image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """How far two images (3, H, W) have the same edges, whatever their colours: a correlation in [-1, 1].

    Pearson's coefficient of the horizontal and vertical differences of luma, taken together. A difference
    counts where both of its pixels do. NaN where one of the images is flat, or no pixel counts.
    """
    pair = torch.stack([_differences(image, mask), _differences(target, mask)]).double()
    pair = pair - pair.mean(dim=1, keepdim=True)
    variances = pair.square().sum(dim=1)
    return float((pair[0] * pair[1]).sum() / variances.prod().sqrt())


def seam_score(image: Tensor, source: Tensor, rows: Sequence[int], columns: Sequence[int]) -> float:
    """How visible the borders of windows are: 1 as in the source, more where they show. At least 0.

    The mean step of luma across the borders over the mean step elsewhere, divided by the same of the source,
    which may have edges of its own there.

    Args:
        image: (3, H, W).
        source: (3, H, W).
        rows: a border lies between row y - 1 and y, for each y; 0 and H do not count.
        columns: likewise.
    """
    return _steps_across(image, rows, columns) / _steps_across(source, rows, columns)


def hue_spread(frames: Iterable[Tensor], sources: Iterable[Tensor]) -> float:
    """How far the hue of an edit differs from frame to frame: circular standard deviation, in degrees.

    The edit of a frame is its mean change of colour (dR, dG, dB), as a point on the plane of colours
        z = dR - (dG + dB) / 2 + i sqrt(3) / 2 (dG - dB)
    with chroma |z| and hue arg z: red 0, green 120, blue 240. A frame counts by its chroma:
        sqrt(-2 ln(|sum of z| / sum of |z|))
    which for equal chromas is that of Mardia, Statistics of Directional Data, 1972, and of scipy. At least 0;
    infinite where hues cancel out; NaN where the changes are grey, with a mean chroma below LEAST_CHROMA.

    Args:
        frames: (3, H, W) in [0, 1] each, of any number; one at a time, of an iterator as well.
        sources: as many.
    """
    points = [_colour_point(frame - source) for frame, source in zip(frames, sources, strict=True)]
    chroma, together = sum(map(abs, points)), abs(sum(points))
    if chroma < LEAST_CHROMA * max(len(points), 1):
        return math.nan
    # rounding may leave more together than there is
    return math.degrees(math.sqrt(2 * math.log(max(1, chroma / together)))) if together else math.inf


def _colour_point(change: Tensor) -> complex:
    """The mean of a change of colour (3, H, W) on the plane of colours, grey at 0."""
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
