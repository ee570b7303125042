"""How alike two images are.

Images are (..., 3, H, W) in [0, 1]; a mask (H, W) bool says which pixels count, by default all.
"""

import math

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


def _differences(image: Tensor, mask: Tensor | None) -> Tensor:
    """Differences of neighbouring luma values, first along rows, then along columns, as one vector."""
    luma = (image * image.new_tensor(LUMA)[:, None, None]).sum(dim=0)
    counts = torch.ones_like(luma, dtype=torch.bool) if mask is None else mask
    rows = luma.diff(dim=1)[counts[:, 1:] & counts[:, :-1]]
    columns = luma.diff(dim=0)[counts[1:] & counts[:-1]]
    return torch.cat([rows, columns])
