"""The order in which views are edited; views of mixed sizes in one tensor. Images are (3, H, W) in [0, 1]."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from csd_core.method.schedule import step_generator


@dataclass
class ViewDeck:
    """Draws views without replacement until all were drawn, then shuffles again.

    The draws depend only on seed, num_views and the sizes of the draws before.
    """

    num_views: int
    seed: int
    epoch: int = 0
    remaining: list[int] = field(default_factory=list)

    def draw(self, count: int) -> list[int]:
        """The next `count` views, all different; all views where there are fewer than `count`."""
        count = min(count, self.num_views)
        drawn, self.remaining = self.remaining[:count], self.remaining[count:]
        if len(drawn) < count:
            generator = step_generator(self.seed, self.epoch, 1, 0, 0)
            order = torch.randperm(self.num_views, generator=generator).tolist()
            fresh = [view for view in order if view not in drawn]
            added = fresh[: count - len(drawn)]
            self.remaining = [view for view in order if view not in added]
            self.epoch += 1
            drawn += added
        return drawn


def round_seed(seed: int, number: int) -> int:
    """The seed of the editor in round `number`."""
    return int(torch.randint(2**31, (), generator=step_generator(seed, number, 0, 0, 0)))


def pad_to_one_shape(images: Sequence[Tensor]) -> Tensor:
    """Images (3, H_i, W_i) -> (N, 3, max H, max W), mirrored at the lower and right edge."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    return torch.stack([_mirror(_mirror(image, 1, height), 2, width) for image in images])


def _mirror(image: Tensor, axis: int, length: int) -> Tensor:
    size = image.shape[axis]
    if size == length:
        return image
    period = max(1, 2 * (size - 1))
    position = torch.arange(length, device=image.device) % period
    return image.index_select(axis, torch.minimum(position, period - position).clamp(max=size - 1))


def on_white(image: Tensor) -> Tensor:
    """A photo (H, W, 3 or 4) in [0, 1] -> (3, H, W), composed on white as in training."""
    colour, alpha = image[..., :3], image[..., 3:]
    if alpha.shape[-1]:
        colour = colour * alpha + (1 - alpha)
    return colour.permute(2, 0, 1)


def to_bytes(image: Tensor) -> Tensor:
    """(3, H, W) in [0, 1] -> uint8, rounded to the nearest."""
    return (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def to_float(image: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1]."""
    return image.to(torch.float32) / 255
