"""csd-edit-video: edit a video by an instruction, so that its frames agree."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from csd_core.choices import MAX_FRAMES, VideoMethod, selection
from csd_core.cli.options import EditOptions, MemoryOptions, MethodOptions, OutputOptions, beside
from csd_core.command import run_command
from csd_core.errors import expect


@dataclass(kw_only=True)
class VideoMethodOptions(MethodOptions):
    """Settings of the edit. Those left out suit the model."""

    frames: str = ":"
    """Frames to edit as START:STOP:STEP, counted from 0, the last one not included: 0:48, 100:, ::2."""
    mask: Path | None = None
    """Grey image, video or folder of the input's size: black stays exactly as it is, white is edited."""
    resolution: int | None = None
    """Short side of the edit in pixels; frames keep their size. Default: what the model was trained at."""


@dataclass(kw_only=True)
class VideoMemoryOptions(MemoryOptions):
    """Memory and speed. The result stays the same."""

    max_frames: int = MAX_FRAMES
    """More frames than this are refused."""

    def check(self) -> None:
        """See MemoryOptions.check."""
        super().check()
        expect(self.max_frames >= 1, "max_frames", "at least 1", self.max_frames)


@dataclass(kw_only=True)
class VideoOutputOptions(OutputOptions):
    """How the video is written, and what is written beside it."""

    codec: str | None = None
    """Encoder, such as libx265 or ffv1. Default: what suits the name of the output."""
    crf: int | None = None
    """Quality of the encoder, lower is better. Default: 18 (webm: 30)."""
    sound: bool = True
    """Copy the sound as it is."""


@dataclass(kw_only=True)
class VideoOptions(EditOptions):
    """Options of csd-edit-video."""

    video: Path
    """Video to edit: mp4, mov, webm, mkv, gif, animated webp and the like, or a folder of frames. The suffix
    of the output sets its format; one without a suffix is a folder of PNGs."""
    output: Path
    """File to write. A file of this name is replaced when the edit is done, not before."""
    prompt: str = ""
    """The instruction, such as "make it snowy"."""
    method: VideoMethod = "csd"
    """csd; for comparison without the exchange between frames (no-svgd), with another baseline (sds, dds), or
    each frame sampled independently (ip2p-frame)."""
    edit: VideoMethodOptions = field(default_factory=VideoMethodOptions)
    memory: VideoMemoryOptions = field(default_factory=VideoMemoryOptions)
    writing: VideoOutputOptions = field(default_factory=VideoOutputOptions)

    incidental = EditOptions.incidental | {"max_frames", "codec", "crf", "sound"}

    def check(self, *sources: Path) -> None:
        """See EditOptions.check."""
        for source in sources:
            self._check_apart(source)
        super().check(*sources)
        selection(self.edit.frames)
        expect(bool(self.prompt.strip()), "prompt", "an instruction", "nothing")

    def _check_apart(self, source: Path) -> None:
        """A folder that is replaced holds no input, and nothing is written between the frames of one."""
        place, given = self.output.resolve(), source.resolve()
        expect(self.output.name not in ("", ".."), str(self.output), "a name of its own", "none; name a file")
        around = "a folder around an input; choose another output"
        expect(place not in given.parents, str(self.output), "a file or a new folder", around)
        inside = "one among them; choose another output"
        expect(place.parent != given, str(self.output), f"a place outside the frames in {source}", inside)

    @property
    def sources(self) -> list[Path]:
        """The files and folders that are read."""
        return [path for path in (self.video, self.edit.mask) if path]

    @property
    def may_be_folder(self) -> bool:
        """A name without suffix is a folder of frames."""
        return not self.output.suffix

    @property
    def preview(self) -> Path:
        """Where previews are written: frames side by side, a picture."""
        return beside(self.output, "preview").with_suffix(".png")


def edit_video(options: VideoOptions) -> None:
    """Edit a video by an instruction: its frames, edited so that they agree; sound and timing are kept."""
    options.check()
    from csd_core.cli.video_run import run

    run(options)


def main() -> int:
    """Entry point of csd-edit-video."""
    return run_command(VideoOptions, edit_video, several_ranks=True)


if __name__ == "__main__":
    sys.exit(main())
