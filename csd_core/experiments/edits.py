"""Experiments on panoramas and videos: their inputs and grid, and the work that makes a cell.

EditWork.plan puts everything that decides the result into Cell.settings; the work reads it from there. A cell
keeps its frames as PNGs, a picture as one.
"""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from csd_core.baselines import sample_panorama, sample_video, sampling_config
from csd_core.canvas.detail import DETAIL
from csd_core.canvas.panorama import Panorama
from csd_core.canvas.video import VideoEdit
from csd_core.denoisers.base import Denoiser, SamplingConfig
from csd_core.denoisers.families import load_denoiser
from csd_core.denoisers.runtime.device import as_dtype, dtype_name
from csd_core.engine.config import MethodConfig
from csd_core.engine.methods import VARIANTS
from csd_core.experiments.experiment import Experiment, Scale
from csd_core.experiments.grid import Cell
from csd_core.experiments.inputs import (
    Input,
    read_frames,
    read_inputs,
    render_clips,
    render_panoramas,
    write_frames,
)
from csd_core.experiments.measures import Measures, all_measures
from csd_core.experiments.options import ExperimentOptions, PreparedExperiment
from csd_core.experiments.settings import Model, Prompt, Variant, decisive, optimised
from csd_core.image_ops import resize
from csd_core.io.arrays import ArrayClip
from csd_core.io.images import quantise
from csd_core.presets import Preset

if TYPE_CHECKING:
    from csd_core.evaluation import Borders, Tools

FRAMES = "frames"
"""Folder of a cell's edited frames."""


def prepare_images(experiment: Experiment, options: ExperimentOptions) -> PreparedExperiment:
    """Read or render the inputs, find the model and build the grid.

    Raises:
        UserError: an input that cannot be read, an unknown model, instruction or method, a setting out of
            range.
    """
    model = Model.find(options.model, local_files_only=options.local_files_only)
    scale = experiment.mini if model.is_mini else experiment.full
    is_video = experiment.domain == "video"
    choices = options.choices(scale, model.is_mini)
    inputs = find_inputs(options, scale, is_video)
    work = EditWork(
        model,
        {source.sha256: source for source in inputs},
        is_video,
        dtype_name(as_dtype(options.dtype, torch.device(options.device or "cpu"))),
        options.num_steps or scale.num_steps,
        options.stride or scale.stride,
        options.local_files_only,
    )
    cells = options.grid(work.plan, inputs, choices)
    height, width = inputs[0].arrays[0].shape[:2]
    listed = {
        "model hash": model.identity,
        "inputs": {source.name: source.sha256[:16] for source in inputs},
        "size": f"{width}x{height}",
        "frames": len(inputs[0].arrays),
        "steps": work.num_steps,
        "stride": work.stride,
        "precision": work.dtype,
    }
    return PreparedExperiment(cells, work, listed)


def find_inputs(options: ExperimentOptions, scale: Scale, is_video: bool) -> list[Input]:
    """The inputs, read or rendered.

    Raises:
        UserError: there are none, or one cannot be read.
    """
    count, num_frames = options.num_inputs or scale.num_inputs, options.num_frames or scale.num_frames
    if options.inputs is not None:
        return read_inputs(
            options.inputs,
            is_video=is_video,
            short_side=options.size or scale.short_side,
            num_inputs=count,
            num_frames=num_frames,
        )
    width, height = scale.rendered_size
    if options.size is not None:
        width, height = round(width * options.size / height), options.size
    if is_video:
        return render_clips(count or 1, height, num_frames)
    return render_panoramas(count or 1, (width, height))


@dataclass(frozen=True)
class EditWork:
    """Plans, edits and measures cells; see options.Work."""

    model: Model
    """The editor."""
    inputs: Mapping[str, Input]
    """By hash."""
    is_video: bool
    """Clips, not pictures."""
    dtype: str
    """Name of the model's data type, where a variant does not set it."""
    num_steps: int | None = None
    """Of optimisation, where a variant does not set them. None: the preset's."""
    stride: int | None = None
    """Latent pixels from window to window, for pictures. None: the preset's."""
    local_files_only: bool = False
    """Never access the network."""

    def plan(self, source: Input, prompt: Prompt, variant: Variant, seed: int) -> Cell:
        """The cell of an edit.

        Raises:
            UserError: a setting out of range.
        """
        preset, given = self._preset, {**variant.config, "seed": seed}
        optimises = variant.method in VARIANTS
        config = MethodConfig.from_preset(preset, **given) if optimises else sampling_config(preset, **given)
        config.check()
        settings = {
            "input": source.sha256,
            "model": self.model.identity,
            "config": decisive(config),
            "dtype": variant.given.get("dtype", self.dtype),
            "num_steps": variant.given.get("num_steps", self.num_steps),
            "schedule": [preset.updates, preset.least_steps, preset.fade],
            "stride": None if self.is_video else self.stride or preset.stride,
        }
        return Cell(source.name, prompt, variant, seed, settings)

    def __call__(self, cell: Cell, folder: Path, device: str) -> dict[str, Any]:
        """Write the edited frames; evaluations, steps and seconds of the edit alone, and more."""
        source = self.source(cell)
        denoiser = _load(self.model.spec, device, cell.settings["dtype"], self.local_files_only)
        began = time.perf_counter()
        with denoiser.count_evaluations() as evaluations, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "this editor was not taught")  # the experiment's instruction
            edit = self._optimise if cell.variant.method in VARIANTS else self._sample
            edited, record = edit(cell, denoiser, source)
        record |= {"evaluations": evaluations.count, "seconds": round(time.perf_counter() - began, 2)}
        if not self.is_video:
            record["borders"] = _borders(cell, denoiser, source[0])
        write_frames(folder / FRAMES, edited)
        return record

    def source(self, cell: Cell) -> list[Tensor]:
        """The frames (3, H, W) as the cell edits them: its variant may set another size."""
        width, height = cell.variant.given.get("size", (None, None))
        frames = self.inputs[cell.settings["input"]].frames
        return [resize(frame, (height, width)) for frame in frames] if width else frames

    def frames(self, cell: Cell, folder: Path) -> tuple[list[Tensor], list[Tensor]]:
        """Frames of source and edit of a finished cell."""
        return self.source(cell), read_frames(cell.path(folder) / FRAMES)

    def measure(self, cell: Cell, folder: Path, tools: "Tools") -> Measures:
        """All measures of a finished cell."""
        from csd_core.evaluation import Borders, Captions, measure_panorama, measure_video

        before, after = self.frames(cell, folder)
        captions = Captions(cell.prompt.source, cell.prompt.target)
        if self.is_video:
            evaluated = measure_video(before, after, captions, tools)
        else:
            lines = cell.record(folder)["borders"]
            borders = Borders(*lines) if lines else None
            evaluated = measure_panorama(before[0], after[0], captions, tools, borders=borders)
        return all_measures(evaluated, cell.prompt, before, after)

    def _optimise(
        self, cell: Cell, denoiser: Denoiser, source: Sequence[Tensor]
    ) -> tuple[list[Tensor], dict[str, Any]]:
        given, config = cell.variant.given, cell.settings["config"]
        method = MethodConfig(**{**config, "t_range": tuple(config["t_range"])})
        fixed = {"preset": self._preset, "num_steps": cell.settings["num_steps"]}
        if self.is_video:
            edit = VideoEdit(denoiser, _clip(source), cell.prompt.text, method, **fixed)
            options = (given.get("detail", DETAIL),)
        else:
            fixed |= {"stride": cell.settings["stride"], "borders": given.get("borders", "margin")}
            edit = Panorama(denoiser, source[0][None], cell.prompt.text, method, **fixed)
            options = ()
        # not before the number of particles is known
        edit.edit = optimised(edit.edit, cell.variant, edit.num_particles)
        frames = list(edit.finish(edit.run(), *options))
        return frames, {"steps": edit.edit.num_steps, "particles": edit.num_particles}

    def _sample(
        self, cell: Cell, denoiser: Denoiser, source: Sequence[Tensor]
    ) -> tuple[list[Tensor], dict[str, Any]]:
        sampling, text = SamplingConfig(**cell.settings["config"]), cell.prompt.text
        if self.is_video:
            method = MethodConfig.from_preset(self._preset)
            edit = VideoEdit(denoiser, _clip(source), text, method, preset=self._preset)
            edited = list(edit.finish(sample_video(edit, denoiser, sampling)))
        else:
            image, stride = source[0][None], cell.settings["stride"]
            edited = sample_panorama(
                cell.variant.method, denoiser, image, text, sampling, stride=stride, progress=False
            )
        return [frame.cpu() for frame in edited], {"steps": sampling.num_inference_steps}

    @property
    def _preset(self) -> Preset:
        return self.model.preset(is_video=self.is_video)


@lru_cache(maxsize=2)
def _load(model: str, device: str, dtype: str, local_files_only: bool) -> Denoiser:
    return load_denoiser(
        model, torch_dtype=getattr(torch, dtype), device=device, local_files_only=local_files_only
    )


def _clip(frames: Sequence[Tensor]) -> ArrayClip:
    return ArrayClip([quantise(frame, np.uint8) for frame in frames])


def _borders(cell: Cell, denoiser: Denoiser, image: Tensor) -> "Borders | None":
    """Rows and columns of the borders of the method's windows; of ip2p-resize, those of ip2p-patch."""
    from csd_core.evaluation.seams import borders

    window, optimises = denoiser.native_size, cell.variant.method in VARIANTS
    by_stride = optimises or cell.variant.method == "ip2p-overlap"
    stride = cell.settings["stride"] * denoiser.downscale if by_stride else window
    has_margin = optimises and cell.variant.given.get("borders", "margin") == "margin"
    padded = [length + -length % denoiser.downscale for length in image.shape[-2:]]
    return borders(padded, window, stride, window - stride if has_margin else 0)
