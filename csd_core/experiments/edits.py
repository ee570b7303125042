"""Edits of pictures and clips: what a cell depends on, and the work that makes it.

The functions plan and plan_extra put everything that decides the result into Cell.settings; the work reads it
from there. A cell keeps its frames as PNGs, a picture as one.
"""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from csd_core.engine.config import MethodConfig
from csd_core.engine.methods import VARIANTS
from csd_core.errors import expect
from csd_core.experiments.grid import Cell
from csd_core.experiments.inputs import Input, read_frames, write_frames
from csd_core.experiments.measures import CellMeasures, all_measures
from csd_core.experiments.options import GridEntry
from csd_core.experiments.settings import Model, Prompt, Variant, decisive, optimised
from csd_core.image_ops import resize
from csd_core.io.arrays import ArrayClip
from csd_core.io.images import quantise
from csd_core.presets import Preset

if TYPE_CHECKING:
    from csd_core.evaluation import Borders, Tools

FRAMES = "frames"
"""Folder of a cell's edited frames."""


def plan(
    source: Input,
    prompt: Prompt,
    variant: Variant,
    seed: int,
    *,
    model: Model,
    is_video: bool,
    dtype: str,
    num_steps: int | None,
    stride: int | None,
) -> Cell:
    """The cell of an edit.

    Args:
        source: what is edited.
        prompt: the instruction.
        variant: the row.
        seed: of the edit.
        model: the editor.
        is_video: of a clip, not of a picture.
        dtype: name of the model's data type, where the variant does not set it.
        num_steps: of optimisation, where the variant does not set them. None: the preset's.
        stride: latent pixels from window to window, for pictures. None: the preset's.

    Raises:
        UserError: a setting out of range.
    """
    preset = model.preset(is_video=is_video)
    given = {**variant.config, "seed": seed}
    optimises = variant.method in VARIANTS
    config = MethodConfig.from_preset(preset, **given) if optimises else sampling_config(preset, **given)
    config.check()
    settings = {
        "input": source.sha256,
        "text": prompt.text,
        "model": model.identity,
        "config": decisive(config),
        "given": dict(variant.given),
        "dtype": variant.given.get("dtype", dtype),
        "num_steps": variant.given.get("num_steps", num_steps),
        "schedule": [preset.updates, preset.least_steps, preset.fade],
        "stride": None if is_video else stride or preset.stride,
    }
    return Cell(source.name, prompt.name, variant.method, variant.setting, seed, settings)


def plan_extra(source: Input, prompt: Prompt, method: str, edited: Input) -> Cell:
    """The cell of a clip that another program edited."""
    return Cell(source.name, prompt.name, method, "", 0, {"extra": edited.sha256})


@dataclass(frozen=True)
class EditWork:
    """Edits a cell; see grid.Work.

    Attributes:
        model: the editor.
        inputs: by name.
        is_video: clips, not pictures.
        preset: settings of the model.
        extras: folders of frames that other programs edited, by hash.
        local_files_only: never access the network.
    """

    model: str
    inputs: Mapping[str, Input]
    is_video: bool
    preset: Preset
    extras: Mapping[str, Path]
    local_files_only: bool = False

    def __call__(self, cell: Cell, folder: Path, device: str) -> dict[str, Any]:
        """Write the edited frames; evaluations, steps and seconds of the edit alone, and more."""
        source = self.source(cell)
        if "extra" in cell.settings:
            write_frames(folder / FRAMES, self._extra(cell, source))
            return {"evaluations": None, "steps": None, "seconds": None}
        denoiser = _load(self.model, device, cell.settings["dtype"], self.local_files_only)
        begun = time.perf_counter()
        with denoiser.count_evaluations() as evaluations, _expected_warnings():
            edit = self._optimise if cell.method in VARIANTS else self._sample
            edited, record = edit(cell, denoiser, source)
        record |= {"evaluations": evaluations.count, "seconds": round(time.perf_counter() - begun, 2)}
        if not self.is_video:
            record["borders"] = _borders(cell, denoiser, source[0])
        write_frames(folder / FRAMES, edited)
        return record

    def source(self, cell: Cell) -> list[Tensor]:
        """The frames (3, H, W) as the cell edits them: its variant may set another size."""
        width, height = cell.settings.get("given", {}).get("size", (None, None))
        frames = self.inputs[cell.input].frames
        return [resize(frame, (height, width)) for frame in frames] if width else frames

    def frames(self, cell: Cell, folder: Path) -> tuple[list[Tensor], list[Tensor]]:
        """Frames of source and edit of a finished cell."""
        return self.source(cell), read_frames(cell.path(folder) / FRAMES)

    def measure(self, entry: GridEntry, folder: Path, tools: "Tools") -> CellMeasures:
        """All measures of a finished cell."""
        from csd_core.evaluation import Borders, Captions, measure_panorama, measure_video

        before, after = self.frames(entry.cell, folder)
        captions = Captions(entry.prompt.source, entry.prompt.target)
        if self.is_video:
            evaluated = measure_video(before, after, captions, tools)
        else:
            lines = entry.cell.record(folder)["borders"]
            borders = Borders(*lines) if lines else None
            evaluated = measure_panorama(before[0], after[0], captions, tools, borders=borders)
        return all_measures(evaluated, entry.prompt, before, after)

    def _optimise(
        self, cell: Cell, denoiser: Denoiser, source: Sequence[Tensor]
    ) -> tuple[list[Tensor], dict[str, Any]]:
        edit = self._prepare(cell, denoiser, source)
        canvas = edit.run()
        if isinstance(edit, VideoEdit):
            frames = list(edit.finish(canvas, cell.settings["given"].get("detail", DETAIL)))
        else:
            frames = list(edit.finish(canvas))
        return frames, {"steps": edit.edit.num_steps, "particles": edit.num_particles}

    def _prepare(self, cell: Cell, denoiser: Denoiser, source: Sequence[Tensor]) -> Panorama | VideoEdit:
        given, num_steps = cell.settings["given"], cell.settings["num_steps"]
        shared = (cell.settings["text"], _method_config(cell))
        fixed = {"preset": self.preset, "num_steps": num_steps}
        if self.is_video:
            edit = VideoEdit(denoiser, _clip(source), *shared, **fixed)
        else:
            borders, stride = given.get("borders", "margin"), cell.settings["stride"]
            image = source[0][None]
            edit = Panorama(denoiser, image, *shared, **fixed, stride=stride, borders=borders)
        # not before the number of particles is known
        edit.edit = optimised(edit.edit, Variant(cell.method, cell.setting, given), edit.num_particles)
        return edit

    def _sample(
        self, cell: Cell, denoiser: Denoiser, source: Sequence[Tensor]
    ) -> tuple[list[Tensor], dict[str, Any]]:
        sampling, text = SamplingConfig(**cell.settings["config"]), cell.settings["text"]
        if self.is_video:
            method = MethodConfig.from_preset(self.preset)
            edit = VideoEdit(denoiser, _clip(source), text, method, preset=self.preset)
            edited = list(edit.finish(sample_video(edit, denoiser, sampling)))
        else:
            image, stride = source[0][None], cell.settings["stride"]
            edited = sample_panorama(
                cell.method, denoiser, image, text, sampling, stride=stride, progress=False
            )
        return [frame.cpu() for frame in edited], {"steps": sampling.num_inference_steps}

    def _extra(self, cell: Cell, source: Sequence[Tensor]) -> list[Tensor]:
        frames = read_frames(self.extras[cell.settings["extra"]])
        expect(len(frames) == len(source), cell.method, f"{len(source)} frames", len(frames))
        return [resize(frame, (source[0].shape[-2], source[0].shape[-1])) for frame in frames]


@lru_cache(maxsize=2)
def _load(model: str, device: str, dtype: str, local_files_only: bool) -> Denoiser:
    return load_denoiser(
        model, torch_dtype=getattr(torch, dtype), device=device, local_files_only=local_files_only
    )


@contextmanager
def _expected_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "this editor was not taught")  # the experiment sets the instruction
        yield


def _method_config(cell: Cell) -> MethodConfig:
    config = cell.settings["config"]
    return MethodConfig(**{**config, "t_range": tuple(config["t_range"])})


def _clip(frames: Sequence[Tensor]) -> ArrayClip:
    return ArrayClip([quantise(frame, np.uint8) for frame in frames])


def _borders(cell: Cell, denoiser: Denoiser, image: Tensor) -> "Borders | None":
    """Rows and columns of the borders of the method's windows; of ip2p-resize, those of ip2p-patch."""
    from csd_core.evaluation.seams import borders

    window, optimises = denoiser.native_size, cell.method in VARIANTS
    by_stride = optimises or cell.method == "ip2p-overlap"
    stride = cell.settings["stride"] * denoiser.downscale if by_stride else window
    has_margin = optimises and cell.settings["given"].get("borders", "margin") == "margin"
    padded = [length + -length % denoiser.downscale for length in image.shape[-2:]]
    return borders(padded, window, stride, window - stride if has_margin else 0)
