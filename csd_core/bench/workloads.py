"""The models that are timed, and how they compute."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.denoisers.runtime.compiling import check_compiler
from csd_core.denoisers.runtime.precision import default_dtype, dtype_name, has_native_bfloat16
from csd_core.errors import UserError
from csd_core.method.schedule import step_generator
from csd_core.presets import VIDEO_MINI

PROMPT = "make it night"
POOL = 8
"""Pairs of (t, noise) where the preset draws afresh: M of a reuse that is not the default."""

ModelName = Literal["mini", "sd15"]
Speedup = Literal["reuse", "compile", "channels-last", "precision"]


@dataclass(frozen=True)
class Setup:
    """How an edit is computed: which of the speed-ups are on."""

    dtype: torch.dtype = torch.float32
    """Precision of the network."""
    channels_last: bool = False
    """Memory format of the network's convolutions."""
    compile: bool = False
    """Whether the network is compiled."""
    noise_pool: int = 0
    """Pairs of (t, noise) that come back (EditConfig.noise_pool)."""

    def __str__(self) -> str:
        words = [dtype_name(self.dtype), "channels_last" if self.channels_last else "contiguous"]
        words += ["compiled"] if self.compile else []
        return ", ".join([*words, f"{self.noise_pool} pairs" if self.noise_pool else "fresh draws"])

    def with_speedup(self, speedup: Speedup, device: torch.device) -> "Setup":
        """The same with one more speed-up."""
        changes: dict[Speedup, dict[str, Any]] = {
            "reuse": {"noise_pool": VIDEO_MINI.edit.noise_pool or POOL},
            "compile": {"compile": True},
            "channels-last": {"channels_last": True},
            "precision": {"dtype": half_dtype(device) or self.dtype},
        }
        return replace(self, **changes[speedup])


def missing(speedup: Speedup, device: torch.device) -> str | None:
    """Why a speed-up cannot be had on a device, or None."""
    if speedup == "precision" and half_dtype(device) is None:
        return "this processor has no bfloat16"
    if speedup == "compile":
        try:
            check_compiler(device)
        except UserError as error:
            return str(error)
    return None


PLAIN = Setup()
"""None of them: float32, contiguous, fresh draws."""


def default_setup(device: torch.device) -> Setup:
    """Those that are on by default."""
    return Setup(default_dtype(device), True, False, VIDEO_MINI.edit.noise_pool)


def half_dtype(device: torch.device) -> torch.dtype | None:
    """The type of half the bits that a device is fast in; None where it has none."""
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if has_native_bfloat16() else None


@dataclass(frozen=True)
class Workload:
    """A model and what an edit needs of it."""

    name: str
    denoiser: InstructPix2Pix
    unet: nn.Module
    size: tuple[int, int]
    """Height and width of the latents."""
    setup: Setup = PLAIN
    """How it computes."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.denoiser.device

    def __str__(self) -> str:
        return f"{self.name}: {self.device.type}, {dtype_name(self.denoiser.dtype)}"


def mini_workload(device: torch.device, setup: Setup | None = None) -> Workload:
    """The shipped editor, or where its weights are missing the same networks with random weights.

    setup: how it computes. Default: as the commands let it.
    """
    from csd_core.denoisers.loading import MINI_FOLDER, load_components

    setup = setup or default_setup(device)
    if (MINI_FOLDER / "model_index.json").is_file():
        name, components = "mini", load_components(MINI_FOLDER, torch_dtype=setup.dtype, device=device)
    else:
        name, components = "mini (random weights)", _untrained_mini(device, setup.dtype)
    denoiser = InstructPix2Pix(**components, compile=setup.compile)
    side = denoiser.native_size // denoiser.downscale
    return Workload(name, denoiser, _in_format(components["unet"], setup), (side, side), setup)


def stable_diffusion_workload(device: torch.device, setup: Setup | None = None) -> Workload:
    """A UNet of Stable Diffusion 1.5's size with random weights: 8 input channels, 64 x 64, text 77 x 768.

    setup: as in mini_workload.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    setup = setup or default_setup(device)
    with device:
        # The defaults of the class are Stable Diffusion 1's, but for the width of the text.
        unet: Any = UNet2DConditionModel(sample_size=64, in_channels=8, cross_attention_dim=768)
    _move(unet, device, setup.dtype)
    # Of the other parts only factor and channels are asked for: the engine works on latents.
    vae = AutoencoderKL(**_FOUR_LEVELS)
    identity: Any = nn.Identity()
    denoiser = _RandomText(unet, vae, identity, identity, DDIMScheduler(), compile=setup.compile)
    return Workload("Stable Diffusion 1.5 size", denoiser, _in_format(unet, setup), (64, 64), setup)


WORKLOADS: dict[ModelName, Callable[[torch.device, Setup | None], Workload]] = {
    "mini": lambda device, setup: mini_workload(device, setup),
    "sd15": lambda device, setup: stable_diffusion_workload(device, setup),
}

_FOUR_LEVELS: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (8,) * 4,
    "norm_num_groups": 8,
}


def seeded(seed: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Normal random numbers, the same on every device."""
    return torch.randn(shape, generator=step_generator(seed)).to(device)


def _untrained_mini(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    from csd_core.mini_editor.training import build

    tokenizer = build.build_tokenizer()
    networks: dict[str, Any] = {
        "unet": build.build_unet(),
        "vae": build.build_vae(),
        "text_encoder": build.build_text_encoder(tokenizer),
    }
    for name, network in networks.items():
        _move(network, device, torch.float32 if name == "vae" else dtype)
    return {**networks, "tokenizer": tokenizer, "scheduler": build.build_scheduler()}


class _RandomText(InstructPix2Pix):
    """Stands in for a text encoder, which runs once per prompt and is not what is measured."""

    def embed(self, prompts: Any) -> Tensor:
        return seeded(2, (1, 77, 768), self.device).to(self.dtype).expand(len(prompts), -1, -1)


def _in_format(unet: nn.Module, setup: Setup) -> nn.Module:
    """The network of a denoiser, which is channels_last, brought back to contiguous where a setup asks."""
    if setup.channels_last:
        return unet
    unet.register_forward_pre_hook(lambda _, args: (args[0].contiguous(), *args[1:]))
    return unet.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]


def _move(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    network.to(device)
    if dtype != torch.float32:  # diffusers warns of every cast, also of one that changes nothing
        network.to(dtype)
