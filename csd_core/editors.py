"""Editors in the manner of diffusers' pipelines: from_pretrained, a call, .images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from csd_core.denoisers.instruct_pix2pix import DEFAULT_MODEL, InstructPix2Pix
from csd_core.engine import ProgressBar
from csd_core.errors import UserError, expect
from csd_core.images import blend
from csd_core.panorama import Method, Panorama, changing, sample_panorama
from csd_core.presets import panorama_preset
from csd_core.regions import Region
from csd_core.schedule import step_generator

Picture = Image.Image | np.ndarray | Tensor
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

    def _callback(self, panorama: Panorama, on_step_end: OnStepEnd | None) -> Callable[[int, Tensor], bool]:
        """on_step_end as diffusers calls it, for the engine."""
        edit, schedule = panorama.edit, self.denoiser.schedule

        def report(step: int, canvas: Tensor) -> bool:
            if on_step_end is not None:
                timestep = schedule.sample_timestep(edit.t_range, step_generator(edit.seed, step, 0))
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
        stride: int | None = None,
        max_batch: int = 16,
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
            learning_rate, batch_size, t_range, stride: see EditConfig and Windows; csd alone.
            max_batch: evaluations at a time.
            generator: the seed is drawn from it. None: seed 0.
            callback_on_step_end: called as (editor, step, timestep, {"latents": canvas}) after every step of
                csd; latents in the dictionary that it returns replace the canvas.
            output_type: pil, np or pt.

        Raises:
            UserError (a ValueError): an input that does not fit.
        """
        pixels = as_image_tensor(image)
        prompts = [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)
        expect(len(prompts) > 0, "prompt", "at least one", "none")
        expect(method in get_args(Method), "method", f"one of {', '.join(get_args(Method))}", method)
        steps = num_inference_steps
        expect(steps is None or steps >= 1, "num_inference_steps", "at least 1", steps)
        expect(output_type in ("pil", "np", "pt"), "output_type", "pil, np or pt", output_type)
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
        edit = preset.with_edit(learning_rate=learning_rate, batch_size=batch_size, t_range=t_range, **common)
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
        report = self._callback(job, on_step_end)
        with ProgressBar(job.edit.num_steps, report, self._show_progress) as callback:
            return job.finish(job.run(callback=callback))

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


def as_image_tensor(image: Picture) -> Tensor:
    """An image of any accepted kind as (1, 3, H, W) float32 in [0, 1] on the CPU.

    Raises:
        UserError: another type, shape or range.
    """
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    if isinstance(image, np.ndarray):
        expect(image.ndim == 3 and image.shape[-1] == 3, "image", "an array (H, W, 3)", image.shape)
        tensor = torch.from_numpy(_unit("image", image)).permute(2, 0, 1)[None]
    elif isinstance(image, Tensor):
        tensor = _unit_tensor(image if image.ndim == 4 else image[None])
    else:
        raise UserError(f"image: expected PIL, numpy or torch, got {type(image).__name__}")
    shape = tuple(tensor.shape)
    expect(len(shape) == 4 and shape[:2] == (1, 3) and min(shape) > 0, "image", "a tensor (3, H, W)", shape)
    _expect_unit("image", tensor)
    return tensor


def as_mask_tensor(mask: Picture) -> Tensor:
    """A mask of any accepted kind as (H, W) float32 in [0, 1] on the CPU.

    Raises:
        UserError: another type, shape or range.
    """
    if isinstance(mask, Image.Image):
        mask = np.asarray(mask.convert("L"))
    if isinstance(mask, np.ndarray):
        tensor = torch.from_numpy(_unit("mask", mask))
    elif isinstance(mask, Tensor):
        tensor = _unit_tensor(mask)
    else:
        raise UserError(f"mask: expected PIL, numpy or torch, got {type(mask).__name__}")
    shape = tuple(tensor.shape)
    expect(len(shape) == 2 and min(shape) > 0, "mask", "an array (H, W)", shape)
    _expect_unit("mask", tensor)
    return tensor


def _unit(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype in (np.uint8, np.uint16):
        return array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    real = array.dtype == np.bool_ or np.issubdtype(array.dtype, np.floating)
    expect(real, name, "floats in [0, 1], or uint8", array.dtype)
    return array.astype(np.float32)


def _unit_tensor(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor.float()


def _expect_unit(name: str, tensor: Tensor) -> None:
    low, high = float(tensor.min()), float(tensor.max())
    expect(0 <= low <= high <= 1, name, "values in [0, 1], or uint8", f"{low:g} to {high:g}")


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
