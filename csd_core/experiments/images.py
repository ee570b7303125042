"""Experiments on panoramas and videos: their inputs and grid."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from csd_core.errors import expect
from csd_core.experiments.edits import EditWork, plan, plan_extra
from csd_core.experiments.experiment import Experiment, Scale
from csd_core.experiments.inputs import Input, read_inputs, render_clips, render_panoramas
from csd_core.experiments.options import ExperimentOptions, GridEntry, PreparedExperiment, grid_of
from csd_core.experiments.settings import Model, Prompt, Variant


def prepare_images(experiment: Experiment, options: ExperimentOptions) -> PreparedExperiment:
    """Read or render the inputs, find the model and build the grid.

    Raises:
        UserError: an input that cannot be read, an unknown model, instruction or method, a setting out of
            range.
    """
    model = Model.find(options.model, local_files_only=options.local_files_only)
    scale = experiment.mini if model.is_mini else experiment.full
    is_video = experiment.domain == "video"
    prompts, variants = options.prompts_of(scale, model.is_mini), options.variants_of(scale)
    inputs = find_inputs(options, scale, is_video)
    num_steps, stride = options.num_steps or scale.num_steps, options.stride or scale.stride
    dtype = options.precision
    make = partial(plan, model=model, is_video=is_video, dtype=dtype, num_steps=num_steps, stride=stride)
    entries, extras = grid_of(options.seeds, inputs, prompts, variants, make), {}
    for source, prompt, variant, edited in find_extras(options, inputs, prompts):
        entries.append(GridEntry(plan_extra(source, prompt, variant.method, edited), variant, prompt))
        extras[edited.sha256] = edited.folder
    work = EditWork(
        options.model,
        {source.name: source for source in inputs},
        is_video,
        model.preset(is_video=is_video),
        extras,
        options.local_files_only,
    )
    return PreparedExperiment(
        entries,
        work,
        work.measure,
        work.frames,
        {
            "model hash": model.identity,
            "inputs": {source.name: source.sha256[:16] for source in inputs},
            "size": "x".join(str(side) for side in reversed(inputs[0].frames[0].shape[-2:])),
            "frames": len(inputs[0].frames),
            "steps": num_steps,
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
    num_frames = options.num_frames or scale.num_frames
    if options.inputs is not None:
        return read_inputs(
            options.inputs,
            root,
            is_video=is_video,
            short_side=options.size or scale.short_side,
            num_inputs=count,
            num_frames=num_frames,
        )
    width, height = scale.rendered_size
    if options.size is not None:
        width, height = round(width * options.size / height), options.size
    if is_video:
        return render_clips(root, count or 1, height, num_frames)
    return render_panoramas(root, count or 1, (width, height))


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
                wanted = len(source.frames)
                (edited,) = read_inputs(
                    folder,
                    options.output / "inputs" / "extra",
                    is_video=True,
                    short_side=None,
                    num_inputs=1,
                    num_frames=wanted,
                )
                got = len(edited.frames)
                expect(got == wanted, f"extra {name}, {folder}", f"{wanted} frames", got)
                yield source, prompt, Variant(name), edited
