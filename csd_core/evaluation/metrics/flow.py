"""Optical flow between the frames of a video, and the flicker of an edit along that flow.

Images are (3, H, W) in [0, 1]. A flow is (2, H, W) in pixels, x then y: the point that one image shows at
(x, y) is at (x, y) + flow in the other. Everything is computed on the CPU.
"""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from csd_core.errors import expect
from csd_core.image_ops import LUMA

LEAST_SIDES = (8, 12)
"""Least pixels of the short and the long side: below, OpenCV has no patch to match."""


def optical_flow(image: Tensor, target: Tensor) -> Tensor:
    """Flow from an image to a target, (2, H, W), by OpenCV's DIS (arXiv:1603.03590), medium preset.

    Computed from 8-bit luma.

    Raises:
        UserError: the images are smaller than LEAST_SIDES.
    """
    import cv2

    height, width = image.shape[-2:]
    short, long = LEAST_SIDES
    large = min(height, width) >= short and max(height, width) >= long
    expect(large, "frames", f"sides of at least {short} and {long} pixels", f"{width} x {height}")
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    no_guess = np.zeros((height, width, 2), np.float32)
    flow = dis.calc(_luma_levels(image), _luma_levels(target), no_guess)
    return torch.from_numpy(np.ascontiguousarray(flow.transpose(2, 0, 1)))


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """Sample an image (C, H, W) where the flow points to: (C, H, W), bilinear, edges repeated.

    With the flow from a frame to `image`, this is `image` warped back to that frame.
    """
    x, y = _targets(flow)
    height, width = flow.shape[-2:]
    # -1 and 1 are the centres of the first and the last pixel
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], dim=-1)
    return F.grid_sample(image[None], grid[None], padding_mode="border", align_corners=True)[0]


def visible(forward: Tensor, backward: Tensor) -> Tensor:
    """Pixels of a frame that are visible in the other frame too, (H, W) bool.

    forward, backward: flows (2, H, W) from the frame to the other, and back. A pixel is occluded where it
    leaves the image, or where forward and backward flow do not cancel:
        |f(x) + b(x + f(x))|^2 > 0.01 (|f(x)|^2 + |b(x + f(x))|^2) + 0.5
    (Sundaram, Brox, Keutzer, ECCV 2010; so used by Lai et al., see warp_error).
    """
    x, y = _targets(forward)
    height, width = forward.shape[-2:]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    returning = warp(backward, forward)
    gap = (forward + returning).square().sum(dim=0)
    lengths = forward.square().sum(dim=0) + returning.square().sum(dim=0)
    return inside & (gap <= 0.01 * lengths + 0.5)


def warp_errors(frames: Iterable[Tensor], sources: Iterable[Tensor]) -> list[tuple[float, float]]:
    """Flicker of each pair of consecutive frames, and of their sources: in [0, 1], lower is steadier.

    With f the flow from source k to source k + 1, and V the pixels of k visible in k + 1,
        mean over V and the channels of (frame_{k+1}(x + f(x)) - frame_k(x))^2
    as in Lai et al., Learning Blind Video Temporal Consistency, ECCV 2018, in the code of its authors.
    The error of the sources, from noise, light and wrong flow, is what to compare with.

    Args:
        frames: (3, H, W) in [0, 1] each; an iterator is read frame by frame.
        sources: as many, of the same size.

    Returns:
        N - 1 pairs (frames, sources); NaN where nothing is visible in both.
    """
    return [_pair_errors(*pair) for pair in pairwise(zip(frames, sources, strict=True))]


def _pair_errors(now: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Of (frame, source) and the next (frame, source)."""
    forward = optical_flow(now[1], after[1])
    seen = visible(forward, optical_flow(after[1], now[1]))
    frame, source = (
        float((warp(later, forward) - earlier).square()[:, seen].mean())
        for earlier, later in zip(now, after, strict=True)
    )
    return frame, source


def _luma_levels(image: Tensor) -> np.ndarray:
    """(H, W) uint8."""
    luma = (image.detach().cpu() * torch.tensor(LUMA)[:, None, None]).sum(dim=0)
    return luma.clamp(0, 1).mul(255).round().byte().numpy()


def _targets(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Where the flow points to from every pixel: x and y, (H, W) each."""
    height, width = flow.shape[-2:]
    return flow[0] + torch.arange(width), flow[1] + torch.arange(height)[:, None]
