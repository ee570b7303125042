"""Write edited videos, all or nothing, and check beforehand that it can be done.

The suffix of the output decides what it becomes: a video, an animation or a folder of PNGs.
"""

import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from csd_core.errors import UserError, expect
from csd_core.io.files import check_output, folder_written_beside, written_beside
from csd_core.io.images import Picture, write_picture
from csd_core.io.video_codecs import check_no_codec, choose_coding
from csd_core.io.video_decoder import open_container, sound_streams
from csd_core.io.video_muxer import ANIMATIONS, CONTAINERS, Coding, Muxer, encode_trial, muxing, rehearse
from csd_core.io.videos import Video


def check_can_write(
    output: Path, video: Video, *, codec: str | None = None, crf: int | None = None, sound: bool = True
) -> list[str]:
    """Check, before any long work, that the video can be written to `output`: all is tried but its pixels.

    The suffix decides what is written: .mp4 .mov .mkv .webm .gif .webp; without one, a folder of PNGs.

    Returns:
        What a user should know of the output, those of video.notes among it.

    Raises:
        UserError: unknown suffix, the codec is missing, does not fit or refuses the size, the sound does
            not fit, or what is at `output` must not be replaced.
    """
    notes = list(video.notes)
    suffix = _suffix(output)
    _check_place(output, video)
    notes += _notes_on_parts(suffix, video, sound)
    if not suffix:
        check_no_codec(output, codec, crf)
        return [*notes, "a folder of frames holds no times"] if video.num_frames > 1 else notes
    coding = choose_coding(output, video, codec, crf)
    notes += _notes_on_times(suffix, video, coding)
    if suffix in CONTAINERS:
        notes += _notes_on_pixels(output, video, coding)
        notes += _rehearsed(output, video, coding, sound and video.has_sound)
    return notes


class VideoWriter:
    """Write the frames of an edited video, all or nothing: use it as a context manager.

    Times, pixel shape, colour tags, metadata and sound are those of `video`. Where the container or the codec
    cannot hold them, check_can_write returns a note.

    Args:
        output: see check_can_write.
        video: what was edited.
        codec: an encoder of FFmpeg. Default: libx264; libvpx-vp9 for .webm.
        crf: quality of the encoder, lower is better.
        sound: copy the sound.

    Raises:
        UserError: as check_can_write.
        OSError: the disk does not take the file; what was at `output` stays.
    """

    def __init__(
        self,
        output: Path,
        video: Video,
        codec: str | None = None,
        crf: int | None = None,
        sound: bool = True,
    ) -> None:
        self._output, self._video = output, video
        self._sound = sound and video.has_sound and _suffix(output) in CONTAINERS
        if _suffix(output):
            self._coding = choose_coding(output, video, codec, crf)
        else:
            self._coding = None
            check_no_codec(output, codec, crf)
        self._stack, self._written = ExitStack(), 0
        self._target: Muxer | _Folder | None = None

    def __enter__(self) -> "VideoWriter":
        _check_place(self._output, self._video)
        with ExitStack() as stack:
            if self._coding is None:
                self._target = _Folder(stack.enter_context(folder_written_beside(self._output)), self._output)
            else:
                beside = stack.enter_context(written_beside(self._output))
                muxer = muxing(beside, self._coding, self._video, self._sound)
                self._target = stack.enter_context(muxer)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *failure: Any) -> None:
        if failure[0] is not None:
            self._stack.__exit__(*failure)
            return
        with self._stack:
            if self._target is None or self._written != self._video.num_frames:
                raise ValueError(f"expected {self._video.num_frames} frames, got {self._written}")
            self._target.finish()

    def write(self, pixels: np.ndarray) -> None:
        """The next frame.

        Raises:
            ValueError: it is not uint8 (H, W, 3) of the size of the video, or there are more than in it.
        """
        shape = (*self._video.size, 3)
        if pixels.dtype != np.uint8 or pixels.shape != shape:
            raise ValueError(f"expected uint8 {shape}, got {pixels.dtype} {pixels.shape}")
        if self._target is None or self._written >= self._video.num_frames:
            raise ValueError(f"expected {self._video.num_frames} frames in a with block, got another")
        self._target.write(self._written, pixels)
        self._written += 1


class _Folder:
    """Numbered PNGs in a folder that will take the place of `output`."""

    def __init__(self, folder: Path, output: Path) -> None:
        self._folder, self._output = folder, output

    def write(self, k: int, pixels: np.ndarray) -> None:
        write_picture(self._folder / f"{k:05d}.png", Picture(pixels))

    def finish(self) -> None:
        _check_folder(self._output)  # something may have been put there meanwhile


def _suffix(output: Path) -> str:
    suffix = output.suffix.lower()
    known = (*CONTAINERS, *ANIMATIONS)
    got = f"{suffix}; rename the output"
    expect(not suffix or suffix in known, str(output), f"one of {' '.join(known)}, or no suffix", got)
    return suffix


def _check_place(output: Path, video: Video) -> None:
    if not output.suffix:
        _check_folder(output)
        place, source = output.resolve(), video.path.resolve()
        inside = "the input, or a folder around it; choose another output"
        expect(place != source and place not in source.parents, str(output), "a new folder", inside)
    check_output(output, video.path, folder_allowed=not output.suffix)


def _check_folder(output: Path) -> None:
    """A folder is replaced if nothing but frames is lost."""
    if not os.path.lexists(output):
        return
    got = "a file; choose another output, or a name with a suffix such as .mp4"
    expect(output.is_dir(), str(output), "a folder for the frames", got)
    others = [entry.name for entry in output.iterdir() if not re.fullmatch(r"[0-9]+\.png", entry.name)]
    expected = "a folder that is empty or holds numbered PNGs alone"
    expect(not others, str(output), expected, f"{others[:1]} in it; choose another output")


def _rehearsed(output: Path, video: Video, coding: Coding, sound: bool) -> list[str]:
    """What a user should know of the sound; an error for what the file does not take."""
    try:
        return rehearse(coding, video, sound)
    except UserError:
        raise
    except (av.error.FFmpegError, ValueError, AttributeError) as error:
        suffix = output.suffix.lower()
        other = "" if suffix == ".mkv" else "write a .mkv, or "
        if not sound:
            reason = getattr(error, "strerror", None) or error
            got = f"frames or times that it refuses ({reason}); {other}choose fewer frames with --frames"
            raise UserError(f"{output}: expected a video that {suffix} holds, got {got}") from error
        _rehearsed(output, video, coding, sound=False)
        with open_container(video.path) as container:
            names = " and ".join(stream.codec_context.name for stream in sound_streams(container))
        got = f"{names}; {other}leave the sound out with --no-sound"
        raise UserError(f"{output}: expected sound that {suffix} holds, got {got}") from error


def _notes_on_parts(suffix: str, video: Video, sound: bool) -> list[str]:
    """What of the video an output of that kind has no place for."""
    kind, notes = suffix or "a folder", []
    if suffix not in CONTAINERS:
        notes += [f"{kind} holds no sound: it is left out"] if video.has_sound and sound else []
        notes += [f"{kind} holds no chapters: they are left out"] if video.chapters else []
        notes += [f"{kind} holds no metadata: it is left out"] if video.metadata else []
    if suffix not in ANIMATIONS and video.plays not in (None, 1):
        often = f"{video.plays} times" if video.plays else "endlessly"
        notes.append(f"{kind} does not state that the animation is played {often}")
    return notes


def _notes_on_times(suffix: str, video: Video, coding: Coding) -> list[str]:
    if suffix not in ANIMATIONS:
        return []
    stamps = (*video.times, video.end)
    notes = ["a GIF has at most 256 colours in a frame"] if suffix == ".gif" else []
    off = max(abs(tick * coding.unit - stamp) for tick, stamp in zip(coding.ticks, stamps, strict=True))
    if off > coding.unit:
        return [*notes, "a GIF shows at most 50 frames per second: this one becomes slower"]
    if off > 0:
        notes.append(f"{suffix} shows frames at multiples of {coding.unit} s: times are rounded")
    return notes


def _notes_on_pixels(output: Path, video: Video, coding: Coding) -> list[str]:
    notes = []
    if coding.pixel_format == "yuv444p" and coding.codec in ("libx264", "libx265"):
        notes.append("sides are odd: colours are written whole (yuv444p), which some players do not show")
    with av.open(encode_trial(coding, video), "r") as container:
        if video.aspect not in (1, container.streams.video[0].sample_aspect_ratio):
            notes.append(f"{output.suffix} with {coding.codec} does not keep that pixels are not square")
        kept = {key.lower() for key in container.metadata}
    if lost := [key for key in video.metadata if key.lower() not in kept]:
        notes.append(f"{output.suffix} does not hold all metadata, this is left out: {', '.join(lost)}")
    return notes
