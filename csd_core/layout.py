"""How particles lie in the canvas that is optimised."""

from typing import Protocol

import torch
from torch import Tensor


class Layout(Protocol):
    """Maps a canvas of latents to particles of equal size, and gradients of particles back to the canvas."""

    @property
    def num_particles(self) -> int:
        """N."""
        ...

    def gather(self, canvas: Tensor, indices: Tensor) -> Tensor:
        """Particles (B, C, h, w) number indices (B,) of the canvas."""
        ...

    def scatter(self, gradients: Tensor, indices: Tensor, canvas: Tensor) -> Tensor:
        """Gradient of the canvas's shape: per element, the mean over the particles that cover it.

        gradients: (B, C, h, w) of particles number indices (B,). 0 where none covers.
        """
        ...


class Stack:
    """The plainest layout: canvas (N, C, h, w), particle i is canvas[i]."""

    def __init__(self, num_particles: int) -> None:
        self.num_particles = num_particles

    def gather(self, canvas: Tensor, indices: Tensor) -> Tensor:
        """See Layout."""
        return canvas[indices]

    def scatter(self, gradients: Tensor, indices: Tensor, canvas: Tensor) -> Tensor:
        """See Layout. Every particle is covered once, so the mean is the gradient itself."""
        return torch.zeros_like(canvas).index_copy(0, indices, gradients)
