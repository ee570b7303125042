"""How alike two images are.

Images are (..., 3, H, W) in [0, 1]; a mask (H, W) bool says which pixels count, by default all.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)


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
