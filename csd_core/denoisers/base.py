"""What the engine needs of a diffusion model, and all it sees. One adapter per family fulfils it."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from csd_core.method.schedule import NoiseSchedule


class Denoiser(Protocol):
    """A latent diffusion model that edits images by instruction.

    n images of H x W pixels, both multiples of downscale, have latents (n, C, H / downscale, W / downscale).
    """

    @property
    def downscale(self) -> int:
        """Pixels per latent pixel, along one side."""
        ...

    @property
    def native_size(self) -> int:
        """Side of a training image, in pixels."""
        ...

    @property
    def latent_channels(self) -> int:
        """C."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        ...

    @property
    def schedule(self) -> NoiseSchedule:
        """alpha(t), sigma(t), on the device."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Images (n, 3, H, W) in [0, 1] -> latents at the scale of the noise, float32, no randomness."""
        ...

    def encode_condition(self, images: Tensor) -> Tensor:
        """Images (n, 3, H, W) in [0, 1] -> latents as the model takes its image condition, float32."""
        ...

    def latents_of(self, condition: Tensor) -> Tensor:
        """What encode gives for the images that a condition was encoded from, without encoding them again."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents as from encode -> images (n, 3, H, W) in [0, 1], float32."""
        ...

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Instructions -> (n, tokens, dim). The empty prompt is "". Each prompt is computed once."""
        ...

    def predict_noise(self, x_t: Tensor, t: Tensor, text: Tensor, image: Tensor) -> Tensor:
        """The noise in x_t, (n, C, h, w) float32, by one evaluation of the network at batch n.

        Args:
            x_t: (n, C, h, w), noisy latents.
            t: (n,), integer timesteps.
            text: (n, tokens, dim), from embed.
            image: (n, C, h, w), from encode_condition; zeros stand for "no image".
        """
        ...
