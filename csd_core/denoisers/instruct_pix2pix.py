"""InstructPix2Pix (arXiv:2211.09800) from diffusers' components.

Its UNet takes [x_t, image] along the channels. It was trained with SCALED noisy latents and UNSCALED image
latents (here the mode of the posterior for both), zeros for "no image" and the empty prompt for "no text".
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from csd_core.denoisers.base import (
    Branch,
    Conditioning,
    Denoiser,
    Evaluations,
    Guidance,
    PromptWeights,
    SamplingConfig,
)
from csd_core.denoisers.runtime.compiling import compile_network
from csd_core.denoisers.runtime.device import resolve_device
from csd_core.denoisers.runtime.loading import (
    WAY_OUT,
    check_number,
    load_network,
    load_scheduler,
    load_tokenizer,
    read_config,
)
from csd_core.denoisers.runtime.offloading import Offloaded
from csd_core.denoisers.runtime.vae import Autoencoder
from csd_core.errors import UserError
from csd_core.method.guidance import instruct_pix2pix_weights, total_weight
from csd_core.method.schedule import VariancePreserving
from csd_core.presets import INSTRUCT_PIX2PIX, Presets

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
        StableDiffusionInstructPix2PixPipeline,
    )

COMPONENTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "tokenizer": None,
    "scheduler": None,
}
"""See runtime/loading.py."""


_LARGEST_SAMPLE = 1024
_LARGEST_FACTOR = 1e3


def check_configs(folder: Path, name: str) -> None:
    """See families.Family; what has no weights, tokenizer and scheduler, is loaded once."""
    configs = {component: read_config(folder, component, name) for component in COMPONENTS}
    unet, vae, where = configs["unet"], configs["vae"], f"model {name!r}: {{}}/config.json"
    check_number(unet, "in_channels", 4, 4096, where.format("unet"))
    check_number(unet, "sample_size", None, _LARGEST_SAMPLE, where.format("unet"))
    check_number(vae, "latent_channels", 4, 4096, where.format("vae"))
    check_number(vae, "scaling_factor", 1.0, _LARGEST_FACTOR, where.format("vae"))
    latents, channels = vae.get("latent_channels", 4), unet.get("in_channels", 4)
    if channels != 2 * latents:
        raise UserError(
            f"model {name!r}: expected an InstructPix2Pix model, whose UNet takes {2 * latents} channels "
            f"(noisy latents and image), got one that takes {channels}; choose another, or {WAY_OUT}"
        )
    kind = configs["scheduler"].get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction"):
        raise UserError(f"model {name!r}: expected prediction_type epsilon or v_prediction, got {kind!r}")
    load_scheduler(folder)
    _load_tokenizer(folder, name)


def load(
    folder: Path, *, dtype: torch.dtype, device: torch.device, variant: str | None = None, **how: Any
) -> "InstructPix2Pix":
    """See families.Family.

    Raises:
        UserError: a weight file is damaged or does not belong to its config.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel

    vae_class = read_config(folder, "vae", str(folder)).get("_class_name")
    vae = AutoencoderTiny if vae_class == "AutoencoderTiny" else AutoencoderKL
    return InstructPix2Pix(
        unet=load_network(UNet2DConditionModel, folder, "unet", variant, torch_dtype=dtype),
        vae=load_network(vae, folder, "vae", variant, torch_dtype=torch.float32),
        text_encoder=load_network(CLIPTextModel, folder, "text_encoder", variant, dtype=dtype),
        tokenizer=_load_tokenizer(folder, str(folder)),
        scheduler=load_scheduler(folder),
        device=device,
        **how,
    )


def _load_tokenizer(folder: Path, name: str) -> Any:
    from transformers import CLIPTokenizer

    text, where = read_config(folder, "text_encoder", name), f"model {name!r}: text_encoder/config.json"
    check_number(text, "vocab_size", 49408, 10**7, where)
    check_number(text, "max_position_embeddings", 77, 10**5, where)
    vocabulary, length = text.get("vocab_size", 49408), text.get("max_position_embeddings", 77)
    return load_tokenizer(CLIPTokenizer, folder, vocabulary=vocabulary, length=length)


class InstructPix2Pix(Denoiser):
    """InstructPix2Pix behind the contract.

    Args:
        unet: 2 C input channels; its dtype is the dtype of the predictions.
        vae: C latent channels, AutoencoderKL or the small AutoencoderTiny; it is used in float32, whatever
            the UNet's dtype.
        text_encoder: CLIP.
        tokenizer: the one that belongs to it.
        scheduler: any diffusers scheduler with alphas_cumprod; predicts epsilon or v.
        compile: compile the UNet (torch.compile), again for every shape that it meets.
        offload: keep the networks in the memory of the host, except the one at work.
        device: where the networks compute; they are moved there. Default: where the UNet is.
        presets: settings that suit the model.
        prompt_note: what users should know of a prompt; of a model that was taught few wordings.

    Attributes:
        vae: the autoencoder, with its tiles.
        dtype: precision of the UNet.
    """

    family = "InstructPix2Pix"
    schedule: VariancePreserving

    def __init__(
        self,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        *,
        compile: bool = False,
        offload: bool = False,
        device: torch.device | None = None,
        presets: Presets = INSTRUCT_PIX2PIX,
        prompt_note: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        # diffusers' own properties walk all parameters at every call; and what is offloaded is elsewhere
        self.device, self.dtype = device or unet.device, unet.dtype
        self.presets, self._prompt_note = presets, prompt_note
        self.downscale = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.native_size: int = unet.config["sample_size"] * self.downscale
        self.vae = Autoencoder(vae, self.native_size)
        self.latent_channels = self.vae.latent_channels
        self._unet = unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self._text_encoder = text_encoder.eval().requires_grad_(False)
        self._tokenizer, self._scheduler = tokenizer, scheduler
        self._predicts_velocity = scheduler.config.prediction_type == "v_prediction"
        self._embedded: dict[str, Tensor] = {}
        # alphas_cumprod as the scheduler ended up with it: betas may have been rescaled to zero terminal SNR
        self.schedule = VariancePreserving(scheduler.alphas_cumprod).to(self.device)
        self.compiled = compile
        if compile:
            compile_network(self._unet, self.device)
        self._offloaded: Offloaded | None = None
        if offload:
            self._offloaded = Offloaded(*self._networks, self.device)
        else:
            for network in self._networks:
                network.to(self.device)

    @property
    def _networks(self) -> tuple[Any, Any, Any]:
        return self._text_encoder, self.vae.network, self._unet

    @property
    def largest_decode(self) -> int:
        """See Denoiser."""
        return self.vae.tile_above

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> "InstructPix2Pix":
        """See Denoiser; the VAE stays in float32."""
        target = self.device = resolve_device(device)
        if self._offloaded is not None:
            self._offloaded.remove()
        if dtype is not None:
            self.dtype = dtype
            self._unet.to(dtype)
            self._text_encoder.to(dtype)
        if self._offloaded is not None:
            self._offloaded = Offloaded(*self._networks, target)
        else:
            for network in self._networks:
                network.to(target)
        self.schedule = self.schedule.to(target)
        self._embedded.clear()
        return self

    def encode(self, images: Tensor) -> Tensor:
        """See Denoiser: the mode of the posterior, scaled."""
        return self.vae.encode(images.to(self.device, torch.float32)) * self.vae.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """See Denoiser."""
        return self.vae.decode(latents.to(self.device, torch.float32) / self.vae.scaling_factor)

    def encode_condition(self, images: Tensor, latents: Tensor) -> Conditioning:
        """See Denoiser: `image`, the unscaled latents."""
        return Conditioning(len(latents), image=latents / self.vae.scaling_factor)

    def guided(self, prompts: PromptWeights, num_particles: int, guidance: Guidance) -> list[Branch]:
        """See Denoiser: Eq. 3. Nothing, the image, and the image with each of the prompts."""
        s_t, s_i = guidance.guidance_scale, guidance.image_guidance_scale
        shares = [[of[p] for of in prompts.values()] for p in range(num_particles)]
        weights = [instruct_pix2pix_weights(s_t * total_weight(of), s_i) for of in shares]
        return [
            Branch(False, guidance.negative_prompt, tuple(weight.unconditional for weight in weights)),
            Branch(True, guidance.negative_prompt, tuple(weight.image for weight in weights)),
            *(Branch(True, text, tuple(s_t * share for share in of)) for text, of in prompts.items()),
        ]

    def conditioning(self, branch: Branch, condition: Conditioning) -> Conditioning:
        """See Denoiser: `image`, zeros for none, and `text` (n, tokens, dim)."""
        image = condition.tensors["image"]
        if not branch.image:
            image = image.new_zeros(()).expand_as(image)
        return Conditioning(
            len(condition), image=image, text=self._embed(branch.text).expand(len(image), -1, -1)
        )

    @torch.no_grad()
    def predict_noise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """See Denoiser: one UNet evaluation."""
        image, text = conditioning.tensors["image"], conditioning.tensors["text"]
        sample = torch.cat([x_t, image], dim=1).to(self.dtype, memory_format=torch.channels_last)
        # contiguous: one t or one text for all rows would be another layout, which is compiled again
        (predicted,) = self._unet(
            sample,
            t.contiguous(),
            encoder_hidden_states=text.to(self.dtype).contiguous(),
            return_dict=False,
        )
        predicted = predicted.float().contiguous()
        return self.schedule.noise_from_velocity(predicted, x_t, t) if self._predicts_velocity else predicted

    def prompt_note(self, prompt: str) -> str | None:
        """See Denoiser."""
        return self._prompt_note(prompt)

    @contextmanager
    def count_evaluations(self) -> Iterator[Evaluations]:
        """See Denoiser; those of `sample`, too."""
        counted = Evaluations()

        def count(_: Any, args: tuple[Any, ...], _result: Any) -> None:  # after: what fails is no evaluation
            counted.count += len(args[0])

        hook = self._unet.register_forward_hook(count)
        try:
            yield counted
        finally:
            hook.remove()

    # ---- the baselines

    def sample(
        self,
        images: Conditioning,
        prompt: str,
        config: SamplingConfig,
        generators: Sequence[torch.Generator],
        *,
        corners: Sequence[tuple[int, int]] | None = None,
        start: tuple[Tensor, float] | None = None,
        callback: Callable[[int], None] | None = None,
    ) -> Tensor:
        """See Denoiser: diffusers' StableDiffusionInstructPix2PixPipeline."""
        from csd_core.denoisers.instruct_pix2pix_sampling import Model, sample

        texts = [self._embed(text).expand(len(images), -1, -1) for text in (prompt, config.negative_prompt)]
        model = Model(self.pipeline().components, self.device, self.dtype, self.compiled)
        return sample(
            model,
            images.tensors["image"],
            (texts[0], texts[1]),
            config,
            generators,
            corners=corners,
            start=start,
            callback=callback,
        )

    def num_sampling_calls(self, config: SamplingConfig) -> int:
        """See Denoiser."""
        config.check()
        trained = self.schedule.num_timesteps
        if config.num_inference_steps >= trained:
            raise UserError(
                f"num_inference_steps: expected fewer than the model's {trained} timesteps, "
                f"got {config.num_inference_steps}"
            )
        scheduler: Any = self.pipeline().scheduler
        scheduler.set_timesteps(config.num_inference_steps)
        return len(scheduler.timesteps)

    def pipeline(self) -> "StableDiffusionInstructPix2PixPipeline":
        """Diffusers' own pipeline over the same networks, with a scheduler of its own and no progress bar."""
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
            StableDiffusionInstructPix2PixPipeline,
        )

        parts: dict[str, Any] = {
            "vae": self.vae.network,
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

    # ---- text

    def _embed(self, prompt: str) -> Tensor:
        """An instruction as (1, tokens, dim), in the dtype of the UNet. Each prompt is computed once.

        Warns when a prompt is longer than the text encoder reads.
        """
        if prompt not in self._embedded:
            self._embedded[prompt] = self._encode_text(prompt).to(self.dtype)
        return self._embedded[prompt]

    @torch.no_grad()
    def _encode_text(self, prompt: str) -> Tensor:
        length = self._tokenizer.model_max_length
        # not verbose: it would warn in words of its own
        if len(self._tokenizer(prompt, verbose=False)["input_ids"]) > length:
            warnings.warn(f"the prompt is cut after {length - 2} tokens: {prompt!r}", stacklevel=4)
        tokens = self._tokenizer(
            prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        tokens = tokens.to(self.device)
        use_mask = getattr(self._text_encoder.config, "use_attention_mask", False)
        mask = tokens["attention_mask"] if use_mask else None
        output: Any = self._text_encoder(tokens["input_ids"], attention_mask=mask)
        if self._offloaded is not None:
            self._offloaded.text_encoder_done()
        return output[0]
