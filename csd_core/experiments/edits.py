"""The work of a cell: a picture or a clip edited by one method with one setting and seed.

All that decides the result is in Cell.hangs_on, which the functions plan_panorama and plan_video fill; the
work reads it from there. A cell keeps its frames as PNGs, a picture as one.
"""

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from csd_core.baselines import SamplingConfig, num_calls
from csd_core.canvas.panorama import Panorama, sample_panorama
from csd_core.canvas.video import VARIANTS, ArrayClip, VideoEdit
from csd_core.canvas.windows import axis_starts
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine.config import EditConfig
from csd_core.engine.plan import count_evaluations
from csd_core.errors import expect
from csd_core.experiments.grid import Cell
from csd_core.experiments.inputs import Input, read_frames, write_frames
from csd_core.experiments.settings import Model, Prompt, Variant, decisive, optimised
from csd_core.image_ops import resize
from csd_core.io.images import quantise
from csd_core.presets import PANORAMA, PANORAMA_MINI, VIDEO, VIDEO_MINI, Preset, panorama_preset, video_preset

FRAMES = "frames"
"""Folder of a cell's edited frames."""
MAX_BATCH = 16


def plan(
    cell: tuple[Input, Prompt, Variant, int],
    model: Model,
    *,
    is_video: bool,
    dtype: str,
    num_steps: int | None,
    stride: int | None,
) -> Cell:
    """The cell of an edit.

    Args:
        cell: input, prompt, variant and seed.
        model: the editor.
        is_video: of a clip, not of a picture.
        dtype: name of the type that the model computes in, where the variant does not say.
        num_steps: of optimisation, where the variant does not say. None: what suits the editor.
        stride: latent pixels from window to window, for pictures. None: what suits the editor.

    Raises:
        UserError: a setting out of range.
    """
    given_input, prompt, variant, seed = cell
    mini, full = (VIDEO_MINI, VIDEO) if is_video else (PANORAMA_MINI, PANORAMA)
    preset = mini if model.is_mini else full
    hangs_on: dict[str, Any] = {
        "input": given_input.sha256,
        "wording": prompt.text,
        "model": model.identity,
        "dtype": variant.given.get("dtype", dtype),
        "method": variant.method,
        "size": variant.given.get("size"),
        **_settings(variant, preset, num_steps, seed),
    }
    if not is_video:
        hangs_on["stride"] = stride or preset.stride
    return Cell(given_input.name, prompt.name, variant.method, variant.setting, seed, hangs_on)


def plan_extra(given_input: Input, prompt: Prompt, method: str, edited: Input) -> Cell:
    """The cell of a clip that another program edited."""
    return Cell(given_input.name, prompt.name, method, "", 0, {"extra": edited.sha256})


def _settings(variant: Variant, preset: Preset, num_steps: int | None, seed: int) -> dict[str, Any]:
    own = {name: value for name, value in variant.given.items() if name not in NOT_OF_A_CONFIG}
    if variant.method not in VARIANTS:
        sampling = preset.with_sampling(**own, seed=seed)
        sampling.check()
        return {"sampling": decisive(sampling)}
    edit = preset.with_edit(**own, seed=seed)
    edit.check()
    schedule = {"updates": preset.updates, "least_steps": preset.least_steps, "fade": preset.fade}
    return {
        "edit": decisive(edit),
        "lr_factor": variant.given.get("lr_factor", 1.0),
        "num_steps": variant.given.get("num_steps", num_steps),
        "schedule": schedule,
        **({} if variant.given.get("scaled", True) else {"scaled": False}),
    }


NOT_OF_A_CONFIG = ("size", "num_steps", "lr_factor", "scaled", "dtype")


@dataclass(frozen=True)
class EditWork:
    """Edits a cell; see grid.Work.

    Attributes:
        model: the editor.
        inputs: by name.
        is_video: clips, not pictures.
        dtype: name of the type that the model computes in.
        extras: folders of frames that other programs edited, by hash.
        local_files_only: never touch the network.
    """

    model: str
    inputs: Mapping[str, Input]
    is_video: bool
    dtype: str = "float32"
    extras: Mapping[str, Path] | None = None
    local_files_only: bool = False

    def __call__(self, cell: Cell, folder: Path, device: str) -> dict[str, Any]:
        """Write the edited frames; evaluations, steps and seconds of the edit alone."""
        source = self.inputs[cell.input].frames
        if "extra" in cell.hangs_on:
            write_frames(folder / FRAMES, self._extra(cell, source))
            return {"evaluations": None, "steps": None, "seconds": None}
        denoiser = self.load(device, cell.hangs_on["dtype"])
        source = [_sized(frame, cell.hangs_on["size"]) for frame in source]
        begun = time.perf_counter()
        with denoiser.count_evaluations() as evaluations, _expected_warnings():
            edited, told = (self._video if self.is_video else self._panorama)(cell, denoiser, source)
        told |= {"evaluations": evaluations.count, "seconds": round(time.perf_counter() - begun, 2)}
        write_frames(folder / FRAMES, edited)
        return told

    def load(self, device: str, dtype: str | None = None) -> InstructPix2Pix:
        """The editor on a device, in a type (default: the experiment's); loaded once in a process."""
        return _load(self.model, device, dtype or self.dtype, self.local_files_only)

    def evaluations(self, cell: Cell, denoiser: InstructPix2Pix) -> int:
        """Evaluations of the network that a cell takes; nothing is computed."""
        if "extra" in cell.hangs_on:
            return 0
        source = [_sized(frame, cell.hangs_on["size"]) for frame in self.inputs[cell.input].frames]
        if "edit" in cell.hangs_on:
            job = (self._video_job if self.is_video else self._panorama_job)(cell, denoiser, source)
            return count_evaluations(job.edit, job.prompts, job.num_particles)
        sampling = SamplingConfig(**cell.hangs_on["sampling"])
        windows = len(source) if self.is_video else _windows(cell, denoiser, source[0])
        guided = 3 if sampling.guidance_scale > 1 else 1
        return num_calls(denoiser, sampling) * guided * windows

    def _panorama(
        self, cell: Cell, denoiser: InstructPix2Pix, source: list[Tensor]
    ) -> tuple[list[Tensor], dict[str, Any]]:
        image = source[0][None]
        if "edit" in cell.hangs_on:
            job = self._panorama_job(cell, denoiser, source)
            edited = job.finish(job.run())
            told = {"steps": job.edit.num_steps, "particles": job.num_particles}
        else:
            sampling = SamplingConfig(**cell.hangs_on["sampling"])
            method, text, stride = (cell.hangs_on[name] for name in ("method", "wording", "stride"))
            edited = sample_panorama(method, denoiser, image, text, sampling, stride=stride, progress=False)
            told = {"steps": sampling.num_inference_steps}
        return [edited[0].cpu()], {**told, "borders": _borders(cell, denoiser, image)}

    def _video(
        self, cell: Cell, denoiser: InstructPix2Pix, source: list[Tensor]
    ) -> tuple[list[Tensor], dict[str, Any]]:
        job = self._video_job(cell, denoiser, source)
        if "edit" in cell.hangs_on:
            told = {"steps": job.edit.num_steps, "particles": job.num_particles}
            return list(job.finish(job.run())), told
        sampling = SamplingConfig(**cell.hangs_on["sampling"])
        return list(job.finish(job.sample(sampling))), {"steps": sampling.num_inference_steps}

    def _panorama_job(self, cell: Cell, denoiser: InstructPix2Pix, source: list[Tensor]) -> Panorama:
        preset = panorama_preset(denoiser)

        def prepare(edit: EditConfig) -> Panorama:
            return Panorama(
                denoiser,
                source[0][None],
                cell.hangs_on["wording"],
                edit,
                preset,
                num_steps=cell.hangs_on["num_steps"],
                stride=cell.hangs_on["stride"],
            )

        edit = _edit(cell)
        return prepare(optimised(edit, _variant(cell), prepare(edit).num_particles))

    def _video_job(self, cell: Cell, denoiser: InstructPix2Pix, source: list[Tensor]) -> VideoEdit:
        preset = video_preset(denoiser)
        clip = ArrayClip([quantise(frame, np.uint8) for frame in source])
        optimises = "edit" in cell.hangs_on
        edit = optimised(_edit(cell), _variant(cell), len(source)) if optimises else preset.edit
        steps = cell.hangs_on.get("num_steps")
        return VideoEdit(denoiser, clip, cell.hangs_on["wording"], edit, preset, num_steps=steps)

    def _extra(self, cell: Cell, source: list[Tensor]) -> list[Tensor]:
        frames = read_frames((self.extras or {})[cell.hangs_on["extra"]])
        expect(len(frames) == len(source), cell.method, f"{len(source)} frames", len(frames))
        return [resize(frame, (source[0].shape[-2], source[0].shape[-1])) for frame in frames]


@lru_cache(maxsize=2)
def _load(model: str, device: str, dtype: str, local_files_only: bool) -> InstructPix2Pix:
    return InstructPix2Pix.from_pretrained(
        model, torch_dtype=getattr(torch, dtype), device=device, local_files_only=local_files_only
    )


@contextmanager
def _expected_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "this editor was not taught")  # the experiment says what it asks
        yield


def _edit(cell: Cell) -> EditConfig:
    fields = dict(cell.hangs_on["edit"])
    return EditConfig(**{**fields, "t_range": tuple(fields["t_range"]), "max_batch": MAX_BATCH})


def _variant(cell: Cell) -> Variant:
    given = {name: cell.hangs_on[name] for name in ("lr_factor", "scaled") if name in cell.hangs_on}
    return Variant(cell.method, cell.setting, given)


def sized_source(cell: Cell, source: Input) -> list[Tensor]:
    """The frames as the cell edited them: its variant may name another size."""
    return [_sized(frame, cell.hangs_on.get("size")) for frame in source.frames]


def _sized(frame: Tensor, size: tuple[int, int] | None) -> Tensor:
    """size: width, height."""
    return frame if size is None else resize(frame, (size[1], size[0]))


def _windows(cell: Cell, denoiser: InstructPix2Pix, image: Tensor) -> int:
    if cell.method == "ip2p-resize":
        return 1
    side, factor = denoiser.native_size // denoiser.downscale, denoiser.downscale
    stride = cell.hangs_on["stride"] if cell.method == "ip2p-overlap" else side
    scale = max(1.0, denoiser.native_size / min(image.shape[-2:]))
    lengths = (-(-round(length * scale) // factor) for length in image.shape[-2:])
    rows, columns = (len(axis_starts(length, side, stride)) for length in lengths)
    return rows * columns


def _borders(cell: Cell, denoiser: InstructPix2Pix, image: Tensor) -> Any:
    """Rows and columns of the borders of the method's windows; of ip2p-resize, those of ip2p-patch."""
    from csd_core.evaluation.seams import borders

    window, optimises = denoiser.native_size, "edit" in cell.hangs_on
    by_stride = optimises or cell.method == "ip2p-overlap"
    stride = cell.hangs_on["stride"] * denoiser.downscale if by_stride else window
    padded = [length + -length % denoiser.downscale for length in image.shape[-2:]]
    return borders(padded, window, stride, window - stride if optimises else 0)
