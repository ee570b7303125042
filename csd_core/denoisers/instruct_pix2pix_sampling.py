"""Sampled edits of InstructPix2Pix by diffusers' own pipeline, over an image or averaged windows of it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
    StableDiffusionInstructPix2PixPipeline,
)
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn

from csd_core.denoisers.base import ChunkSize, SamplingConfig
from csd_core.denoisers.runtime.batching import Chunks

Corner = tuple[int, int]


class Model(NamedTuple):
    """What is sampled with."""

    components: dict[str, Any]
    """Of diffusers' pipeline; the scheduler is changed."""
    device: torch.device
    dtype: torch.dtype
    """Of the UNet."""
    compiled: bool


def sample(
    model: Model,
    condition: Tensor,
    texts: tuple[Tensor, Tensor],
    config: SamplingConfig,
    generators: Sequence[torch.Generator],
    *,
    corners: Sequence[Corner] | None = None,
    start: tuple[Tensor, float] | None = None,
    callback: Callable[[int], None] | None = None,
) -> Tensor:
    """See Denoiser.sample.

    Args:
        model: the networks.
        condition: (n, C, h, w), unscaled latents of the images.
        texts: embeddings (n, tokens, dim) of the instruction and of the negative prompt.
        config, generators, corners, start, callback: see Denoiser.sample.
    """

    def report(_pipeline: Any, step: int, _t: Any, _tensors: Any) -> dict[str, Any]:
        if callback is not None:
            callback(step)
        return {}

    noise = torch.stack([torch.randn(condition.shape[1:], generator=generator) for generator in generators])
    pipeline: Any = _pipeline(model, condition, corners, config.chunk_size)
    if start is not None:
        latents, level = start
        pipeline.scheduler = _from_level(pipeline.scheduler, level, config.num_inference_steps)
        pipeline.scheduler.set_timesteps(config.num_inference_steps)
        noise = pipeline.scheduler.add_noise(latents, noise.to(latents), pipeline.scheduler.timesteps[:1])
    sampled = pipeline(
        prompt_embeds=texts[0],
        negative_prompt_embeds=texts[1],
        image=condition,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        image_guidance_scale=config.image_guidance_scale,
        generator=list(generators),
        latents=noise,
        output_type="latent",
        callback_on_step_end=report,
    )
    return sampled.images


def _from_level(usual: Any, level: float, steps: int) -> Any:
    """DDIM with all of its steps between a share of the schedule and clean."""
    ddim: Any = DDIMScheduler.from_config(usual.config)
    # alphas stay those of the whole schedule; only the timesteps are taken from its first part
    ddim.register_to_config(num_train_timesteps=max(steps, round(level * len(ddim.alphas_cumprod))))
    return ddim


def _pipeline(
    model: Model, condition: Tensor, corners: Sequence[Corner] | None, chunk_size: ChunkSize
) -> StableDiffusionInstructPix2PixPipeline:
    """Diffusers' pipeline with a WindowedUNet, whose image is the condition latents."""

    class LatentPipeline(StableDiffusionInstructPix2PixPipeline):
        """Takes the image as latents with any number of channels, and leaves them in float32."""

        @property
        def _execution_device(self) -> torch.device:
            return model.device  # diffusers asks the networks, and what is offloaded is elsewhere

        def prepare_image_latents(
            self,
            image: Tensor,
            batch_size: int,
            num_images_per_prompt: int,
            dtype: torch.dtype,
            device: torch.device,
            do_classifier_free_guidance: bool,
            generator: Any = None,
        ) -> Tensor:
            guided = [image, image, torch.zeros_like(image)]
            return torch.cat(guided) if do_classifier_free_guidance else image

    canvas = condition.shape[-2], condition.shape[-1]
    parts: Any = {**model.components, "unet": WindowedUNet(model, canvas, corners, chunk_size)}
    made = LatentPipeline(**parts, requires_safety_checker=False)
    made.image_processor = VaeImageProcessor(vae_latent_channels=condition.shape[1])
    made.set_progress_bar_config(disable=True)
    return made


class WindowedUNet(nn.Module):
    """A UNet for canvases of any size: the mean of what it predicts for windows of the size it knows.

    In place of a pipeline's UNet: it has its config, device and dtype, and is called as it is called.

    Args:
        model: whose network it is; evaluated in its own dtype. Input and output are float32.
        canvas: height and width of the input.
        corners: top and left of the windows, which together cover the canvas. None: one window, all of it.
        chunk_size: rows evaluated at a time.
    """

    def __init__(
        self,
        model: Model,
        canvas: tuple[int, int],
        corners: Sequence[Corner] | None,
        chunk_size: ChunkSize,
    ) -> None:
        super().__init__()
        self.unet: Any = model.components["unet"]
        self.device, self.dtype = model.device, model.dtype
        self._chunks = Chunks(self._evaluate, chunk_size, device=model.device, one_size=model.compiled)
        side: int = self.unet.config["sample_size"]
        self.height, self.width = canvas if corners is None else (side, side)
        self.corners = corners or [(0, 0)]
        self.covering = torch.zeros(canvas, device=self.device)
        for corner in self.corners:
            self._window(self.covering, corner).add_(1)

    @property
    def config(self) -> Any:
        """The UNet's."""
        return self.unet.config

    def forward(self, sample: Tensor, t: Tensor, encoder_hidden_states: Tensor, **_: Any) -> tuple[Tensor]:
        """Canvases (n, 2 C, h, w), their timestep and text (n, tokens, dim) -> predictions (n, C, h, w)."""
        self._asked = sample, t, encoder_hidden_states.to(self.dtype)
        self._jobs = [(row, corner) for corner in self.corners for row in range(len(sample))]
        predictions = self._chunks(torch.arange(len(self._jobs)))
        total = torch.zeros_like(sample[:, : self.config["out_channels"]])
        for (row, corner), prediction in zip(self._jobs, predictions, strict=True):
            self._window(total[row], corner).add_(prediction)
        return (total / self.covering,)

    def _evaluate(self, numbers: Tensor) -> Tensor:
        """What the UNet predicts for the windows with these numbers."""
        sample, t, text = self._asked
        chunk = [self._jobs[number] for number in numbers.tolist()]
        cut = torch.stack([self._window(sample[row], corner) for row, corner in chunk])
        words = torch.stack([text[row] for row, _ in chunk])
        cut = cut.to(self.dtype, memory_format=torch.channels_last)
        return self.unet(cut, t, encoder_hidden_states=words, return_dict=False)[0]

    def _window(self, canvas: Tensor, corner: Corner) -> Tensor:
        top, left = corner
        return canvas[..., top : top + self.height, left : left + self.width]
