import math

import pytest
import torch
from torch import Tensor

from csd_core.evaluation.metrics.depth import Pinholes, reprojection_error

SIZE, FOCAL = 48, 60.0


def pose(x: float, angle: float = 0.0) -> Tensor:
    """A camera at (x, 0, 0) that looks along -z, turned about y."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, 0.0, s, x], [0.0, 1.0, 0.0, 0.0], [-s, 0.0, c, 0.0]])


def cameras(*poses: Tensor) -> Pinholes:
    count = len(poses)
    return Pinholes(torch.full((count, 2), FOCAL), torch.full((count, 2), SIZE / 2), torch.stack(poses))


def rays_of(lenses: Pinholes, k: int, height: int, width: int) -> Tensor:
    """Unit rays of all pixels in the world, (H, W, 3)."""
    (fx, fy), (cx, cy) = lenses.focal[k], lenses.centre[k]
    across = (torch.arange(width) + 0.5 - cx) / fx
    up = -(torch.arange(height) + 0.5 - cy) / fy
    y, x = torch.meshgrid(up, across, indexing="ij")
    local = torch.stack([x, y, -torch.ones_like(x)], dim=-1)
    return local / local.norm(dim=-1, keepdim=True) @ lenses.camera_to_world[k][:, :3].T


def rays(camera: Tensor) -> Tensor:
    return rays_of(cameras(camera), 0, SIZE, SIZE)


def colours(points: Tensor) -> Tensor:
    """A smooth pattern painted on the world, (3, H, W)."""
    return torch.stack([0.5 + 0.4 * torch.sin(points[..., k] * 2 + k) for k in (0, 1, 0)])


def wall(camera: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A wall at z = -4: picture and depth along the ray."""
    rows = rays(camera) if rows is None else rows
    depth = -4 / rows[..., 2]
    return colours(camera[:, 3] + rows * depth[..., None]), depth


def ball(camera: Tensor) -> tuple[Tensor, Tensor]:
    """A ball of radius 0.6 around (0.4, 0, -2.5), in other colours, before the wall."""
    rows, (_, depth) = rays(camera), wall(camera)
    away = camera[:, 3] - torch.tensor([0.4, 0.0, -2.5])
    along = (rows * away).sum(dim=-1)
    inside = along.square() - away.square().sum() + 0.36
    depth = torch.where(inside > 0, -along - inside.clamp(min=0).sqrt(), depth)
    points = camera[:, 3] + rows * depth[..., None]
    return torch.where(inside > 0, 1 - colours(points + 1), colours(points)), depth


def walls(*poses: Tensor) -> tuple[Tensor, Tensor]:
    frames, depths = zip(*map(wall, poses), strict=True)
    return torch.stack(frames), torch.stack(depths)


POSES = (pose(0.0), pose(0.5, 0.1), pose(1.0, -0.05))


def test_views_of_one_wall_agree() -> None:
    frames, depths = walls(*POSES)
    errors = reprojection_error(frames, depths, cameras(*POSES))
    assert errors.shape == (2,)
    assert float(errors.max()) < 1e-5
    assert float((frames[0] - frames[1]).square().mean()) > 1e-3  # as pictures they differ
    frames[1] += 0.1  # a change of one view counts with its square
    errors = reprojection_error(frames, depths, cameras(*POSES))
    assert errors.tolist() == pytest.approx([0.01, 0.01], rel=0.02)


def test_lenses_that_are_not_alike() -> None:
    """Pictures that are wider than high, other foci along x and y, and centres that wander."""
    height, width = 30, 44
    focal = torch.tensor([[50.0, 70.0], [56.0, 64.0]])
    centre = torch.tensor([[20.0, 8.0], [24.0, 24.0]])
    at = Pinholes(focal, centre, torch.stack(POSES[:2]))
    drawn = [wall(p, rays_of(at, k, height, width)) for k, p in enumerate(POSES[:2])]
    frames, depths = (torch.stack(parts) for parts in zip(*drawn, strict=True))
    assert float(reprojection_error(frames, depths, at)[0]) < 1e-5
    frames[1, :, :, height + 1 :] += 0.5  # what lies far to the right counts
    assert float(reprojection_error(frames, depths, at)[0]) > 1e-3


def test_a_sphere_hides_other_parts_of_the_wall_in_each_view() -> None:
    at = cameras(*POSES[:2])
    seen = [ball(p) for p in POSES[:2]]
    frames, depths = (torch.stack(parts) for parts in zip(*seen, strict=True))
    error = reprojection_error(frames, depths, at)
    assert float(error[0]) < 5e-4
    far = depths.clamp(min=float(depths.max()))  # by the depth of the wall alone the sphere does not agree
    assert float(reprojection_error(frames, far, at)[0]) > 5e-3


def test_what_lies_behind_the_next_view_is_not_seen_in_it() -> None:
    """A pixel on the axis stays on the axis of a camera that is turned about."""
    about = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    poses = (pose(0.0), torch.cat([about, torch.zeros(3, 1)], dim=1))
    frames, depths = walls(poses[0], poses[0])
    on_a_pixel = cameras(*poses)._replace(centre=torch.full((2, 2), SIZE / 2 + 0.5))
    assert math.isnan(float(reprojection_error(frames, depths, on_a_pixel)[0]))


def test_views_that_share_nothing_have_no_error() -> None:
    apart = (pose(0.0), pose(0.0, math.pi))
    frames, depths = walls(apart[0], apart[0])
    assert math.isnan(float(reprojection_error(frames, depths, cameras(*apart))[0]))
    assert reprojection_error(frames[:1], depths[:1], cameras(apart[0])).shape == (0,)  # one has no pairs
