"""InstructPix2Pix (arXiv:2211.09800) from diffusers' components.

Its UNet takes [x_t, image] along the channels. It was trained with SCALED noisy latents and UNSCALED image
latents (here the mode of the posterior for both), zeros for "no image" and the empty prompt for "no text".
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from csd_core.denoisers.runtime.batching import in_chunks
from csd_core.denoisers.runtime.compiling import check_compiler, compile_network
from csd_core.denoisers.runtime.offloading import Offloaded
from csd_core.denoisers.runtime.precision import default_dtype
from csd_core.denoisers.runtime.tiles import in_tiles
from csd_core.method.schedule import NoiseSchedule
from csd_core.mini_editor.language import unknown_prompt_message

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
        StableDiffusionInstructPix2PixPipeline,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

DEFAULT_MODEL = "timbrooks/instruct-pix2pix"


@dataclass
class Evaluations:
    """How often the network was evaluated."""

    count: int = 0
    """One for each row of a batch."""


class InstructPix2Pix:
    """InstructPix2Pix behind base.Denoiser. Not an nn.Module, so that no checkpoint ever holds it.

    Args:
        unet: 2 C input channels; its dtype is the dtype of the predictions.
        vae: C latent channels, AutoencoderKL or the small AutoencoderTiny; it is used in float32, whatever
            the UNet's dtype.
        text_encoder: CLIP.
        tokenizer: the one that belongs to it.
        scheduler: any diffusers scheduler with alphas_cumprod; predicts epsilon or v.
        language: instruction -> wordings, of a model that knows no others; a foreign prompt gets a warning.
        compile: compile the UNet (torch.compile), anew for every shape that it meets.
        offload: keep the networks in the memory of the host, but for the one at work.
        device: where the networks compute. Default: where the UNet is.

    Attributes:
        compiled: whether the UNet is compiled: a batch of another size costs time.
        tile_above: an image with a longer side, in pixels, passes the VAE in tiles.
        tile_size: side of a tile, in pixels.
        tile_overlap: how many pixels two tiles share at least.
    """

    def __init__(
        self,
        unet: "UNet2DConditionModel",
        vae: "AutoencoderKL | AutoencoderTiny",
        text_encoder: "CLIPTextModel",
        tokenizer: "CLIPTokenizer",
        scheduler: Any,
        language: Mapping[str, Sequence[str]] | None = None,
        *,
        compile: bool = False,
        offload: bool = False,
        device: torch.device | None = None,
    ) -> None:
        # diffusers' own properties walk all parameters at every call; and what is offloaded is elsewhere
        self._device, self._dtype = device or unet.device, unet.dtype
        self._unet: Any = unet.eval().requires_grad_(False)
        self._vae: Any = vae.eval().requires_grad_(False).float()
        self._text_encoder: Any = text_encoder.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._scheduler = scheduler
        self._predicts_velocity = scheduler.config.prediction_type == "v_prediction"
        self.language = language
        self._embedded: dict[str, Tensor] = {}
        # alphas_cumprod as the scheduler ended up with it: betas may have been rescaled to zero terminal SNR
        self.schedule = NoiseSchedule(scheduler.alphas_cumprod).to(self._device)
        self.downscale: int = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.native_size: int = unet.config["sample_size"] * self.downscale
        self.latent_channels: int = vae.config["latent_channels"]
        self.tile_above: int = 2 * self.native_size
        # Stable Diffusion: 768, about 6 GB to decode. The guards are 4 latent pixels of the mini editor (8 of
        # Stable Diffusion): what its decoder sees beyond them moves a pixel by less than 0.01 / 255
        self.tile_size: int = 3 * self.native_size // 2
        self.tile_overlap: int = self.native_size // 2
        self._tiny_vae = type(vae).__name__ == "AutoencoderTiny"  # by name: diffusers is imported when needed
        self._vae.use_tiling = False  # diffusers' own
        for network in (self._unet, self._vae):
            network.to(memory_format=torch.channels_last)  # as their convolutions compute
        self.compiled = compile
        if compile:
            compile_network(self._unet, self._device)
        self._offloaded = (
            Offloaded(self._text_encoder, self._vae, self._unet, self._device) if offload else None
        )

    @classmethod
    def from_pretrained(
        cls,
        id_or_path: str = DEFAULT_MODEL,
        *,
        torch_dtype: torch.dtype | Literal["auto"] = torch.float32,
        device: str | torch.device | None = "cpu",
        compile: bool = False,
        offload: bool = False,
        variant: str | None = None,
        revision: str | None = None,
        cache_dir: str | None = None,
        local_files_only: bool = False,
    ) -> "InstructPix2Pix":
        """Load a model. Reads safetensors only and runs no code from the model's repository.

        Args:
            id_or_path: a hub id, a local diffusers folder, or "mini" for the small editor in this package.
            torch_dtype: of UNet and text encoder; "auto": what suits the device, see precision.default_dtype.
                The VAE stays in float32.
            device: None takes CUDA where there is one.
            compile: compile the UNet: the first evaluation of a shape takes minutes, all others are faster.
            offload: keep the networks in the memory of the host, but for the one at work: for small devices.
            variant: "fp16" reads the half-precision files of a repository.
            revision: branch, tag or commit of a hub id.
            cache_dir: where downloads are kept.
            local_files_only: never touch the network.

        Raises:
            UserError: the model is unknown, out of reach or of another kind; CUDA is absent; nothing can be
                compiled here.
        """
        from csd_core.denoisers.loading import load_components, locate, resolve_device

        target = resolve_device(device)
        dtype = default_dtype(target) if torch_dtype == "auto" else torch_dtype
        if compile:
            check_compiler(target)
        folder = locate(
            id_or_path,
            variant=variant,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        first = torch.device("cpu") if offload else target
        components = load_components(folder, torch_dtype=dtype, device=first, variant=variant)
        return cls(**components, compile=compile, offload=offload, device=target)

    def to(self, device: str | torch.device) -> "InstructPix2Pix":
        """Move everything to a device, in place.

        Raises:
            UserError: the device is unknown or absent.
        """
        from csd_core.denoisers.loading import resolve_device

        target = self._device = resolve_device(device)
        networks = self._text_encoder, self._vae, self._unet
        if self._offloaded is not None:
            self._offloaded.remove()
            self._offloaded = Offloaded(*networks, target)
        else:
            for network in networks:
                network.to(target)
        self.schedule = self.schedule.to(target)
        self._embedded.clear()
        return self

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the UNet."""
        return self._dtype

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images (n, 3, H, W) in [0, 1] -> scaled latents (n, C, H / downscale, W / downscale), float32."""
        return self.latents_of(self.encode_condition(images))

    @torch.no_grad()
    def encode_condition(self, images: Tensor) -> Tensor:
        """Images (n, 3, H, W) in [0, 1] -> unscaled latents, as the model was trained."""
        centred = images.to(self.device, torch.float32) * 2 - 1
        return self._in_tiles(self._encode, self._vae.encoder, centred, 1, Fraction(1, self.downscale))

    def latents_of(self, condition: Tensor) -> Tensor:
        """Unscaled latents -> scaled ones, as from encode."""
        return condition * self._vae.config["scaling_factor"]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (n, C, h, w) -> images (n, 3, H, W) in [0, 1], float32."""
        unscaled = latents.to(self.device, torch.float32) / self._vae.config["scaling_factor"]
        decoded = self._in_tiles(self._decode, self._vae.decoder, unscaled, self.downscale, self.downscale)
        return (decoded / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Instructions -> (n, tokens, dim), in the dtype of the UNet. Each prompt is computed once.

        Warns when a prompt is longer than the text encoder reads, or outside the language of a small model.
        """
        for prompt in prompts:
            if prompt not in self._embedded:
                self._embedded[prompt] = self._embed(prompt).to(self._dtype)
        return torch.cat([self._embedded[prompt] for prompt in prompts])

    @torch.no_grad()
    def predict_noise(self, x_t: Tensor, t: Tensor, text: Tensor, image: Tensor) -> Tensor:
        """The noise in x_t, (n, C, h, w) float32. One UNet evaluation; arguments as in base.Denoiser."""
        sample = torch.cat([x_t, image], dim=1).to(self._dtype, memory_format=torch.channels_last)
        # contiguous: one t or one text for all rows would be another layout, which is compiled anew
        (predicted,) = self._unet(
            sample,
            t.contiguous(),
            encoder_hidden_states=text.to(self._dtype).contiguous(),
            return_dict=False,
        )
        predicted = predicted.float().contiguous()
        return self.schedule.noise_from_velocity(predicted, x_t, t) if self._predicts_velocity else predicted

    def pipeline(self) -> "StableDiffusionInstructPix2PixPipeline":
        """Diffusers' own pipeline over the same networks, with a scheduler of its own and no progress bar."""
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
            StableDiffusionInstructPix2PixPipeline,
        )

        parts: dict[str, Any] = {
            "vae": self._vae,
            "unet": self._unet,
            "text_encoder": self._text_encoder,
            "tokenizer": self._tokenizer,
            "scheduler": type(self._scheduler).from_config(self._scheduler.config),
        }
        nothing: Any = None
        made = StableDiffusionInstructPix2PixPipeline(
            **parts, safety_checker=nothing, feature_extractor=nothing, requires_safety_checker=False
        )
        made.set_progress_bar_config(disable=True)
        return made

    @contextmanager
    def count_evaluations(self) -> Iterator["Evaluations"]:
        """Counts the evaluations of the UNet inside the block, whoever asks for them."""
        counted = Evaluations()

        def count(_: Any, args: tuple[Any, ...], _result: Any) -> None:  # after: what fails is no evaluation
            counted.count += len(args[0])

        hook = self._unet.register_forward_hook(count)
        try:
            yield counted
        finally:
            hook.remove()

    def _embed(self, prompt: str) -> Tensor:
        tokenizer: Any = self._tokenizer
        length = tokenizer.model_max_length
        if len(tokenizer.tokenize(prompt)) + 2 > length:  # 2: start and end of the text
            warnings.warn(f"the prompt is cut after {length - 2} tokens: {prompt!r}", stacklevel=4)
        if self.language and (message := unknown_prompt_message(prompt, self.language)):
            warnings.warn(message, stacklevel=4)
        tokens = tokenizer(
            prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        tokens = tokens.to(self.device)
        use_mask = getattr(self._text_encoder.config, "use_attention_mask", False)
        mask = tokens["attention_mask"] if use_mask else None
        output: Any = self._text_encoder(tokens["input_ids"], attention_mask=mask)
        if self._offloaded is not None:
            self._offloaded.text_encoder_done()
        return output[0]

    def _encode(self, centred: Tensor) -> Tensor:
        encoded: Any = self._vae.encode(centred.contiguous(memory_format=torch.channels_last))
        return (encoded.latents if self._tiny_vae else encoded.latent_dist.mode()).contiguous()

    def _decode(self, unscaled: Tensor) -> Tensor:
        return self._vae.decode(unscaled.contiguous(memory_format=torch.channels_last)).sample.contiguous()

    def _in_tiles(
        self,
        function: Callable[[Tensor], Tensor],
        network: Any,
        x: Tensor,
        pixel: int,
        scale: Fraction | int,
    ) -> Tensor:
        """function(x), of large images one tile of one image at a time. pixel: pixels in a column of x."""
        if max(x.shape[-2:]) * pixel <= self.tile_above:
            return function(x)
        tile, overlap = self.tile_size // pixel, self.tile_overlap // pixel
        tiled = partial(in_tiles, function, tile=tile, overlap=overlap, scale=scale, network=network)
        return in_chunks(tiled, 1, x)
