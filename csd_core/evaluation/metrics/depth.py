"""Difference of views of a scene at the same points of its geometry.

Pictures are (N, 3, H, W) in [0, 1]; cameras are pinholes in nerfstudio's convention: x right, y up, looking
along -z; pixel centres at half integers. Depth is the distance along the ray, as nerfacto gives it, not z.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NEAR = 0.05
"""Relative difference of depths above which a point counts as occluded."""


class Pinholes(NamedTuple):
    """Cameras of N views."""

    focal: Tensor
    """(N, 2), fx and fy in pixels."""
    centre: Tensor
    """(N, 2), cx and cy in pixels."""
    camera_to_world: Tensor
    """(N, 3, 4)."""


def reprojection_error(frames: Tensor, depths: Tensor, cameras: Pinholes) -> Tensor:
    """Difference of each view from the next at the same points of the scene: in [0, 1], lower agrees more.

    Each pixel p of view k is unprojected by its depth, projected to p' in view k + 1, and compared:
        mean over the points visible in both, and the channels, of (frame_{k+1}(p') - frame_k(p))^2
    A point is visible where it projects inside the image, in front of the camera, and its distance is within
    NEAR of the depth of view k + 1. Pass the depths of the SOURCE scene, so that an edit with other geometry
    gets no lower error; compare with the error of the source itself, from view-dependent light and wrong
    depth. As the warp error of videos (metrics.flow), by geometry. The paper does not report this measure.

    Args:
        frames: (N, 3, H, W).
        depths: (N, H, W), along the ray.
        cameras: of the N views.

    Returns:
        (N - 1,); NaN where nothing is visible in both.
    """
    errors = [_pair(frames, depths, cameras, k) for k in range(len(frames) - 1)]
    return torch.stack(errors) if errors else frames.new_zeros(0)


def _pair(frames: Tensor, depths: Tensor, cameras: Pinholes, k: int) -> Tensor:
    points = _points(depths[k], cameras, k)
    pixels, distance, in_front = _seen(points, cameras, k + 1)
    height, width = depths.shape[1:]
    inside = (pixels >= 0).all(dim=-1) & (pixels[..., 0] <= width) & (pixels[..., 1] <= height)
    grid = 2 * pixels / pixels.new_tensor([width, height]) - 1
    there = _fetch(depths[k + 1][None], grid)[0]
    visible = inside & in_front & ((there - distance).abs() <= NEAR * distance)
    difference = (_fetch(frames[k + 1], grid) - frames[k]).square()
    return difference[:, visible].mean()


def _points(depth: Tensor, cameras: Pinholes, k: int) -> Tensor:
    """The points of the pixels of view k, in world coordinates, (H, W, 3)."""
    height, width = depth.shape
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([x, y], dim=-1).to(depth)
    across = (pixels - cameras.centre[k]) / cameras.focal[k] * depth.new_tensor([1.0, -1.0])
    rays = F.normalize(torch.cat([across, -torch.ones_like(depth)[..., None]], dim=-1), dim=-1)
    pose = cameras.camera_to_world[k]
    return (rays * depth[..., None]) @ pose[:, :3].T + pose[:, 3]


def _seen(points: Tensor, cameras: Pinholes, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points seen from view k: pixels (H, W, 2), distances (H, W), whether in front of the camera (H, W)."""
    pose = cameras.camera_to_world[k]
    local = (points - pose[:, 3]) @ pose[:, :3]
    in_front = local[..., 2] < -1e-6
    ahead = (-local[..., 2:]).clamp(min=1e-6)
    flat = local[..., :2] / ahead * points.new_tensor([1.0, -1.0])
    return flat * cameras.focal[k] + cameras.centre[k], local.norm(dim=-1), in_front


def _fetch(image: Tensor, grid: Tensor) -> Tensor:
    """Values of an image (C, H, W) at a grid (H, W, 2) in [-1, 1], bilinear."""
    return F.grid_sample(image[None], grid[None], padding_mode="border", align_corners=False)[0]
