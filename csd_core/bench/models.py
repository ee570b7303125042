"""The models that are timed, and how they compute."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from csd_core.bench.config import ModelName
from csd_core.denoisers.families import MINI, load_denoiser
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.denoisers.runtime.compiling import check_compiler
from csd_core.denoisers.runtime.device import default_dtype, dtype_name
from csd_core.engine.config import EditConfig
from csd_core.errors import UserError
from csd_core.method.schedule import step_generator


@dataclass(frozen=True)
class Setup:
    """How an edit is computed: which of the speed-ups are on. By default none."""

    dtype: torch.dtype = torch.float32
    """Precision of the network."""
    channels_last: bool = False
    """Memory format of the network's convolutions."""
    compile: bool = False
    """Whether the network is compiled."""
    noise_pool: int = 0
    """Reused (t, noise) pairs (EditConfig.noise_pool)."""

    def __str__(self) -> str:
        words = [dtype_name(self.dtype), "channels_last" if self.channels_last else "contiguous"]
        words += ["compiled"] if self.compile else []
        return ", ".join([*words, f"{self.noise_pool} pairs" if self.noise_pool else "fresh noise"])


def default_setup(device: torch.device) -> Setup:
    """What is on by default."""
    return Setup(default_dtype(device), channels_last=True, noise_pool=EditConfig().noise_pool)


def speedups(device: torch.device) -> dict[str, dict[str, Any] | str]:
    """Speed-up -> the fields of a Setup that switch it on, or the reason why the device lacks it."""
    dtype = default_dtype(device)
    return {
        "reuse": {"noise_pool": EditConfig().noise_pool},
        "compile": no_compiler(device) or {"compile": True},
        "channels-last": {"channels_last": True},
        "precision": "float32 is the fastest here" if dtype == torch.float32 else {"dtype": dtype},
    }


def no_compiler(device: torch.device) -> str | None:
    """Why nothing can be compiled for a device; None where it can."""
    try:
        check_compiler(device)
    except UserError as error:
        return str(error)
    return None


@dataclass(frozen=True)
class TimedModel:
    """A model and its network."""

    name: str
    denoiser: InstructPix2Pix
    unet: nn.Module
    setup: Setup

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, h, w of an image of the size that the model was trained at."""
        side = self.denoiser.native_size // self.denoiser.downscale
        return self.denoiser.latent_channels, side, side

    def __str__(self) -> str:
        return f"{self.name}, {self.denoiser.device.type}, {dtype_name(self.denoiser.dtype)}"


def load_model(name: ModelName, device: torch.device, setup: Setup | None = None) -> TimedModel:
    """A model that computes as `setup` says. Default: default_setup."""
    setup = setup or default_setup(device)
    if name == "mini":
        loaded = load_denoiser(MINI, torch_dtype=setup.dtype, device=device, compile=setup.compile)
        denoiser = cast(InstructPix2Pix, loaded)
        unet: Any = denoiser.pipeline().unet
    else:
        denoiser, unet = _stable_diffusion(device, setup)
    if not setup.channels_last:  # the denoiser has set it
        unet.to(memory_format=torch.contiguous_format)
        unet.register_forward_pre_hook(lambda _, args: (args[0].contiguous(), *args[1:]))
    return TimedModel(name, denoiser, unet, setup)


def seeded(seed: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Normal random numbers, the same on every device."""
    return torch.randn(shape, generator=step_generator(seed)).to(device)


def _stable_diffusion(device: torch.device, setup: Setup) -> tuple[InstructPix2Pix, Any]:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    with device:
        # The defaults of the class are Stable Diffusion 1's, except the width of the text.
        unet: Any = UNet2DConditionModel(sample_size=64, in_channels=8, cross_attention_dim=768)
    if setup.dtype != torch.float32:  # diffusers warns of every cast, also of one that changes nothing
        unet.to(setup.dtype)
    levels: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (8,) * 4,
        "norm_num_groups": 8,
    }
    # Only scale and channels of the VAE are used: the edits that are timed are of latents.
    vae, unused, scheduler = AutoencoderKL(**levels), nn.Identity(), DDIMScheduler()
    parts: tuple[Any, ...] = (unet, vae, unused, unused, scheduler)
    return _RandomText(*parts, compile=setup.compile), unet


class _RandomText(InstructPix2Pix):
    """Has no text encoder, which runs once per prompt and is not what is measured."""

    def _encode_text(self, prompt: str) -> Tensor:
        return seeded(2, (1, 77, 768), self.device)
