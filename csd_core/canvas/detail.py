"""How an edit made at a small resolution comes back to the size of the frame.

    I      the frame, H x W
    s, e   the decoded source and the decoded edit, h x w: both lack what the autoencoder cannot hold

    none       e, enlarged: what the autoencoder lost is lost, and its flicker is in the result (appendix E)
    residual   I + (e - s), enlarged: what the autoencoder lost is lost in e and in s, and cancels
    guided     around every pixel  e - s = A s + b + r,  by least squares; without r where r is faint,
               and with A on what s lacks, so that detail is dimmed, tinted or greyed as its surroundings are
               (A and b as in the guided filter, arXiv:1505.00996; r shrinks by Wiener's factor)

With e = s the last two give I back exactly.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Detail = Literal["none", "residual", "guided"]

DETAIL: Detail = "guided"
"""The default: nearest to the true edits, see docs/videos.md."""
RADIUS = 4
"""guided: pixels of s around a pixel that its A and b are fitted on."""
EPSILON = 1e-3
"""guided: variance of s below which A fades to 0."""
NOISE = 0.05
"""guided: deviation of r, of 1, that is taken for noise of the autoencoder and of the edit."""


def carried(frame: Tensor, source: Tensor, edited: Tensor, detail: Detail) -> Tensor:
    """An edit at the frame's size.

    Args:
        frame: I, (1, 3, H, W) in [0, 1].
        source: s, (1, 3, h, w) in [0, 1].
        edited: e, likewise.
        detail: how.

    Returns:
        (1, 3, H, W) in [0, 1].
    """
    size = (frame.shape[-2], frame.shape[-1])
    if detail == "none":
        return _enlarged(edited, size).clamp(0, 1)
    difference = edited - source
    if detail == "residual":
        return (frame + _enlarged(difference, size)).clamp(0, 1)
    slope, offset = local_affine(source, difference)
    explained = _times(slope, source) + offset
    rest = difference - explained
    changed = explained + rest * shrinkage(rest)
    slope = _enlarged(slope.flatten(1, 2), size).unflatten(1, (3, 3))
    lacking = frame - _enlarged(source, size)
    return (frame + _enlarged(changed, size) + _times(slope, lacking)).clamp(0, 1)


def local_affine(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """A (n, 3, 3, h, w) and b (n, 3, h, w) with target = A source + b around each pixel."""
    slope, offset = fit_windows(source, target)
    # a pixel lies in many windows: it takes the mean of their fits
    return _box(slope.flatten(1, 2)).unflatten(1, (3, 3)), _box(offset)


def fit_windows(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The least squares of the window around each pixel, independently."""
    mean_s, mean_t = _box(source), _box(target)
    pair, means = torch.cat([source, target], dim=1), torch.cat([mean_s, mean_t], dim=1)
    products = _box((pair[:, :, None] * source[:, None]).flatten(1, 2)).unflatten(1, (6, 3))
    covariances = products - means[:, :, None] * mean_s[:, None]
    variance, shared = (x.permute(0, 3, 4, 1, 2) for x in covariances.split(3, dim=1))
    eye = torch.eye(3, device=source.device)
    slope = torch.linalg.solve(variance + EPSILON * eye, shared, left=False).permute(0, 3, 4, 1, 2)
    return slope, mean_t - _times(slope, mean_s)


def shrinkage(rest: Tensor) -> Tensor:
    """Wiener's factor (n, 1, h, w) for a rest (n, 3, h, w): near 1 where it is strong, 0 in noise."""
    energy = _box(rest.square().mean(dim=1, keepdim=True), radius=1)
    return (1 - NOISE**2 / energy.clamp(min=NOISE**2)).clamp(min=0)


def _times(matrix: Tensor, image: Tensor) -> Tensor:
    """Matrices (n, 3, 3, h, w) times colours (n, 3, h, w); einsum takes four times as long."""
    return (matrix * image[:, None]).sum(dim=2)


def _box(x: Tensor, radius: int = RADIUS) -> Tensor:
    """Means over windows of side 2 radius + 1, at the border over what there is of them; (n, c, h, w)."""
    side = 2 * radius + 1
    rows = F.avg_pool2d(x, (side, 1), stride=1, padding=(radius, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), stride=1, padding=(0, radius), count_include_pad=False)


def _enlarged(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
