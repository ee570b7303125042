"""What an edit of a large image or a video is compared with: the family's own sampler (Denoiser.sample).

    ip2p-resize    the image is resized to the size the model was trained at, edited, and resized back
    ip2p-patch     windows side by side, each edited independently
    ip2p-overlap   overlapping windows of one canvas; every step takes the mean of their predictions
                   (MultiDiffusion, arXiv:2302.08113)
    ip2p-frame     (of a video) each frame independently, all from the same noise
    ip2p-renewed   (of a scene) a render, noised in part and denoised again (arXiv:2303.12789)

Scheduler, guidance and loop are those of diffusers' pipeline. It takes latents and returns latents: the
denoiser encodes and decodes, in tiles where an image is large. On an image of one window all three are equal.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from csd_core.canvas.panorama import Frame
from csd_core.canvas.video import VideoEdit
from csd_core.canvas.windows import axis_starts
from csd_core.denoisers.base import Conditioning, Denoiser, SamplingConfig
from csd_core.denoisers.runtime.batching import at_a_time, in_chunks
from csd_core.engine.loop import encode
from csd_core.engine.progress import ProgressBar
from csd_core.errors import expect
from csd_core.image_ops import pad_to_multiple, resize
from csd_core.method.schedule import step_generator
from csd_core.presets import Preset

Callback = Callable[[int], None]
Corner = tuple[int, int]


def sampling_config(preset: Preset, **given: Any) -> SamplingConfig:
    """The settings of a preset, with those given that are not None."""
    suits = {name: getattr(preset, name) for name in _IN_PRESET}
    return SamplingConfig(**{**suits, **{name: value for name, value in given.items() if value is not None}})


_IN_PRESET = ("num_inference_steps", "guidance_scale", "image_guidance_scale")


@torch.no_grad()
def ip2p_resize(
    denoiser: Denoiser,
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
        callback: called as callback(step) after every step; Denoiser.num_sampling_calls gives the number.

    Returns:
        (1, 3, H, W) in [0, 1], float32, on the denoiser's device.

    Raises:
        UserError: a setting out of range, no prompt, not one image.
    """
    image = _checked(denoiser, image, prompt, config)
    native = denoiser.native_size
    _, condition = encode(denoiser, resize(image, (native, native)), 1)
    edited = denoiser.decode(_sample(denoiser, condition, prompt, config, callback=callback))
    height, width = image.shape[-2:]
    return resize(edited, (height, width))


@torch.no_grad()
def ip2p_patch(
    denoiser: Denoiser,
    image: Tensor,
    prompt: str,
    config: SamplingConfig,
    *,
    callback: Callback | None = None,
) -> Tensor:
    """Edit windows of native size side by side, each independently, with noise of its own.

    The last window is flush with the edge. Where it overlaps the one before, its pixels are the ones kept, so
    that each pixel is from exactly one window.

    Args:
        denoiser: the model.
        image: (1, 3, H, W) in [0, 1], no side shorter than native_size.
        prompt: the instruction.
        config: settings.
        callback: called as callback(step) after every step of all windows;
            Denoiser.num_sampling_calls gives the number.

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
    _, condition = encode(denoiser, windows, at_a_time(config.chunk_size))
    latents = _sample(denoiser, condition, prompt, config, callback=callback)
    edits = in_chunks(denoiser.decode, config.chunk_size, latents)
    edited = torch.empty_like(image)
    for (top, left), window in zip(corners, edits, strict=True):
        edited[0, :, top : top + side, left : left + side] = window
    return edited


@torch.no_grad()
def ip2p_overlap(
    denoiser: Denoiser,
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
        callback: called as callback(step) after every step; Denoiser.num_sampling_calls gives the number.

    Returns:
        (1, 3, H, W) in [0, 1], float32, on the denoiser's device.

    Raises:
        UserError: a setting out of range, no prompt, not one image, an image smaller than a window, a stride
            that is 0 or leaves gaps.
    """
    image = _checked(denoiser, image, prompt, config)
    height, width = image.shape[-2:]
    padded = pad_to_multiple(image, denoiser.multiple)
    _expect_a_window(padded, denoiser.native_size)
    side = denoiser.native_size // denoiser.downscale
    rows, columns = (length // denoiser.downscale for length in padded.shape[-2:])
    corners = _corners(rows, columns, side, stride)
    _, condition = encode(denoiser, padded, 1)
    latents = _sample(denoiser, condition, prompt, config, corners, callback=callback)
    return denoiser.decode(latents)[..., :height, :width]


@torch.no_grad()
def ip2p_frames(
    denoiser: Denoiser,
    condition: Conditioning,
    prompt: str,
    config: SamplingConfig,
    *,
    callback: Callback | None = None,
) -> Tensor:
    """Edit each frame independently, whole, and all from the same noise.

    Args:
        denoiser: the model.
        condition: of the N frames, see Denoiser.encode_condition.
        prompt: the instruction.
        config: settings.
        callback: called as callback(frame) after every frame.

    Returns:
        (N, C, h, w), scaled latents, float32, on the denoiser's device.

    Raises:
        UserError: a setting out of range, no prompt.
    """
    denoiser.num_sampling_calls(config)
    expect(bool(prompt.strip()), "prompt", "an instruction", "nothing")
    denoiser.warn_of([prompt])
    edited: list[Tensor] = []
    at_once = max(1, at_a_time(config.chunk_size) // 3)  # three evaluations for each
    for start in range(0, len(condition), at_once):
        chunk = condition[start : start + at_once].to(denoiser.device)
        edited.append(_sample(denoiser, chunk, prompt, config, same_noise=True))
        for frame in range(start, start + len(chunk)):
            if callback is not None:
                callback(frame)
    return torch.cat(edited)


@torch.no_grad()
def ip2p_renewed(
    denoiser: Denoiser,
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
    denoiser.num_sampling_calls(config)
    expect(bool(prompt.strip()), "prompt", "an instruction", "nothing")
    denoiser.warn_of([prompt])
    expect(0 < level <= 1, "level", "above 0, at most 1", level)
    image, condition = (x.to(denoiser.device, torch.float32) for x in (image, condition))
    _, given = encode(denoiser, condition, len(condition))
    start = denoiser.encode(image), level
    return denoiser.decode(_sample(denoiser, given, prompt, config, start=start))


METHODS: dict[str, Callable[..., Tensor]] = {
    "ip2p-resize": ip2p_resize,
    "ip2p-patch": ip2p_patch,
    "ip2p-overlap": ip2p_overlap,
}
"""The methods for images by name. ip2p-overlap takes a stride besides."""


def sample_panorama(
    method: str,
    denoiser: Denoiser,
    image: Tensor,
    prompt: str,
    config: SamplingConfig,
    *,
    stride: int | None = None,
    progress: bool = True,
) -> Tensor:
    """Edit an image by a baseline.

    Args:
        method: a key of METHODS.
        denoiser: the model.
        image: (1, 3, H, W) in [0, 1]; enlarged for the edit where smaller than a window.
        prompt: the instruction.
        config: settings of the sampling.
        stride: ip2p-overlap: latent pixels from window to window. Default: what suits the model.
        progress: show a progress bar.

    Returns:
        (1, 3, H, W) in [0, 1].
    """
    size = (image.shape[-2], image.shape[-1])
    frame = Frame.around(size, denoiser.native_size, denoiser.downscale, 0, False)
    stride = denoiser.presets["panorama"].stride if stride is None else stride
    special = {"stride": stride} if method == "ip2p-overlap" else {}
    with ProgressBar(denoiser.num_sampling_calls(config), None, progress) as report:
        edited = METHODS[method](
            denoiser,
            frame.enter(image),
            prompt,
            config,
            callback=lambda step: report(step, image) and None,
            **special,
        )
    return frame.leave(edited)


def sample_video(
    job: VideoEdit, denoiser: Denoiser, config: SamplingConfig, *, progress: bool = False
) -> Tensor:
    """A canvas of frames edited independently, all from the same noise (ip2p-frame)."""
    denoiser.num_sampling_calls(config)
    source, condition = job.latents
    with ProgressBar(job.num_particles, None, progress, unit="frame") as report:

        def done(frame: int) -> None:
            report(frame, source)

        return ip2p_frames(denoiser, condition, job.prompt, config, callback=done)


def _sample(
    denoiser: Denoiser,
    condition: Conditioning,
    prompt: str,
    config: SamplingConfig,
    corners: Sequence[Corner] | None = None,
    *,
    same_noise: bool = False,
    start: tuple[Tensor, float] | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Denoiser.sample with noise of step_generator(seed, k) for number k, or of number 0 for all."""
    return denoiser.sample(
        condition,
        prompt,
        config,
        [step_generator(config.seed, 0 if same_noise else k) for k in range(len(condition))],
        corners=corners,
        start=start,
        callback=callback,
    )


def _checked(denoiser: Denoiser, image: Tensor, prompt: str, config: SamplingConfig) -> Tensor:
    """The image where the model computes, after all input was found good."""
    denoiser.num_sampling_calls(config)
    expect(bool(prompt.strip()), "prompt", "an instruction", "nothing")
    denoiser.warn_of([prompt])
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
