"""Experiments on panoramas and videos, made ready."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from csd_core.errors import expect
from csd_core.experiments.edits import FRAMES, EditWork, plan, plan_extra, sized_source
from csd_core.experiments.experiment import Experiment, Scale
from csd_core.experiments.figures import measure_cell
from csd_core.experiments.grid import Cell
from csd_core.experiments.inputs import Input, draw_clips, draw_panoramas, read_frames, read_inputs
from csd_core.experiments.options import Entry, ExperimentOptions, Prepared
from csd_core.experiments.settings import Model, Prompt, Variant

SHEET_FRAMES = 6


def prepare_images(experiment: Experiment, options: ExperimentOptions) -> Prepared:
    """Read or draw the inputs, find the model and lay out the grid.

    Raises:
        UserError: an input that cannot be read, an unknown model, instruction or method, a setting out of
            range.
    """
    model = Model.find(options.model, local_files_only=options.local_files_only)
    scale = experiment.mini if model.is_mini else experiment.full
    is_video = experiment.domain == "video"
    variants, prompts = options.variants_of(scale, experiment), options.prompts_of(scale, model.is_mini)
    inputs = find_inputs(options, scale, is_video)
    steps = options.num_steps or scale.num_steps
    seeds = [(seed, i, p, v) for seed in options.seeds for i in inputs for p in prompts for v in variants]
    stride, dtype = options.stride or scale.stride, options.precision
    make = partial(plan, model=model, is_video=is_video, dtype=dtype, num_steps=steps, stride=stride)
    entries = [Entry(make((i, p, v, seed)), v, p) for seed, i, p, v in seeds]
    edited = list(find_extras(options, inputs, prompts))
    entries += [Entry(plan_extra(i, p, v.method, e), v, p) for i, p, v, e in edited]
    by_name = {entry.name: entry for entry in inputs}
    work = EditWork(
        options.model,
        by_name,
        is_video,
        dtype,
        {e.sha256: e.folder for *_, e in edited},
        options.local_files_only,
    )
    return Prepared(
        entries,
        work,
        lambda e, folder, tools: measure_cell(
            e.cell, folder, by_name[e.cell.input], e.prompt, tools, is_video=is_video
        ),
        Counter(work, options).count,
        lambda e, folder: _sheet_rows(e.cell, folder, by_name[e.cell.input]),
        {
            "model": options.model,
            "model hash": model.identity,
            "inputs": {i.name: i.sha256[:16] for i in inputs},
            "size": "x".join(str(side) for side in reversed(inputs[0].frames[0].shape[-2:])),
            "frames": len(inputs[0].frames),
            "prompts": {p.name: [p.text, p.source, p.target] for p in prompts},
            "seeds": list(options.seeds),
            "steps": steps,
            "stride": stride,
            "precision": dtype,
        },
    )


def find_inputs(options: ExperimentOptions, scale: Scale, is_video: bool) -> list[Input]:
    """The inputs, kept in the output folder.

    Raises:
        UserError: there are none, or one cannot be read.
    """
    root, count = options.output / "inputs", options.num_inputs or scale.num_inputs
    frames = options.num_frames or scale.num_frames
    if options.inputs is not None:
        side = options.size or scale.short_side
        return read_inputs(
            options.inputs, root, is_video=is_video, short_side=side, num_inputs=count, num_frames=frames
        )
    width, height = scale.drawn_size
    if options.size is not None:
        width, height = round(width * options.size / height), options.size
    if is_video:
        return draw_clips(root, count or 1, height, frames)
    return draw_panoramas(root, count or 1, (width, height))


def find_extras(
    options: ExperimentOptions, inputs: list[Input], prompts: list[Prompt]
) -> Iterator[tuple[Input, Prompt, Variant, Input]]:
    """Input, instruction, row and frames of each clip that another program edited.

    Raises:
        UserError: one is missing, or cannot be read.
    """
    for pair in options.extra:
        name, _, given = pair.partition("=")
        for source in inputs:
            for prompt in prompts:
                folder = Path(given) / source.name / prompt.name
                if not folder.is_dir() and len(inputs) == len(prompts) == 1:
                    folder = Path(given)
                expect(folder.is_dir(), f"extra {name}", f"frames in {folder}", "no such folder")
                edited = read_inputs(
                    folder,
                    options.output / "inputs" / "extra",
                    is_video=True,
                    short_side=None,
                    num_inputs=1,
                    num_frames=len(source.frames),
                )
                got, wanted = len(edited[0].frames), len(source.frames)
                expect(got == wanted, f"extra {name}, {folder}", f"{wanted} frames", got)
                yield source, prompt, Variant(name), edited[0]


class Counter:
    """Counts evaluations; the model is loaded when the first are asked for."""

    def __init__(self, work: EditWork, options: ExperimentOptions) -> None:
        self._work, self._device = work, options.device[0] if options.device else "cpu"

    def count(self, cell: Cell) -> int:
        """Evaluations of a cell."""
        return self._work.evaluations(cell, self._work.load(self._device))


def _sheet_rows(cell: Cell, folder: Path, source: Input) -> tuple[Tensor, Tensor]:
    from csd_core.mini_editor.training.sampling import spread

    before, after = sized_source(cell, source), read_frames(cell.path(folder) / FRAMES)
    some = spread(len(before), min(SHEET_FRAMES, len(before)))
    return torch.stack([before[k] for k in some]), torch.stack([after[k] for k in some])
