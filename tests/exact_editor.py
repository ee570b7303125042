"""An editor without a network: its noise prediction is the exact posterior mean of a Gaussian mixture."""

from collections.abc import Sequence

import torch
from torch import Tensor

from csd_core.method.schedule import NoiseSchedule


def stable_diffusion_schedule() -> NoiseSchedule:
    """Stable Diffusion's schedule, scaled_linear from 0.00085 to 0.012 over 1000 timesteps."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return NoiseSchedule((1 - betas).cumprod(0))


class ExactEditor:
    """Each source has K equally good edits.

    With text x_0 ~ 1/K sum_k N(source + mode_k, I), without text N(source, I). alpha^2 + sigma^2 = 1 gives
    the noisy mixture unit variance too, around alpha * (source + mode_k). Images are latents (downscale 1),
    and no image means a source of zeros.

    Args:
        modes: (K, C, h, w).
    """

    downscale = 1
    device = torch.device("cpu")

    def __init__(self, modes: Tensor) -> None:
        self.modes = modes
        self.schedule = stable_diffusion_schedule()
        self.native_size, self.latent_channels = modes.shape[-1], modes.shape[1]
        self.evaluations = 0
        self.calls = 0

    def encode(self, images: Tensor) -> Tensor:
        return images.clone()

    def encode_condition(self, images: Tensor) -> Tensor:
        return images.clone()

    def latents_of(self, condition: Tensor) -> Tensor:
        return condition.clone()

    def decode(self, latents: Tensor) -> Tensor:
        return latents.clone()

    def embed(self, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([[[float(bool(prompt))]] for prompt in prompts])

    def predict_noise(self, x_t: Tensor, t: Tensor, text: Tensor, image: Tensor) -> Tensor:
        self.calls += 1
        self.evaluations += len(x_t)
        alpha, sigma = (f(t).view(-1, 1, 1, 1) for f in (self.schedule.alpha, self.schedule.sigma))
        offset = x_t - alpha * image
        # log N(offset; alpha m_k, I) up to what all k share, for modes of one norm
        share = (alpha.flatten(1) * offset.flatten(1) @ self.modes.flatten(1).T).softmax(dim=1)
        expected = torch.einsum("nk,kchw->nchw", share, self.modes)
        return sigma * (offset - alpha * expected * text.view(-1, 1, 1, 1))

    def nearest_mode(self, edited: Tensor, source: Tensor) -> Tensor:
        """For each edited latent, the number of the mode it went to."""
        return ((edited - source).flatten(1) @ self.modes.flatten(1).T).argmax(dim=1)
