"""Editors in the manner of diffusers' pipelines: from_pretrained, a call, .images."""

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from csd_core.baselines import METHODS, sample_panorama, sample_video, sampling_config
from csd_core.canvas.panorama import Panorama, changing
from csd_core.canvas.regions import Region
from csd_core.canvas.video import VideoEdit
from csd_core.choices import DEFAULT_MODEL, ChunkSize, PanoramaMethod, VideoMethod
from csd_core.denoisers.base import Denoiser
from csd_core.denoisers.families import load_denoiser
from csd_core.denoisers.runtime.device import dtype_name
from csd_core.engine.config import MethodConfig
from csd_core.engine.draws import Draws
from csd_core.engine.methods import fit_learning_rate, with_method
from csd_core.engine.prepared import PreparedEdit
from csd_core.engine.progress import ProgressBar
from csd_core.errors import expect
from csd_core.image_ops import blend
from csd_core.io.arrays import Clip, ImageLike, VideoLike, as_clip, as_image_tensor, as_mask_tensor, as_masks

OutputType = Literal["pil", "np", "pt"]
OnStepEnd = Callable[[Any, int, float, dict[str, Any]], dict[str, Any] | None]

_LARGEST_SEED = 2**63 - 1


def prepare_panorama(
    denoiser: Denoiser,
    image: Tensor,
    prompt: str | None,
    given: Mapping[str, Any],
    *,
    method: str = "csd",
    source_prompt: str = "",
    **how: Any,
) -> Panorama:
    """An image made ready for an edit.

    Args:
        denoiser: the model.
        image: (1, 3, H, W) in [0, 1].
        prompt: the instruction, see Panorama.
        given: settings of MethodConfig; None: what suits the model.
        method: a key of VARIANTS.
        source_prompt: what the image shows; for dds.
        how: num_steps, stride, regions, mask, wrap, see Panorama.

    Raises:
        UserError: see Panorama.
    """
    config = with_method(
        MethodConfig.from_preset(denoiser.presets["panorama"], **given), method, source_prompt
    )
    return _fitted(Panorama(denoiser, image, prompt, config, **how), given)


def prepare_video(
    denoiser: Denoiser,
    clip: Clip,
    prompt: str,
    given: Mapping[str, Any],
    *,
    method: str = "csd",
    source_prompt: str = "",
    **how: Any,
) -> VideoEdit:
    """A video made ready for an edit, as prepare_panorama.

    method: ip2p-frame, too, for sample_video.
    how: num_steps, resolution, masks, see VideoEdit.
    """
    config = MethodConfig.from_preset(denoiser.presets["video"], **given)
    if method != "ip2p-frame":
        config = with_method(config, method, source_prompt)
    return _fitted(VideoEdit(denoiser, clip, prompt, config, **how), given)


Job = TypeVar("Job", bound=PreparedEdit)


def _fitted(job: Job, given: Mapping[str, Any]) -> Job:
    if given.get("learning_rate") is None:
        job.edit = fit_learning_rate(job.edit, job.num_particles)
    return job


@dataclass
class EditOutput:
    """What PanoramaEditor returns."""

    images: list[Image.Image] | np.ndarray | Tensor
    """pil: a list; np: (n, H, W, 3) in [0, 1]; pt: (n, 3, H, W) in [0, 1]."""


class Editor:
    """What all editors share: a model, a progress bar, a way to stop.

    Attributes:
        denoiser: the model.
        interrupt: set it to True, from a callback for example, and the edit ends after the current step.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.interrupt = False
        self._show_progress = True

    @classmethod
    def from_pretrained(cls, id_or_path: str = DEFAULT_MODEL, **settings: Any) -> Self:
        """An editor with a model of the hub, of a folder, or "mini".

        It computes where the commands do, on CUDA where there is one, else on the CPU, in the precision that
        suits the device; a line on stderr names both. settings: see families.load_denoiser.
        """
        editor = cls(load_denoiser(id_or_path, **settings))
        dtype = dtype_name(editor.denoiser.dtype)
        print(f"note: the model computes on {editor.denoiser.device} in {dtype}", file=sys.stderr)
        return editor

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> Self:
        """Move the model, and change the precision of its predictions."""
        self.denoiser.to(device, dtype)
        return self

    def set_progress_bar_config(self, *, disable: bool = False) -> None:
        """Switch the progress bar off, or on."""
        self._show_progress = not disable

    def _run(self, job: PreparedEdit, on_step_end: OnStepEnd | None) -> Tensor:
        """The edited canvas of a job."""
        report = self._callback(Draws(job.edit, job.num_particles), on_step_end)
        with ProgressBar(job.edit.num_steps, report, self._show_progress) as callback:
            return job.run(callback=callback)

    def _callback(self, draws: Draws, on_step_end: OnStepEnd | None) -> Callable[[int, Tensor], bool]:
        """on_step_end as diffusers calls it, for the engine."""
        schedule = self.denoiser.schedule

        def report(step: int, canvas: Tensor) -> bool:
            if on_step_end is not None:
                timestep = draws.timestep(schedule, step)
                changed = on_step_end(self, step, timestep, {"latents": canvas}) or {}
                if changed.get("latents", canvas) is not canvas:
                    canvas.copy_(changed["latents"])
            return self.interrupt

        return report


class PanoramaEditor(Editor):
    """Edits one image of any size by overlapping windows (Sec. 3.3 of arXiv:2307.04787).

    Without a generator the seed is 0: the same call gives the same image.
    """

    @torch.no_grad()
    def __call__(
        self,
        image: ImageLike,
        prompt: str | Sequence[str] | None = None,
        *,
        regions: Sequence[Region] = (),
        mask: ImageLike | None = None,
        wrap: bool = False,
        method: PanoramaMethod = "csd",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        negative_prompt: str = "",
        source_prompt: str = "",
        learning_rate: float | None = None,
        batch_size: int | None = None,
        t_range: tuple[float, float] | None = None,
        bandwidth_factor: float | None = None,
        shared_noise: bool | None = None,
        noise_pool: int | None = None,
        stride: int | None = None,
        chunk_size: ChunkSize = 16,
        max_batch: ChunkSize | None = None,
        generator: torch.Generator | None = None,
        callback_on_step_end: OnStepEnd | None = None,
        output_type: OutputType = "pil",
    ) -> EditOutput:
        """Edit an image. What is None is set to what suits the model.

        Args:
            image: PIL; or (H, W, 3), uint8 or float in [0, 1]; or tensor (3, H, W) or (1, 3, H, W) in [0, 1].
            prompt: the instruction, or several: one result each, from one encoding of the image. With regions
                it is for the rest; None: the rest stays.
            generator: the seed is sampled from it. None: seed 0.
            regions: instructions for parts of the image (appendix C.1).
            mask: where 0, pixels stay exactly; (H, W), uint8 or float in [0, 1], or PIL.
            wrap: a 360-degree image, left and right are neighbours.
            method: csd; csd without a part of it (engine/methods.py); or a baseline (baselines.py).
            num_inference_steps: optimisation steps, or sampling steps of an ip2p method.
            guidance_scale, image_guidance_scale, negative_prompt: as in InstructPix2Pix.
            source_prompt: what the image shows; for dds.
            learning_rate, batch_size, t_range, bandwidth_factor, shared_noise, noise_pool, stride: see
                MethodConfig and Windows; not for ip2p methods.
            chunk_size: evaluations of the network at a time; "auto": as many as fit. Same result.
            max_batch: the former name of chunk_size.
            callback_on_step_end: called as (editor, step, timestep, {"latents": canvas}) after every
                optimisation step; latents in the dictionary that it returns replace the canvas.
            output_type: pil, np or pt.

        Raises:
            UserError (a ValueError): an input that does not fit.
        """
        pixels = as_image_tensor(image)
        prompts = [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)
        _check(prompts, method, get_args(PanoramaMethod), num_inference_steps, output_type)
        soft = None if mask is None else as_mask_tensor(mask)
        self.interrupt = False
        common = {
            "guidance_scale": guidance_scale,
            "image_guidance_scale": image_guidance_scale,
            "negative_prompt": negative_prompt,
            "chunk_size": _chunk_size(chunk_size, max_batch),
            "seed": _seed(generator),
        }
        if method in METHODS:
            for name, value in (("regions", regions), ("wrap", wrap)):
                expect(not value, name, "method csd", method)
            expect(None not in prompts, "prompt", "an instruction", "nothing")
            preset = self.denoiser.presets["panorama"]
            sampling = sampling_config(preset, num_inference_steps=num_inference_steps, **common)
            kept = changing(soft, None, (pixels.shape[-2], pixels.shape[-1]))
            where = {"stride": stride, "progress": self._show_progress}
            sampled = (
                sample_panorama(method, self.denoiser, pixels, text or "", sampling, **where)
                for text in prompts
            )
            edits = [blend(pixels, edited.cpu(), kept) for edited in sampled]
            return EditOutput(_as_output(edits, output_type))
        given = common | {
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "t_range": t_range,
            "bandwidth_factor": bandwidth_factor,
            "shared_noise": shared_noise,
            "noise_pool": noise_pool,
        }
        jobs = [
            prepare_panorama(
                self.denoiser,
                pixels,
                text,
                given,
                method=method,
                source_prompt=source_prompt,
                num_steps=num_inference_steps,
                stride=stride,
                regions=regions,
                mask=soft,
                wrap=wrap,
            )
            for text in prompts
        ]
        edits = []
        for job in jobs:
            job.latents = jobs[0].latents
            edits.append(job.finish(self._run(job, callback_on_step_end)))
        return EditOutput(_as_output(edits, output_type))


@dataclass
class VideoOutput:
    """What VideoEditor returns: for each prompt a video."""

    frames: list[list[Image.Image]] | np.ndarray | Tensor
    """pil: lists of frames; np: (n, N, H, W, 3) in [0, 1]; pt: (n, N, 3, H, W) in [0, 1]."""


class VideoEditor(Editor):
    """Edits the frames of a video so that they agree (Sec. 3.3 of arXiv:2307.04787).

    Without a generator the seed is 0: the same call gives the same video.
    """

    @torch.no_grad()
    def __call__(
        self,
        video: VideoLike,
        prompt: str | Sequence[str],
        *,
        frames: slice = slice(None),
        mask: ImageLike | Sequence[ImageLike] | None = None,
        method: VideoMethod = "csd",
        resolution: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        negative_prompt: str = "",
        source_prompt: str = "",
        learning_rate: float | None = None,
        batch_size: int | None = None,
        t_range: tuple[float, float] | None = None,
        bandwidth_factor: float | None = None,
        shared_noise: bool | None = None,
        noise_pool: int | None = None,
        chunk_size: ChunkSize = 16,
        max_batch: ChunkSize | None = None,
        generator: torch.Generator | None = None,
        callback_on_step_end: OnStepEnd | None = None,
        output_type: OutputType = "pil",
    ) -> VideoOutput:
        """Edit a video. What is None is set to what suits the model.

        Args:
            video: a path (see io.videos.read_video); or frames, each as PanoramaEditor takes an image: a
                list, (N, H, W, 3) or tensor (N, 3, H, W).
            prompt: the instruction, or several: one video each, from one encoding of the frames.
            generator: the seed is sampled from it. None: seed 0.
            frames: which of them.
            mask: where 0, pixels stay exactly; as PanoramaEditor takes it, for all frames or one for each.
            method: csd; csd without a part of it (engine/methods.py); or ip2p-frame, each frame sampled
                independently.
            resolution: short side of the edit in pixels. None: what the model was trained at.
            num_inference_steps: optimisation steps, or sampling steps of ip2p-frame.
            guidance_scale, image_guidance_scale, negative_prompt: as in InstructPix2Pix.
            source_prompt: what the video shows; for dds.
            learning_rate, batch_size, t_range, bandwidth_factor, shared_noise, noise_pool: see MethodConfig;
                not for ip2p-frame.
            chunk_size: evaluations of the network at a time; "auto": as many as fit. Same result.
            max_batch: the former name of chunk_size.
            callback_on_step_end: called as (editor, step, timestep, {"latents": canvas}) after every
                optimisation step; latents in the dictionary that it returns replace the canvas.
            output_type: pil, np or pt.

        Raises:
            UserError (a ValueError): an input that does not fit.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        _check(prompts, method, get_args(VideoMethod), num_inference_steps, output_type)
        self.interrupt = False
        clip = as_clip(video, frames)
        common = {
            "guidance_scale": guidance_scale,
            "image_guidance_scale": image_guidance_scale,
            "negative_prompt": negative_prompt,
            "chunk_size": _chunk_size(chunk_size, max_batch),
            "seed": _seed(generator),
        }
        given = common | {
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "t_range": t_range,
            "bandwidth_factor": bandwidth_factor,
            "shared_noise": shared_noise,
            "noise_pool": noise_pool,
        }
        jobs = [
            prepare_video(
                self.denoiser,
                clip,
                text,
                given,
                method=method,
                source_prompt=source_prompt,
                num_steps=num_inference_steps,
                resolution=resolution,
                masks=None if mask is None else as_masks(mask, clip),
            )
            for text in prompts
        ]
        preset = self.denoiser.presets["video"]
        sampling = sampling_config(preset, num_inference_steps=num_inference_steps, **common)
        if method == "ip2p-frame":
            self.denoiser.num_sampling_calls(sampling)
        edited = []
        for job in jobs:
            job.latents = jobs[0].latents
            if method == "ip2p-frame":
                canvas = sample_video(job, self.denoiser, sampling, progress=self._show_progress)
            else:
                canvas = self._run(job, callback_on_step_end)
            edited.append(_as_video(job.finish(canvas), output_type))
        if output_type == "pil":
            return VideoOutput(edited)
        return VideoOutput(torch.stack(edited) if output_type == "pt" else np.stack(edited))


def _check(
    prompts: Sequence[str | None],
    method: str,
    methods: Sequence[str],
    steps: int | None,
    output_type: str,
) -> None:
    expect(len(prompts) > 0, "prompt", "at least one", "none")
    expect(method in methods, "method", f"one of {', '.join(methods)}", method)
    expect(steps is None or steps >= 1, "num_inference_steps", "at least 1", steps)
    expect(output_type in ("pil", "np", "pt"), "output_type", "pil, np or pt", output_type)


def _chunk_size(chunk_size: ChunkSize, max_batch: ChunkSize | None) -> ChunkSize:
    if max_batch is None:
        return chunk_size
    warnings.warn("max_batch is now called chunk_size; the old name goes with the next version", stacklevel=4)
    return max_batch


def _seed(generator: torch.Generator | None) -> int:
    if generator is None:
        return 0
    return int(torch.randint(_LARGEST_SEED, (), generator=generator, device=generator.device))


def _as_video(frames: Iterator[Tensor], output_type: OutputType) -> Any:
    """Frames (3, H, W) of one video. PIL: one at a time, so that memory holds them as bytes alone."""
    if output_type == "pil":
        return [_as_pil(frame) for frame in frames]
    return _as_output([frame[None] for frame in frames], output_type)


def _as_output(images: Sequence[Tensor], output_type: OutputType) -> list[Image.Image] | np.ndarray | Tensor:
    """Images (1, 3, H, W) in [0, 1]."""
    if output_type == "pil":
        return [_as_pil(image[0]) for image in images]
    tensors = torch.cat([image.cpu() for image in images])
    return tensors if output_type == "pt" else tensors.permute(0, 2, 3, 1).numpy()


def _as_pil(image: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1]."""
    return Image.fromarray((image.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8))
