import math

import pytest
import torch
from torch import Tensor

from csd_core.errors import UserError
from csd_core.metrics.depth import Pinholes, reprojection_error

SIZE, FOCAL = 48, 60.0


def pose(x: float, angle: float = 0.0) -> Tensor:
    """A camera at (x, 0, 0) that looks along -z, turned about y."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, 0.0, s, x], [0.0, 1.0, 0.0, 0.0], [-s, 0.0, c, 0.0]])


def cameras(*poses: Tensor) -> Pinholes:
    count = len(poses)
    return Pinholes(torch.full((count, 2), FOCAL), torch.full((count, 2), SIZE / 2), torch.stack(poses))


def rays(camera: Tensor) -> Tensor:
    """Unit rays of all pixels in the world, (H, W, 3)."""
    at = (torch.arange(SIZE) + 0.5 - SIZE / 2) / FOCAL
    y, x = torch.meshgrid(-at, at, indexing="ij")
    local = torch.stack([x, y, -torch.ones_like(x)], dim=-1)
    return local / local.norm(dim=-1, keepdim=True) @ camera[:, :3].T


def colours(points: Tensor) -> Tensor:
    """A smooth pattern painted on the world, (3, H, W)."""
    return torch.stack([0.5 + 0.4 * torch.sin(points[..., k] * 2 + k) for k in (0, 1, 0)])


def wall(camera: Tensor) -> tuple[Tensor, Tensor]:
    """A wall at z = -4: picture and depth along the ray."""
    rows = rays(camera)
    depth = -4 / rows[..., 2]
    return colours(camera[:, 3] + rows * depth[..., None]), depth


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


def test_a_change_of_one_view_counts_with_its_square() -> None:
    frames, depths = walls(*POSES)
    frames[1] += 0.1
    errors = reprojection_error(frames, depths, cameras(*POSES))
    assert errors.tolist() == pytest.approx([0.01, 0.01], rel=0.02)


def test_depth_is_taken_along_the_ray() -> None:
    frames, depths = walls(*POSES)
    z = depths * torch.stack([-(rays(p) @ p[:, :3])[..., 2] for p in POSES])
    errors = reprojection_error(frames, z, cameras(*POSES))
    assert not float(errors.max()) < 1e-5


def test_what_the_next_view_hides_does_not_count() -> None:
    """A dark board before the wall in the second view alone covers points of the first."""
    frames, depths = walls(*POSES[:2])
    frames[1, :, 10:30, 10:30] = 0
    depths[1, 10:30, 10:30] = 1.0
    errors = reprojection_error(frames, depths, cameras(*POSES[:2]))
    assert float(errors[0]) < 1e-3
    depths[1] = walls(*POSES[:2])[1][1]
    assert float(reprojection_error(frames, depths, cameras(*POSES[:2]))[0]) > 1e-2


def test_views_that_share_nothing_have_no_error() -> None:
    apart = (pose(0.0), pose(0.0, math.pi))
    frames, depths = walls(apart[0], apart[0])
    assert math.isnan(float(reprojection_error(frames, depths, cameras(*apart))[0]))


def test_one_view_has_no_pairs() -> None:
    frames, depths = walls(POSES[0])
    assert reprojection_error(frames, depths, cameras(POSES[0])).shape == (0,)


def test_shapes_that_do_not_fit() -> None:
    frames, depths = walls(*POSES)
    with pytest.raises(UserError, match="depths"):
        reprojection_error(frames, depths[:, 1:], cameras(*POSES))
    with pytest.raises(UserError, match="focal"):
        reprojection_error(frames, depths, cameras(*POSES[:2]))
