"""Renders of a scene from the cameras of a capture, also at a smaller size than theirs."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from csd_core.engine.ranks import ALONE, Ranks
from csd_nerf.editing.progress import RunProgress

if TYPE_CHECKING:
    from csd_nerf.csd_model import CSDModel

Size = tuple[int, int]
"""Height, width."""


@torch.no_grad()
def render_pixels(
    model: "CSDModel",
    cameras: Cameras,
    which: Tensor,
    coords: Tensor,
    *,
    training_poses: bool,
    advance: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """Colours of n pixels, (n, 3) in [0, 1], on the CPU.

    Args:
        model: the scene.
        cameras: of the training views or of the held-out ones.
        which: (n, 1), numbers of cameras.
        coords: (n, 2), rows and columns, pixel centres at 0.5.
        training_poses: these are the training views, whose poses the scene may have optimised.
        advance: called with the number of pixels of each chunk.
    """
    done, chunk = [], model.config.eval_num_rays_per_chunk
    for part in zip(which.split(chunk), coords.split(chunk), strict=True):
        rays = cameras.generate_rays(*part).to(model.device)
        if training_poses:
            model.camera_optimizer.apply_to_raybundle(rays)  # the same rays as in training
        done.append(model.render_rgb(rays).cpu())
        advance(len(rays))
    return torch.cat(done).clamp(0, 1)


def render_views(
    model: "CSDModel",
    cameras: Cameras,
    views: Sequence[int],
    sizes: Sequence[Size],
    progress: RunProgress,
    ranks: Ranks = ALONE,
) -> list[Tensor]:
    """Render training views, (3, h, w) in [0, 1], h and w at most `sizes` and at most the camera's."""
    full = [(int(cameras.height[view]), int(cameras.width[view])) for view in views]
    sizes = [min(asked, own) for asked, own in zip(sizes, full, strict=True)]
    coords = [_pixel_centres(size, own) for size, own in zip(sizes, full, strict=True)]
    which = [torch.full((len(c), 1), view) for c, view in zip(coords, views, strict=True)]
    rays = sum(map(len, coords))
    with progress.task("rendering", -(-rays // ranks.world_size)) as advance:

        def colours(which: Tensor, coords: Tensor) -> Tensor:
            return render_pixels(model, cameras, which, coords, training_poses=True, advance=advance)

        device = cameras.device
        rendered = ranks.split_and_gather(colours, torch.cat(which).to(device), torch.cat(coords).to(device))
    return [
        image.view(height, width, 3).permute(2, 0, 1)
        for image, (height, width) in zip(rendered.split([h * w for h, w in sizes]), sizes, strict=True)
    ]


def _pixel_centres(size: Size, full: Size) -> Tensor:
    """Centres of the h x w pixels of `size`, (h w, 2), in the coordinates of a camera of size `full`."""
    y, x = ((torch.arange(n) + 0.5) * (whole / n) for n, whole in zip(size, full, strict=True))
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).view(-1, 2)
