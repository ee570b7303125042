"""csd-edit-video: edit a video by an instruction, so that its frames agree."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from csd_core.baselines import SamplingConfig
from csd_core.canvas.detail import DETAIL, Detail
from csd_core.canvas.video import Method, VideoEdit, with_method
from csd_core.cli.job import Job, as_table, conclude, forget, hint, load, unfinished
from csd_core.cli.options import EditOptions, beside, selection
from csd_core.command import run_command
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine.progress import ProgressBar
from csd_core.engine.ranks import Ranks, current
from csd_core.errors import expect
from csd_core.io.files import content_hash
from csd_core.io.images import Picture, quantise, write_picture
from csd_core.io.video_masks import Masks, open_masks
from csd_core.io.video_writer import VideoWriter, check_can_write
from csd_core.io.videos import MAX_FRAMES, Video, read_video
from csd_core.presets import video_preset


@dataclass(kw_only=True)
class VideoOptions(EditOptions):
    """Options of csd-edit-video."""

    video: Path
    """Video to edit: mp4, mov, webm, mkv, gif, animated webp and the like, or a folder of frames. The name of
    the output says which of these it becomes; one without a suffix is a folder of PNGs."""
    num_steps: int | None = None
    """Optimisation steps (for ip2p-frame: sampling steps). Default: 200, and more for more than 24 frames, so
    that each is moved as often; fewer with mini."""
    frames: str = ":"
    """Frames to edit as START:STOP:STEP, counted from 0, the last one not included: 0:48, 100:, ::2."""
    max_frames: int = MAX_FRAMES
    """More frames than this are refused."""
    resolution: int | None = None
    """Short side of the edit in pixels; frames keep their size. Default: what the model was trained at."""
    detail: Detail = DETAIL
    """How the edit comes back to the size of the frames: as a local change of colours (guided), as a
    difference (residual), or as the decoded frames enlarged (none)."""
    method: Method = "csd"
    """csd; for comparison without the exchange between frames (no-svgd), with another baseline (sds, dds), or
    each frame by itself (ip2p-frame)."""
    source_prompt: str = ""
    """What the video shows; for dds."""
    codec: str | None = None
    """Encoder, such as libx265 or ffv1. Default: what suits the name of the output."""
    crf: int | None = None
    """Quality of the encoder, lower is better. Default: 18 (webm: 30)."""
    sound: bool = True
    """Copy the sound as it is."""

    def check(self, *sources: Path) -> None:
        """See EditOptions.check."""
        for source in sources:
            self._check_apart(source)
        super().check(*sources)
        expect(self.num_steps is None or self.num_steps >= 1, "num_steps", "at least 1", self.num_steps)
        expect(self.max_frames >= 1, "max_frames", "at least 1", self.max_frames)
        expect(bool(self.prompt.strip()), "prompt", "an instruction", "nothing")
        if self.method == "ip2p-frame":
            for name in ("resume", "preview_every", "dry_run"):
                expect(not getattr(self, name), name, "a method other than ip2p-frame", self.method)

    def _check_apart(self, source: Path) -> None:
        """A folder that is replaced holds no input, and nothing is written between the frames of one."""
        place, given = self.output.resolve(), source.resolve()
        expect(self.output.name not in ("", ".."), str(self.output), "a name of its own", "none; name a file")
        around = "a folder around an input; choose another output"
        expect(place not in given.parents, str(self.output), "a file or a new folder", around)
        inside = "one among them; choose another output"
        expect(place.parent != given, str(self.output), f"a place outside the frames in {source}", inside)

    @property
    def may_be_folder(self) -> bool:
        """See EditOptions: a name without suffix is a folder of frames."""
        return not self.output.suffix

    @property
    def preview(self) -> Path:
        """Where previews are written: frames side by side, a picture."""
        return beside(self.output, "preview").with_suffix(".png")

    @property
    def incidental(self) -> set[str]:
        """See EditOptions: how the frames are written, too."""
        return super().incidental | {"max_frames", "detail", "codec", "crf", "sound"}

    @property
    def selection(self) -> slice:
        """Which frames.

        Raises:
            UserError: it is not START:STOP:STEP.
        """
        return selection(self.frames)


@dataclass(frozen=True)
class Inputs:
    """What the options name, read and checked."""

    video: Video
    masks: Masks | None
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
        named = [path for path in (options.video, options.mask) if path]
        options.check(*named)
        video = read_video(
            options.video,
            frames=options.selection,
            max_frames=options.max_frames,
            max_pixels=options.max_pixels,
        )
        notes = check_can_write(
            options.output, video, codec=options.codec, crf=options.crf, sound=options.sound
        )
        masks = open_masks(options.mask, video, max_pixels=options.max_pixels) if options.mask else None
        return cls(video, masks, {str(path): content_hash(path) for path in named}, notes)


def edit_video(options: VideoOptions) -> None:
    """Edit a video by an instruction: its frames, edited so that they agree; sound and timing are kept."""
    ranks = current()
    options.check_ranks(ranks, options.method)
    # the others need to know the size of the video alone
    inputs = ranks.from_main(lambda: Inputs.read(options), lambda read: replace(read, masks=None))
    hint(hints(options, inputs), ranks)
    denoiser = load(options, ranks)
    begun = time.perf_counter()
    with denoiser.count_evaluations() as evaluations:
        job = prepare(options, inputs, denoiser)
        if options.dry_run:
            if ranks.is_main:
                plan = watched(job, options, inputs, ranks).plan(denoiser)
                print(as_table([*describe(job, inputs.video), *plan]))
            return
        if options.method == "ip2p-frame":
            canvas, settings = sample(job, options, denoiser)
        else:
            canvas, settings = watched(job, options, inputs, ranks).run(), {"edit": vars(job.edit)}
        total = ranks.total(evaluations.count)
        if not ranks.is_main:
            return
        write_canvas(job, options, inputs, options.output, canvas)
    settings |= {"frames": job.num_particles, "size_of_the_edit": job.size}
    conclude("csd-edit-video", options, inputs.sha256, settings, total, begun, ranks)
    if options.method != "ip2p-frame":
        forget(options)


def prepare(options: VideoOptions, inputs: Inputs, denoiser: InstructPix2Pix) -> VideoEdit:
    """The edit that the options ask for; see VideoEdit."""
    preset = video_preset(denoiser)
    edit = preset.with_edit(**options.edit_settings())
    if options.method != "ip2p-frame":
        edit = with_method(
            edit,
            options.method,
            options.source_prompt,
            num_frames=inputs.video.num_frames,
            scaled=options.learning_rate is None,
        )
    return VideoEdit(
        denoiser,
        inputs.video,
        options.prompt,
        edit,
        preset,
        num_steps=options.num_steps,
        resolution=options.resolution,
        detail=options.detail,
        masks=inputs.masks,
    )


def watched(job: VideoEdit, options: VideoOptions, inputs: Inputs, ranks: Ranks) -> Job:
    """The edit under watch."""
    write = partial(write_canvas, job, options, inputs)
    return Job(job, options, inputs.sha256, write, partial(write_preview, job), ranks)


def sample(job: VideoEdit, options: VideoOptions, denoiser: InstructPix2Pix) -> tuple[Tensor, dict[str, Any]]:
    """Edit each frame by itself; a canvas, and settings for the manifest."""
    given = {**options.sampling_settings(), "num_inference_steps": options.num_steps}
    sampling: SamplingConfig = video_preset(denoiser).with_sampling(**given)
    return job.sample(sampling, progress=True), {"sampling": vars(sampling)}


def write_canvas(job: VideoEdit, options: VideoOptions, inputs: Inputs, path: Path, canvas: Tensor) -> None:
    """A canvas as a video."""
    with (
        VideoWriter(path, inputs.video, codec=options.codec, crf=options.crf, sound=options.sound) as writer,
        ProgressBar(job.num_particles, None, True, desc="write", unit="frame") as report,
    ):
        for k, frame in enumerate(job.finish(canvas)):
            writer.write(quantise(frame, np.uint8))
            report(k, canvas)


def write_preview(job: VideoEdit, path: Path, canvas: Tensor) -> None:
    """Some frames of a canvas as a picture."""
    write_picture(path, Picture(quantise(job.preview(canvas), np.uint8)))


def hints(options: VideoOptions, inputs: Inputs) -> Iterator[str]:
    """What a user may have overlooked."""
    yield from inputs.notes
    if options.mask and options.output.suffix and options.codec != "ffv1":
        exact = "a folder of PNGs, or .mkv with --codec ffv1, keeps them exactly"
        yield f"{options.output.suffix} is lossy: outside the mask pixels change a little; {exact}"
    if inputs.video.num_frames == 1:
        yield "this is one frame: it has none to agree with, and the method becomes plain score distillation"
    replaced = options.method != "ip2p-frame" and not options.resume and not options.dry_run
    if replaced and (found := unfinished(options)).is_file():
        yield f"{found} is an unfinished edit, which this one replaces; --resume would go on with it"


def describe(job: VideoEdit, video: Video) -> list[tuple[str, str]]:
    """Frames and steps of an edit: names and what to say of them."""
    edit, (height, width) = job.edit, job.size
    each = edit.num_steps / job.layout.steps_per_round
    return [
        ("frames", f"{video.num_frames} of {video.total}, {video.width} x {video.height} pixels"),
        ("edited at", f"{width} x {height} pixels"),
        (
            "steps",
            f"{edit.num_steps} with {edit.batch_size} frames each: a frame moves in {each:.1f} of them",
        ),
    ]


def main() -> int:
    """Entry point of csd-edit-video."""
    return run_command(VideoOptions, edit_video, several_ranks=True)


if __name__ == "__main__":
    sys.exit(main())
