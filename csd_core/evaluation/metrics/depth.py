"""How far views of a scene differ where its geometry says that they show the same.

Pictures are (N, 3, H, W) in [0, 1]; cameras are pinholes in nerfstudio's convention: x right, y up, looking
along -z; pixel centres at half integers. Depth is the distance along the ray, as nerfacto gives it, not z.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from csd_core.errors import expect

NEAR = 0.05
"""A point is hidden where the other view's depth is shorter than its distance by more than this share."""


class Pinholes(NamedTuple):
    """Cameras of N views."""

    focal: Tensor
    """(N, 2), fx and fy in pixels."""
    centre: Tensor
    """(N, 2), cx and cy in pixels."""
    camera_to_world: Tensor
    """(N, 3, 4)."""

    def check(self, count: int) -> None:
        """Raise a UserError unless these are the cameras of `count` views."""
        for name, value, shape in zip(self._fields, self, [(2,), (2,), (3, 4)], strict=True):
            expect(value.shape == (count, *shape), name, f"({count}, {shape})", tuple(value.shape))


def reprojection_error(frames: Tensor, depths: Tensor, cameras: Pinholes) -> Tensor:
    """How far each view differs from the next at the same points of the scene: in [0, 1], lower agrees more.

    Each pixel of view k is put where its depth says, seen from view k + 1, and compared with what lies there:
        mean over the points visible in both, and the channels, of (frame_{k+1}(p') - frame_k(p))^2
    Visible is what falls inside, before the camera, and within NEAR of the depth of view k + 1. Depths are of
    the SOURCE scene, so that an edit cannot excuse itself by other geometry; the source has an error of its
    own, from light that hangs on the view and from wrong depth: it is what to compare with. As the warp error
    of videos (metrics.flow), with geometry in place of flow. The paper does not report this measure.

    Args:
        frames: (N, 3, H, W).
        depths: (N, H, W), along the ray.
        cameras: of the N views.

    Returns:
        (N - 1,); NaN where nothing is visible in both.

    Raises:
        UserError: shapes that do not fit.
    """
    shape = (len(frames), *frames.shape[2:])
    expect(frames.ndim == 4, "frames", "(N, 3, H, W)", tuple(frames.shape))
    expect(depths.shape == shape, "depths", str(shape), tuple(depths.shape))
    cameras.check(len(frames))
    errors = [_pair(frames, depths, cameras, k) for k in range(len(frames) - 1)]
    return torch.stack(errors) if errors else frames.new_zeros(0)


def _pair(frames: Tensor, depths: Tensor, cameras: Pinholes, k: int) -> Tensor:
    points = _points(depths[k], cameras, k)
    pixels, distance, before = _seen(points, cameras, k + 1)
    height, width = depths.shape[1:]
    inside = (pixels >= 0).all(dim=-1) & (pixels[..., 0] <= width) & (pixels[..., 1] <= height)
    grid = 2 * pixels / pixels.new_tensor([width, height]) - 1
    there = _fetch(depths[k + 1][None], grid)[0]
    visible = inside & before & ((there - distance).abs() <= NEAR * distance)
    difference = (_fetch(frames[k + 1], grid) - frames[k]).square()
    return difference[:, visible].mean()


def _points(depth: Tensor, cameras: Pinholes, k: int) -> Tensor:
    """Where the pixels of view k lie in the world, (H, W, 3)."""
    height, width = depth.shape
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([x, y], dim=-1).to(depth)
    across = (pixels - cameras.centre[k]) / cameras.focal[k] * depth.new_tensor([1.0, -1.0])
    rays = F.normalize(torch.cat([across, -torch.ones_like(depth)[..., None]], dim=-1), dim=-1)
    pose = cameras.camera_to_world[k]
    return (rays * depth[..., None]) @ pose[:, :3].T + pose[:, 3]


def _seen(points: Tensor, cameras: Pinholes, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points from view k: pixels (H, W, 2), distances (H, W), and whether they lie before the camera."""
    pose = cameras.camera_to_world[k]
    local = (points - pose[:, 3]) @ pose[:, :3]
    before = local[..., 2] < -1e-6
    ahead = (-local[..., 2:]).clamp(min=1e-6)
    flat = local[..., :2] / ahead * points.new_tensor([1.0, -1.0])
    return flat * cameras.focal[k] + cameras.centre[k], local.norm(dim=-1), before


def _fetch(image: Tensor, grid: Tensor) -> Tensor:
    """Values of an image (C, H, W) at a grid (H, W, 2) in [-1, 1], bilinear."""
    return F.grid_sample(image[None], grid[None], padding_mode="border", align_corners=False)[0]
