"""An editor without a network: its noise prediction is the exact posterior mean of a Gaussian mixture."""

import torch
from torch import Tensor

from csd_core.denoisers.base import Branch, Conditioning, Denoiser
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.method.schedule import Schedule, stable_diffusion_schedule
from csd_core.presets import INSTRUCT_PIX2PIX


class ExactEditor(Denoiser):
    """Each source has K equally good edits.

    With text x_0 ~ 1/K sum_k N(source + mode_k, I), without text N(source, I). Normalised to
    alpha^2 + sigma^2 = 1 the noisy mixture has unit variance too, around alpha * (source + mode_k). Images
    are latents (downscale 1), and no image means a source of zeros.

    Args:
        modes: (K, C, h, w).
        schedule: of either kind.
    """

    downscale = 1
    device = torch.device("cpu")
    presets = INSTRUCT_PIX2PIX

    def __init__(self, modes: Tensor, schedule: Schedule | None = None) -> None:
        self.modes = modes
        self.schedule = schedule or stable_diffusion_schedule()
        self.native_size, self.latent_channels = modes.shape[-1], modes.shape[1]
        self.evaluations = 0
        self.calls = 0

    def encode(self, images: Tensor) -> Tensor:
        return images.clone()

    def decode(self, latents: Tensor) -> Tensor:
        return latents.clone()

    def encode_condition(self, images: Tensor, latents: Tensor) -> Conditioning:
        return Conditioning(len(latents), image=latents)

    guided = InstructPix2Pix.guided  # Eq. 3

    def conditioning(self, branch: Branch, condition: Conditioning) -> Conditioning:
        image = condition.tensors["image"]
        text = torch.full((len(image),), float(bool(branch.text)))
        return Conditioning(len(image), image=image if branch.image else torch.zeros_like(image), text=text)

    def predict_noise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        self.calls += 1
        self.evaluations += len(x_t)
        image, text = conditioning.tensors["image"], conditioning.tensors["text"]
        alpha, sigma = (f(t).view(-1, 1, 1, 1) for f in (self.schedule.alpha, self.schedule.sigma))
        scale = (alpha.square() + sigma.square()).sqrt()
        alpha, sigma = alpha / scale, sigma / scale
        offset = x_t / scale - alpha * image
        # log N(offset; alpha m_k, I) up to what all k share, for modes of one norm
        share = (alpha.flatten(1) * offset.flatten(1) @ self.modes.flatten(1).T).softmax(dim=1)
        expected = torch.einsum("nk,kchw->nchw", share, self.modes)
        return sigma * (offset - alpha * expected * text.view(-1, 1, 1, 1))

    def nearest_mode(self, edited: Tensor, source: Tensor) -> Tensor:
        """For each edited latent, the number of the mode it went to."""
        return ((edited - source).flatten(1) @ self.modes.flatten(1).T).argmax(dim=1)
