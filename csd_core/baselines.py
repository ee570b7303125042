"""What an edit of a large image or a video is compared with: InstructPix2Pix sampled by diffusers' pipeline.

    ip2p-resize    the image is squeezed to the size the model was trained at, edited, and brought back
    ip2p-patch     windows side by side, each edited by itself
    ip2p-overlap   overlapping windows of one canvas; every step takes the mean of their predictions
                   (MultiDiffusion, arXiv:2302.08113)
    ip2p-frame     (of a video) each frame by itself, all from the same noise
    ip2p-renewed   (of a scene) a render, noised in part and denoised again (arXiv:2303.12789)

Scheduler, guidance and loop are the pipeline's. It is handed latents and hands latents back: the adapter
encodes and decodes, in tiles where an image is large. On an image of one window all three are the same.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from csd_core.canvas.windows import axis_starts
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.denoisers.runtime.batching import Chunks, MaxBatch, at_a_time, check_max_batch, in_chunks
from csd_core.errors import expect
from csd_core.image_ops import pad_to_multiple, resize
from csd_core.method.schedule import step_generator

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
        StableDiffusionInstructPix2PixPipeline,
    )

Callback = Callable[[int], None]
Corner = tuple[int, int]


@dataclass(frozen=True)
class SamplingConfig:
    """Settings of a sampled edit, the same for every method."""

    num_inference_steps: int = 100
    """Denoising steps."""
    guidance_scale: float = 7.5
    """Text guidance: how strongly the instruction is followed. At 1 diffusers guides by nothing at all."""
    image_guidance_scale: float = 1.5
    """Image guidance: how closely the source is kept. 1 or more."""
    negative_prompt: str = ""
    """What the result should not be; takes the place of the empty prompt."""
    max_batch: MaxBatch = 16
    """Evaluations of the model at a time; auto: as many as fit. The result stays the same."""
    seed: int = 0
    """Seed of the noise."""

    def check(self) -> None:
        """Raise a UserError that names the first setting out of range."""
        expect(self.num_inference_steps >= 1, "num_inference_steps", "at least 1", self.num_inference_steps)
        check_max_batch(self.max_batch)
        for name in (
            "guidance_scale",
            "image_guidance_scale",
        ):  # below 1 diffusers silently drops all guidance
            scale = getattr(self, name)
            expect(math.isfinite(scale) and scale >= 1, name, "a finite number, at least 1", scale)
        expect(self.seed >= 0, "seed", "0 or more", self.seed)


@torch.no_grad()
def ip2p_resize(
    denoiser: InstructPix2Pix,
    image: Tensor,
    prompt: str,
    config: SamplingConfig,
    *,
    callback: Callback | None = None,
) -> Tensor:
    """Edit an image squeezed to native_size x native_size, and bring the result back to its size.

    Args:
        denoiser: the model.
        image: (1, 3, H, W) in [0, 1], any H and W.
        prompt: the instruction.
        config: settings.
        callback: called as callback(step) after every step; num_calls says how often.

    Returns:
        (1, 3, H, W) in [0, 1], float32, on the denoiser's device.

    Raises:
        UserError: a setting out of range, no prompt, not one image.
    """
    image = _checked(denoiser, image, prompt, config)
    native = denoiser.native_size
    condition = denoiser.encode_condition(resize(image, (native, native)))
    edited = denoiser.decode(_sample(denoiser, condition, prompt, config, callback=callback))
    height, width = image.shape[-2:]
    return resize(edited, (height, width))


@torch.no_grad()
def ip2p_patch(
    denoiser: InstructPix2Pix,
    image: Tensor,
    prompt: str,
    config: SamplingConfig,
    *,
    callback: Callback | None = None,
) -> Tensor:
    """Edit windows of native size side by side, each by itself and with noise of its own.

    The last window is flush with the edge. Where it overlaps the one before, its pixels are the ones kept, so
    that each pixel is from exactly one window.

    Args:
        denoiser: the model.
        image: (1, 3, H, W) in [0, 1], no side shorter than native_size.
        prompt: the instruction.
        config: settings.
        callback: called as callback(step) after every step of all windows; num_calls says how often.

    Returns:
        (1, 3, H, W) in [0, 1], float32, on the denoiser's device.

    Raises:
        UserError: a setting out of range, no prompt, not one image, an image smaller than a window.
    """
    image = _checked(denoiser, image, prompt, config)
    side = denoiser.native_size
    _expect_a_window(image, side)
    corners = _corners(image.shape[-2], image.shape[-1], side, side)
    windows = torch.cat([image[..., top : top + side, left : left + side] for top, left in corners])
    condition = in_chunks(denoiser.encode_condition, config.max_batch, windows)
    latents = _sample(denoiser, condition, prompt, config, callback=callback)
    edits = in_chunks(denoiser.decode, config.max_batch, latents)
    edited = torch.empty_like(image)
    for (top, left), window in zip(corners, edits, strict=True):
        edited[0, :, top : top + side, left : left + side] = window
    return edited


@torch.no_grad()
def ip2p_overlap(
    denoiser: InstructPix2Pix,
    image: Tensor,
    prompt: str,
    config: SamplingConfig,
    *,
    stride: int,
    callback: Callback | None = None,
) -> Tensor:
    """Denoise the whole image at once; every step takes the mean of what overlapping windows predict.

    Args:
        denoiser: the model.
        image: (1, 3, H, W) in [0, 1], no side shorter than native_size.
        prompt: the instruction.
        config: settings.
        stride: from one window to the next, in latent pixels.
        callback: called as callback(step) after every step; num_calls says how often.

    Returns:
        (1, 3, H, W) in [0, 1], float32, on the denoiser's device.

    Raises:
        UserError: a setting out of range, no prompt, not one image, an image smaller than a window, a stride
            that is 0 or leaves gaps.
    """
    image = _checked(denoiser, image, prompt, config)
    height, width = image.shape[-2:]
    padded = pad_to_multiple(image, denoiser.downscale)
    _expect_a_window(padded, denoiser.native_size)
    side = denoiser.native_size // denoiser.downscale
    rows, columns = (length // denoiser.downscale for length in padded.shape[-2:])
    corners = _corners(rows, columns, side, stride)
    condition = denoiser.encode_condition(padded)
    latents = _sample(denoiser, condition, prompt, config, corners, callback=callback)
    return denoiser.decode(latents)[..., :height, :width]


@torch.no_grad()
def ip2p_frames(
    denoiser: InstructPix2Pix,
    condition: Tensor,
    prompt: str,
    config: SamplingConfig,
    *,
    callback: Callback | None = None,
) -> Tensor:
    """Edit frames each by itself, whole, and all from the same noise.

    Args:
        denoiser: the model.
        condition: (N, C, h, w), the frames as image condition.
        prompt: the instruction.
        config: settings.
        callback: called as callback(frame) after every frame.

    Returns:
        (N, C, h, w), scaled latents, float32, on the denoiser's device.

    Raises:
        UserError: a setting out of range, no prompt.
    """
    check_settings(denoiser, config)
    expect(bool(prompt.strip()), "prompt", "an instruction", "nothing")
    edited = torch.empty_like(condition, device=denoiser.device)
    at_once = max(1, at_a_time(config.max_batch) // 3)  # three evaluations for each
    for start in range(0, len(condition), at_once):
        chunk = condition[start : start + at_once].to(denoiser.device)
        edited[start : start + at_once] = _sample(denoiser, chunk, prompt, config, same_noise=True)
        for frame in range(start, start + len(chunk)):
            if callback is not None:
                callback(frame)
    return edited


@torch.no_grad()
def ip2p_renewed(
    denoiser: InstructPix2Pix,
    image: Tensor,
    condition: Tensor,
    prompt: str,
    config: SamplingConfig,
    *,
    level: float,
) -> Tensor:
    """Edit images from where they are: noised to a level, and denoised from there under another condition.

    This is how Instruct-NeRF2NeRF (arXiv:2303.12789, Sec. 4.2 and its code) renews a view: the image is the
    render of today, the condition the photo. Its steps are DDIM's and lie between the level and clean.

    Args:
        denoiser: the model.
        image: (n, 3, H, W) in [0, 1], sides that denoiser.downscale divides.
        condition: (n, 3, H, W) in [0, 1].
        prompt: the instruction.
        config: settings.
        level: share of the noise schedule, above 0 and at most 1, but at least num_inference_steps timesteps.

    Returns:
        (n, 3, H, W) in [0, 1], float32, on the denoiser's device.

    Raises:
        UserError: a setting out of range, no prompt.
    """
    check_settings(denoiser, config)
    expect(bool(prompt.strip()), "prompt", "an instruction", "nothing")
    expect(0 < level <= 1, "level", "above 0, at most 1", level)
    image, condition = (x.to(denoiser.device, torch.float32) for x in (image, condition))
    start = Start(denoiser.encode(image), level)
    return denoiser.decode(
        _sample(denoiser, denoiser.encode_condition(condition), prompt, config, start=start)
    )


METHODS: dict[str, Callable[..., Tensor]] = {
    "ip2p-resize": ip2p_resize,
    "ip2p-patch": ip2p_patch,
    "ip2p-overlap": ip2p_overlap,
}
"""The methods by name. ip2p-overlap takes a stride besides."""


def num_calls(denoiser: InstructPix2Pix, config: SamplingConfig) -> int:
    """How often each method calls its callback: once a timestep; some schedulers have more than steps."""
    check_settings(denoiser, config)
    scheduler: Any = denoiser.pipeline().scheduler
    scheduler.set_timesteps(config.num_inference_steps)
    return len(scheduler.timesteps)


class Start(NamedTuple):
    """Where sampling begins, if not from noise alone."""

    latents: Tensor
    """(n, C, h, w), scaled."""
    level: float
    """Share of the noise schedule to which they are noised."""

    def scheduler(self, usual: Any, steps: int) -> Any:
        """DDIM with all of its steps between the level and clean."""
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        ddim: Any = DDIMScheduler.from_config(usual.config)
        # alphas stay those of the whole schedule; only the timesteps are taken from its first part
        ddim.register_to_config(num_train_timesteps=max(steps, round(self.level * len(ddim.alphas_cumprod))))
        return ddim

    def noised(self, scheduler: Any, noise: Tensor, steps: int) -> Tensor:
        """The latents at the first of the timesteps."""
        scheduler.set_timesteps(steps)
        return scheduler.add_noise(self.latents, noise.to(self.latents), scheduler.timesteps[:1])


class WindowedUNet(nn.Module):
    """A UNet for canvases of any size: the mean of what it predicts for windows of the size it knows.

    In place of a pipeline's UNet: it has its config, device and dtype, and is called as it is called.

    Args:
        denoiser: whose network it is; evaluated in its own dtype. What comes in and goes out is float32.
        canvas: height and width of what comes in.
        corners: top and left of the windows, which together cover the canvas. None: one window, all of it.
        max_batch: rows evaluated at a time.
    """

    def __init__(
        self,
        denoiser: InstructPix2Pix,
        canvas: tuple[int, int],
        corners: Sequence[Corner] | None,
        max_batch: MaxBatch,
    ) -> None:
        super().__init__()
        self.unet: Any = denoiser.pipeline().unet
        self.device, self.dtype = denoiser.device, denoiser.dtype
        self._chunks = Chunks(self._evaluate, max_batch, device=denoiser.device, one_size=denoiser.compiled)
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


def _sample(
    denoiser: InstructPix2Pix,
    condition: Tensor,
    prompt: str,
    config: SamplingConfig,
    corners: Sequence[Corner] | None = None,
    *,
    same_noise: bool = False,
    start: Start | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Scaled latents of edits of n conditions (n, C, h, w); corners are of the windows of each.

    Number k has the noise of step_generator(seed, k), whatever the others are; or all have that of number 0.
    """
    generators = [step_generator(config.seed, 0 if same_noise else k) for k in range(len(condition))]
    noise = torch.stack([torch.randn(condition.shape[1:], generator=generator) for generator in generators])

    def report(_pipeline: Any, step: int, _t: Any, _tensors: Any) -> dict[str, Any]:
        if callback is not None:
            callback(step)
        return {}

    size = condition.shape[-2], condition.shape[-1]
    pipeline: Any = _pipeline(denoiser, size, corners, config.max_batch)
    if start is not None:
        pipeline.scheduler = start.scheduler(pipeline.scheduler, config.num_inference_steps)
        noise = start.noised(pipeline.scheduler, noise, config.num_inference_steps)
    sampled = pipeline(
        prompt_embeds=denoiser.embed([prompt] * len(condition)),
        negative_prompt_embeds=denoiser.embed([config.negative_prompt] * len(condition)),
        image=condition,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        image_guidance_scale=config.image_guidance_scale,
        generator=generators,  # for schedulers that draw noise in every step
        latents=noise,
        output_type="latent",
        callback_on_step_end=report,
    )
    return sampled.images


def _pipeline(
    denoiser: InstructPix2Pix, canvas: tuple[int, int], corners: Sequence[Corner] | None, max_batch: MaxBatch
) -> "StableDiffusionInstructPix2PixPipeline":
    """Diffusers' pipeline with a WindowedUNet, whose image is the condition latents."""
    from diffusers.image_processor import VaeImageProcessor
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
        StableDiffusionInstructPix2PixPipeline,
    )

    class LatentPipeline(StableDiffusionInstructPix2PixPipeline):
        """Takes the image as latents with any number of channels, and leaves them in float32."""

        @property
        def _execution_device(self) -> torch.device:
            return denoiser.device  # diffusers asks the networks, and what is offloaded is elsewhere

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

    parts = denoiser.pipeline().components
    parts["unet"] = WindowedUNet(denoiser, canvas, corners, max_batch)
    made = LatentPipeline(**parts, requires_safety_checker=False)
    made.image_processor = VaeImageProcessor(vae_latent_channels=denoiser.latent_channels)
    made.set_progress_bar_config(disable=True)
    return made


def check_settings(denoiser: InstructPix2Pix, config: SamplingConfig) -> None:
    """Raise a UserError that names the first setting that is out of range, for this model."""
    config.check()
    steps, trained = config.num_inference_steps, denoiser.schedule.num_timesteps
    expect(steps < trained, "num_inference_steps", f"fewer than the model's {trained} timesteps", steps)


def _checked(denoiser: InstructPix2Pix, image: Tensor, prompt: str, config: SamplingConfig) -> Tensor:
    """The image where the model computes, after all input was found good."""
    check_settings(denoiser, config)
    expect(bool(prompt.strip()), "prompt", "an instruction", "nothing")
    shape = tuple(image.shape)
    expect(len(shape) == 4 and shape[:2] == (1, 3), "image", "one image (1, 3, H, W)", shape)
    return image.to(denoiser.device, torch.float32)


def _expect_a_window(image: Tensor, side: int) -> None:
    height, width = image.shape[-2:]
    wanted = f"no side shorter than {side} pixels, what the model edits at once (enlarge it)"
    expect(min(height, width) >= side, "image", wanted, f"{width} x {height}")


def _corners(height: int, width: int, side: int, stride: int) -> list[Corner]:
    rows, columns = axis_starts(height, side, stride), axis_starts(width, side, stride)
    return [(top, left) for top in rows for left in columns]
