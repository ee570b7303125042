"""How particles lie in the canvas that is optimised."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from csd_core.denoisers.base import Conditioning


class Layout(Protocol):
    """Maps a canvas of latents to particles of equal size, and steps of particles back to the canvas."""

    @property
    def num_particles(self) -> int:
        """N."""
        ...

    def gather(self, canvas: Tensor, particles: Sequence[int]) -> Tensor:
        """The particles (B, C, h, w) of the canvas with these numbers; a copy.

        The canvas may also be something beside it: maps with an integer number of pixels per latent pixel, or
        rows that belong to whole images (see Denoiser.encode_condition).
        """
        ...

    def descend(self, canvas: Tensor, steps: Tensor, particles: Sequence[int]) -> None:
        """Subtract from the canvas, in place: for each element, the mean over the particles that cover it.

        steps: (B, C, h, w), learning rate times gradient of the particles with these numbers.
        """
        ...


def gather_condition(layout: Layout, condition: Conditioning, particles: Sequence[int]) -> Conditioning:
    """The condition of the particles with these numbers, as Layout.gather."""
    return condition.map(lambda x: layout.gather(x, particles), len(particles))


class Stack:
    """The plainest layout: canvas (N, C, h, w), particle i is canvas[i]."""

    def __init__(self, num_particles: int) -> None:
        self.num_particles = num_particles

    def gather(self, canvas: Tensor, particles: Sequence[int]) -> Tensor:
        """See Layout."""
        return canvas[_on(canvas, particles)]

    def descend(self, canvas: Tensor, steps: Tensor, particles: Sequence[int]) -> None:
        """See Layout. Every particle is covered once, so the mean is the step itself."""
        canvas[_on(canvas, particles)] -= steps


def _on(canvas: Tensor, particles: Sequence[int]) -> Tensor:
    # non_blocking: the copy does not make the host wait for the device
    return torch.tensor(particles).to(canvas.device, non_blocking=True)
