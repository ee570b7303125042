"""Editors in the manner of diffusers' pipelines: from_pretrained, a call, .images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from csd_core.baselines import check_settings
from csd_core.canvas.detail import DETAIL, Detail
from csd_core.canvas.panorama import Method, Panorama, changing, sample_panorama
from csd_core.canvas.regions import Region
from csd_core.canvas.video import Method as VideoMethod
from csd_core.canvas.video import VideoEdit, with_method
from csd_core.denoisers.instruct_pix2pix import DEFAULT_MODEL, InstructPix2Pix
from csd_core.denoisers.runtime.batching import MaxBatch
from csd_core.engine.draws import Draws
from csd_core.engine.prepared import PreparedEdit
from csd_core.engine.progress import ProgressBar
from csd_core.errors import expect
from csd_core.image_ops import blend
from csd_core.io.arrays import Picture, Video, as_clip, as_image_tensor, as_mask_tensor, as_masks
from csd_core.presets import panorama_preset, video_preset

OutputType = Literal["pil", "np", "pt"]
OnStepEnd = Callable[[Any, int, int, dict[str, Any]], dict[str, Any] | None]

_LARGEST_SEED = 2**63 - 1


@dataclass
class EditOutput:
    """What an editor returns."""

    images: list[Image.Image] | np.ndarray | Tensor
    """pil: a list; np: (n, H, W, 3) in [0, 1]; pt: (n, 3, H, W) in [0, 1]."""


class Editor:
    """What all editors share: a model, a progress bar, a way to stop.

    Attributes:
        denoiser: the model.
        interrupt: set it to True, from a callback say, and the edit ends after the step at work.
    """

    def __init__(self, denoiser: InstructPix2Pix) -> None:
        self.denoiser = denoiser
        self.interrupt = False
        self._show_progress = True

    @classmethod
    def from_pretrained(cls, id_or_path: str = DEFAULT_MODEL, **settings: Any) -> Self:
        """An editor with a model of the hub, of a folder, or "mini"; see InstructPix2Pix.from_pretrained."""
        return cls(InstructPix2Pix.from_pretrained(id_or_path, **settings))

    def to(self, device: str | torch.device) -> Self:
        """Move the model."""
        self.denoiser.to(device)
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
    """Edits one image of any size by overlapping windows (Sec. 3.3 of arXiv:2307.04787)."""

    @torch.no_grad()
    def __call__(
        self,
        image: Picture,
        prompt: str | Sequence[str] | None = None,
        *,
        regions: Sequence[Region] = (),
        mask: Picture | None = None,
        wrap: bool = False,
        method: Method = "csd",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        negative_prompt: str = "",
        learning_rate: float | None = None,
        batch_size: int | None = None,
        t_range: tuple[float, float] | None = None,
        noise_pool: int | None = None,
        stride: int | None = None,
        max_batch: MaxBatch = 16,
        generator: torch.Generator | None = None,
        callback_on_step_end: OnStepEnd | None = None,
        output_type: OutputType = "pil",
    ) -> EditOutput:
        """Edit an image. What is None is set to what suits the model.

        Args:
            image: PIL; or (H, W, 3), uint8 or float in [0, 1]; or tensor (3, H, W) or (1, 3, H, W) in [0, 1].
            prompt: the instruction, or several: one result each, from one encoding of the image. With regions
                it is for the rest; None: the rest stays.
            regions: instructions for parts of the image (appendix C.1).
            mask: where 0, pixels stay exactly; (H, W), uint8 or float in [0, 1], or PIL.
            wrap: a 360-degree image, left and right are neighbours.
            method: csd, or one of the ways it is compared with (baselines.py).
            num_inference_steps: optimisation steps (csd) or sampling steps.
            guidance_scale, image_guidance_scale, negative_prompt: as in InstructPix2Pix.
            learning_rate, batch_size, t_range, noise_pool, stride: see EditConfig and Windows; csd alone.
            max_batch: evaluations at a time; "auto": as many as fit.
            generator: the seed is drawn from it. None: seed 0.
            callback_on_step_end: called as (editor, step, timestep, {"latents": canvas}) after every step of
                csd; latents in the dictionary that it returns replace the canvas.
            output_type: pil, np or pt.

        Raises:
            UserError (a ValueError): an input that does not fit.
        """
        pixels = as_image_tensor(image)
        prompts = [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)
        _check(prompts, method, get_args(Method), num_inference_steps, output_type)
        soft = None if mask is None else as_mask_tensor(mask)
        self.interrupt = False
        preset, seed = panorama_preset(self.denoiser), _seed(generator)
        common = {
            "guidance_scale": guidance_scale,
            "image_guidance_scale": image_guidance_scale,
            "negative_prompt": negative_prompt,
            "max_batch": max_batch,
            "seed": seed,
        }
        if method != "csd":
            for name, given in (("regions", regions), ("wrap", wrap)):
                expect(not given, name, "method csd", method)
            sampling = preset.with_sampling(num_inference_steps=num_inference_steps, **common)
            kept = changing(soft, None, (pixels.shape[-2], pixels.shape[-1]))
            edits = [
                blend(pixels, self._sample(method, pixels, text, sampling, stride).cpu(), kept)
                for text in prompts
            ]
            return EditOutput(_as_output(edits, output_type))
        edit = preset.with_edit(
            learning_rate=learning_rate,
            batch_size=batch_size,
            t_range=t_range,
            noise_pool=noise_pool,
            **common,
        )
        jobs = [
            Panorama(
                self.denoiser,
                pixels,
                text,
                edit,
                preset,
                num_steps=num_inference_steps,
                stride=stride,
                regions=regions,
                mask=soft,
                wrap=wrap,
            )
            for text in prompts
        ]
        return EditOutput(
            _as_output([self._edit(job, jobs[0], callback_on_step_end) for job in jobs], output_type)
        )

    def _edit(self, job: Panorama, first: Panorama, on_step_end: OnStepEnd | None) -> Tensor:
        job.latents = first.latents
        return job.finish(self._run(job, on_step_end))

    def _sample(
        self, method: Method, image: Tensor, prompt: str | None, sampling: Any, stride: int | None
    ) -> Tensor:
        expect(prompt is not None, "prompt", "an instruction", "nothing")
        return sample_panorama(
            method,
            self.denoiser,
            image,
            prompt or "",
            replace(sampling),
            stride=stride,
            progress=self._show_progress,
        )


@dataclass
class VideoOutput:
    """What VideoEditor returns: for each prompt a video."""

    frames: list[list[Image.Image]] | np.ndarray | Tensor
    """pil: lists of frames; np: (n, N, H, W, 3) in [0, 1]; pt: (n, N, 3, H, W) in [0, 1]."""


class VideoEditor(Editor):
    """Edits the frames of a video so that they agree (Sec. 3.3 of arXiv:2307.04787)."""

    @torch.no_grad()
    def __call__(
        self,
        video: Video,
        prompt: str | Sequence[str],
        *,
        frames: slice = slice(None),
        mask: Picture | Sequence[Picture] | None = None,
        method: VideoMethod = "csd",
        resolution: int | None = None,
        detail: Detail = DETAIL,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        negative_prompt: str = "",
        source_prompt: str = "",
        learning_rate: float | None = None,
        batch_size: int | None = None,
        t_range: tuple[float, float] | None = None,
        noise_pool: int | None = None,
        max_batch: MaxBatch = 16,
        generator: torch.Generator | None = None,
        callback_on_step_end: OnStepEnd | None = None,
        output_type: OutputType = "pil",
    ) -> VideoOutput:
        """Edit a video. What is None is set to what suits the model.

        Args:
            video: a path (see io.videos.read_video); or frames, each as PanoramaEditor takes an image: a
                list, (N, H, W, 3) or tensor (N, 3, H, W).
            prompt: the instruction, or several: one video each, from one encoding of the frames.
            frames: which of them.
            mask: where 0, pixels stay exactly; as PanoramaEditor takes it, for all frames or one for each.
            method: csd; no-svgd, sds, dds (video.VARIANTS); or ip2p-frame, each frame sampled by itself.
            resolution: short side of the edit in pixels. None: what the model was trained at.
            detail: how the edit comes back to the size of the frames, see detail.py.
            num_inference_steps: optimisation steps, or sampling steps of ip2p-frame.
            guidance_scale, image_guidance_scale, negative_prompt: as in InstructPix2Pix.
            source_prompt: what the video shows; for dds.
            learning_rate, batch_size, t_range, noise_pool: see EditConfig.
            max_batch: evaluations at a time; "auto": as many as fit.
            generator: the seed is drawn from it. None: seed 0.
            callback_on_step_end: called as (editor, step, timestep, {"latents": canvas}) after every step of
                the optimisation; latents in the dictionary that it returns replace the canvas.
            output_type: pil, np or pt.

        Raises:
            UserError (a ValueError): an input that does not fit.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        _check(prompts, method, get_args(VideoMethod), num_inference_steps, output_type)
        self.interrupt = False
        clip = as_clip(video, frames)
        preset = video_preset(self.denoiser)
        common = {
            "guidance_scale": guidance_scale,
            "image_guidance_scale": image_guidance_scale,
            "negative_prompt": negative_prompt,
            "max_batch": max_batch,
            "seed": _seed(generator),
        }
        edit = preset.with_edit(
            learning_rate=learning_rate,
            batch_size=batch_size,
            t_range=t_range,
            noise_pool=noise_pool,
            **common,
        )
        sampling = preset.with_sampling(num_inference_steps=num_inference_steps, **common)
        if method != "ip2p-frame":
            edit = with_method(
                edit, method, source_prompt, num_frames=clip.num_frames, scaled=learning_rate is None
            )
        jobs = [
            VideoEdit(
                self.denoiser,
                clip,
                text,
                edit,
                preset,
                num_steps=num_inference_steps,
                resolution=resolution,
                detail=detail,
                masks=None if mask is None else as_masks(mask, clip),
            )
            for text in prompts
        ]
        if method == "ip2p-frame":
            check_settings(self.denoiser, sampling)
        edited = []
        for job in jobs:
            job.latents = jobs[0].latents
            sampled = method == "ip2p-frame"
            canvas = (
                job.sample(sampling, progress=self._show_progress)
                if sampled
                else self._run(job, callback_on_step_end)
            )
            edited.append(_as_output([frame[None] for frame in job.finish(canvas)], output_type))
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


def _seed(generator: torch.Generator | None) -> int:
    if generator is None:
        return 0
    return int(torch.randint(_LARGEST_SEED, (), generator=generator, device=generator.device))


def _as_output(images: list[Tensor], output_type: OutputType) -> list[Image.Image] | np.ndarray | Tensor:
    tensors = torch.cat([image.cpu() for image in images])
    if output_type == "pt":
        return tensors
    arrays = tensors.permute(0, 2, 3, 1).numpy()
    if output_type == "np":
        return arrays
    return [Image.fromarray((array * 255).round().astype(np.uint8)) for array in arrays]
