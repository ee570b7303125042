"""A family that shares nothing with InstructPix2Pix: pixels, rectified flow, one branch per side."""

import torch
from torch import Tensor

from csd_core.denoisers.base import Branch, Conditioning, Denoiser, Guidance, PromptWeights
from csd_core.method.guidance import total_weight
from csd_core.method.schedule import RectifiedFlow
from csd_core.presets import Preset

TINTS = {"": (0.0, 0.0, 0.0), "redder": (0.2, 0.0, 0.0), "bluer": (0.0, 0.0, 0.2)}


class Tinter(Denoiser):
    """Knows exactly what each edit is: the source, darkened, plus a tint. Its velocity is eps - edit."""

    family = "Tinter"
    downscale, native_size, latent_channels = 1, 16, 3
    multiple = 4  # type: ignore[assignment]
    device = torch.device("cpu")
    schedule = RectifiedFlow()
    presets = {  # noqa: RUF012
        "panorama": Preset(learning_rate=2.0, batch_size=4, updates=12, least_steps=12, stride=8),
        "video": Preset(learning_rate=2.0, batch_size=4, updates=12, least_steps=12),
    }

    def encode(self, images: Tensor) -> Tensor:
        return images.clone()

    def decode(self, latents: Tensor) -> Tensor:
        return latents.clamp(0, 1)

    def encode_condition(self, images: Tensor, latents: Tensor) -> Conditioning:
        # a map with two pixels per latent pixel, and numbers that belong to the whole image
        large = images.repeat_interleave(2, -1).repeat_interleave(2, -2)
        return Conditioning(len(images), map=large, gain=torch.full((len(images), 1), 0.9))

    def guided(self, prompts: PromptWeights, num_particles: int, guidance: Guidance) -> list[Branch]:
        ones = tuple([1.0] * num_particles)
        if not prompts:
            return [Branch(True, "", ones)]
        weights = [total_weight([of[p] for of in prompts.values()]) for p in range(num_particles)]
        return [Branch(True, next(iter(prompts)), tuple(weights))]

    def conditioning(self, branch: Branch, condition: Conditioning) -> Conditioning:
        tint = torch.tensor(TINTS[branch.text]).expand(len(condition), 3)
        gain = condition.tensors["gain"] if branch.text else torch.ones(len(condition), 1)
        return Conditioning(len(condition), map=condition.tensors["map"], tint=tint, gain=gain)

    def predict_noise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        source, gain, tint = (conditioning.tensors[name] for name in ("map", "gain", "tint"))
        edit = gain[..., None, None] * source[..., ::2, ::2] + tint[..., None, None]
        eps = (x_t - self.schedule.alpha(t).view(-1, 1, 1, 1) * edit) / self.schedule.sigma(t).view(
            -1, 1, 1, 1
        )
        return self.schedule.noise_from_velocity(eps - edit, x_t, t)


def tinted(images: Tensor, prompt: str) -> Tensor:
    """The true edit of images (..., 3, H, W) in [0, 1]."""
    return (0.9 * images + torch.tensor(TINTS[prompt])[:, None, None]).clamp(0, 1)
