"""Optical flow between the frames of a video, and how far an edit of it flickers along that flow.

Images are (3, H, W) in [0, 1]. A flow is (2, H, W) in pixels, x then y: what an image shows at (x, y), the
other shows at (x, y) + flow. All of it is on the CPU.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from csd_core.errors import expect
from csd_core.evaluation.metrics.pixels import LUMA

LEAST_SIDES = (8, 12)
"""Pixels that the short and the long side need, or OpenCV has no patch to match."""


def optical_flow(image: Tensor, target: Tensor) -> Tensor:
    """Flow from an image to a target, (2, H, W), by OpenCV's DIS (arXiv:1603.03590), medium preset.

    It is found on luma of 8 bits, on the CPU.

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
    """Values (C, H, W) fetched from where the flow leads, (C, H, W), bilinear; beyond the edge, the edge's.

    With the flow from a frame to `image`, this is `image` brought back to that frame.
    """
    x, y = _targets(flow)
    height, width = flow.shape[-2:]
    # -1 and 1 are the centres of the first and the last pixel
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], dim=-1)
    return F.grid_sample(image[None], grid[None], padding_mode="border", align_corners=True)[0]


def visible(forward: Tensor, backward: Tensor) -> Tensor:
    """Pixels of a frame that the other frame shows too, (H, W) bool.

    forward, backward: flows (2, H, W) from the frame to the other, and back. A pixel is hidden where it
    leaves the picture, or where there and back does not end near the start:
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


def warp_error(frames: Iterable[Tensor], sources: Iterable[Tensor]) -> float:
    """How far frames differ where the sources say that they show the same: in [0, 1], lower is steadier.

    With f the flow from source k to source k + 1, and V the pixels of k visible in k + 1, the mean over k of
        mean over V and the channels of (frame_{k+1}(x + f(x)) - frame_k(x))^2
    as in Lai et al., Learning Blind Video Temporal Consistency, ECCV 2018, in the
    code of its authors.
    The sources have an error of their own, from noise, light and wrong flow: it is what to compare with.
    Pairs where nothing is visible do not count. NaN for one frame.

    Args:
        frames: (3, H, W) in [0, 1] each. Two are held at a time, of an iterator as well.
        sources: as many, of the same size.
    """
    measured = [error for error, _ in warp_errors(frames, sources) if not math.isnan(error)]
    return sum(measured) / len(measured) if measured else math.nan


def warp_errors(frames: Iterable[Tensor], sources: Iterable[Tensor]) -> list[tuple[float, float]]:
    """The terms of warp_error, pair by pair: of the frames, and of the sources by the same flow.

    NaN where nothing is visible. Arguments as of warp_error.
    """
    errors, before = [], None
    for now in zip(frames, sources, strict=True):
        if before is not None:
            errors.append(_pair_errors(*before, *now))
        before = now
    return errors


def _pair_errors(
    frame: Tensor, source: Tensor, next_frame: Tensor, next_source: Tensor
) -> tuple[float, float]:
    forward = optical_flow(source, next_source)
    seen = visible(forward, optical_flow(next_source, source))
    pairs = ((frame, next_frame), (source, next_source))
    one, other = (float((warp(after, forward) - at).square()[:, seen].mean()) for at, after in pairs)
    return one, other


def _luma_levels(image: Tensor) -> np.ndarray:
    """(H, W) uint8."""
    luma = (image.detach().cpu() * torch.tensor(LUMA)[:, None, None]).sum(dim=0)
    return luma.clamp(0, 1).mul(255).round().byte().numpy()


def _targets(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Where the flow leads from every pixel: x and y, (H, W) each."""
    height, width = flow.shape[-2:]
    return flow[0] + torch.arange(width), flow[1] + torch.arange(height)[:, None]
