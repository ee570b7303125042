"""What csd-edit-video does once its options are good: read, edit, write."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from csd_core.baselines import sample_video, sampling_config
from csd_core.canvas.video import MaskFrames, VideoEdit
from csd_core.choices import selection
from csd_core.cli.options import VideoOptions
from csd_core.cli.run import EditRun, check_ranks, print_notes, replaced_note
from csd_core.editors import prepare_video
from csd_core.engine.progress import ProgressBar
from csd_core.engine.ranks import current
from csd_core.io.files import content_hash
from csd_core.io.images import Picture, quantise, write_picture
from csd_core.io.video_masks import open_masks
from csd_core.io.video_writer import VideoWriter, check_can_write
from csd_core.io.videos import Video, read_video


@dataclass(frozen=True)
class Inputs:
    """The files of the options, read and checked."""

    video: Video
    masks: MaskFrames | None
    sha256: dict[str, str]
    """Path -> hash of each file, as it was when the edit began."""
    notes: list[str]
    """What the user should know of the output."""

    @classmethod
    def read(cls, options: VideoOptions) -> "Inputs":
        """Read video and mask.

        Raises:
            UserError: one of them cannot be read or does not fit, or the output cannot hold the result.
        """
        options.check(*options.sources)
        given, limits, writing = options.edit, options.memory, options.writing
        video = read_video(
            options.video,
            frames=selection(given.frames),
            max_frames=limits.max_frames,
            max_pixels=limits.max_pixels,
            frame_rate=writing.rate,
            allow_corrupt=given.allow_corrupt,
        )
        notes = check_can_write(
            options.output, video, codec=writing.codec, crf=writing.crf, sound=writing.sound
        )
        masks = None
        if given.mask:
            limit, corrupt = limits.max_pixels, given.allow_corrupt
            masks = open_masks(given.mask, video, max_pixels=limit, allow_corrupt=corrupt)
        return cls(video, masks, {str(path): content_hash(path) for path in options.sources}, notes)


def run(options: VideoOptions) -> None:
    """Read, edit and write."""
    ranks = current()
    check_ranks(options, ranks)
    # the others need the size of the video alone
    inputs = ranks.broadcast(lambda: Inputs.read(options), lambda read: replace(read, masks=None))
    print_notes(notes(options, inputs), ranks)
    this = EditRun.start("csd-edit-video", options, inputs.sha256, ranks)
    with this.denoiser.count_evaluations() as evaluations:
        job = prepare(this, options, inputs)
        if options.writing.dry_run:
            this.print_plan(job, describe(job, inputs.video))
            return
        write = partial(write_canvas, job, options, inputs.video)
        if options.is_sampled:
            canvas, settings = sample(this, job, options)
        else:
            canvas = this.edit(job, write, partial(write_preview, job))
            settings = {"edit": vars(job.edit)}
        total = ranks.total(evaluations.count)
        if not ranks.is_main:
            return
        with this.keeping_the_edit():
            write(options.output, canvas)
    this.conclude(settings | {"frames": job.num_particles, "size_of_the_edit": job.size}, total)


def prepare(this: EditRun, options: VideoOptions, inputs: Inputs) -> VideoEdit:
    """The edit of the options; see VideoEdit."""
    given = options.edit
    return prepare_video(
        this.denoiser,
        inputs.video,
        options.prompt,
        given.settings(options.memory.chunk_size),
        method=options.method,
        source_prompt=given.source_prompt,
        num_steps=given.num_steps,
        resolution=given.resolution,
        masks=inputs.masks,
    )


def sample(this: EditRun, job: VideoEdit, options: VideoOptions) -> tuple[Tensor, dict[str, Any]]:
    """Edit each frame independently; a canvas, and settings for the manifest."""
    preset = this.denoiser.presets["video"]
    config = sampling_config(preset, **options.edit.sampling(options.memory.chunk_size))
    return sample_video(job, this.denoiser, config, progress=True), {"sampling": vars(config)}


def write_canvas(job: VideoEdit, options: VideoOptions, video: Video, path: Path, canvas: Tensor) -> None:
    """A canvas as a video."""
    writing = options.writing
    with (
        VideoWriter(path, video, codec=writing.codec, crf=writing.crf, sound=writing.sound) as writer,
        ProgressBar(job.num_particles, None, True, desc="write", unit="frame") as report,
    ):
        for k, frame in enumerate(job.finish(canvas)):
            writer.write(quantise(frame, np.uint8))
            report(k, canvas)


def write_preview(job: VideoEdit, path: Path, canvas: Tensor) -> None:
    """Some frames of a canvas as a picture."""
    write_picture(path, Picture(quantise(job.preview(canvas), np.uint8)))


def notes(options: VideoOptions, inputs: Inputs) -> Iterator[str]:
    """What a user may have overlooked."""
    yield from inputs.notes
    if options.edit.mask and options.output.suffix and options.writing.codec != "ffv1":
        exact = "a folder of PNGs, or .mkv with --codec ffv1, keeps them exactly"
        yield f"{options.output.suffix} is lossy: outside the mask pixels change a little; {exact}"
    if inputs.video.num_frames == 1:
        yield "this is one frame: there is none to agree with, and the method is plain score distillation"
    yield from replaced_note(options)


def describe(job: VideoEdit, video: Video) -> list[tuple[str, str]]:
    """Frames and steps of an edit: names and figures."""
    edit, (height, width) = job.edit, job.size
    each = edit.num_steps / job.steps_per_round
    return [
        ("frames", f"{video.num_frames} of {video.total}, {video.width} x {video.height} pixels"),
        ("edited at", f"{width} x {height} pixels"),
        (
            "steps",
            f"{edit.num_steps} with {edit.batch_size} frames each: a frame moves in {each:.1f} of them",
        ),
    ]
