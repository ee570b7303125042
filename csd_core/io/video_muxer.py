"""Encode frames into files by FFmpeg, with times,
colours, chapters and sound. A Coding holds the settings."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from io import SEEK_CUR, SEEK_END, BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import av
import av.error
import av.filter
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from csd_core.errors import UserError
from csd_core.io.video_colours import MATRIX_RGB, Colours, from_rgb
from csd_core.io.video_frames import Chapter
from csd_core.io.video_sound import CopiedSound
from csd_core.io.videos import Video

CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Formats of FFmpeg for videos with sound, by suffix."""
ANIMATIONS = {".gif": "gif", ".webp": "webp"}
"""The same for animations."""

_CONTAINER_OPTIONS = {
    "mp4": {"movflags": "+faststart"},  # a browser shows it before it has the whole file
    "mov": {"movflags": "+faststart"},
}
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@dataclass(frozen=True)
class Coding:
    """How a video is to be coded: everything but the pixels and the sound.

    Attributes:
        container: format of FFmpeg.
        codec: encoder of FFmpeg.
        pixel_format: what the encoder gets.
        unit: seconds of a tick.
        ticks: when each frame is shown, and when the last one ends.
        options: of the encoder.
        colours: how it codes them; None for RGB.
    """

    container: str
    codec: str
    pixel_format: str
    unit: Fraction
    ticks: tuple[int, ...]
    options: dict[str, str]
    colours: Colours | None


@contextmanager
def muxing(path: Path, coding: Coding, video: Video, sound: bool) -> Iterator["Muxer"]:
    """Where to write the frames of a file, which is closed at the end.

    Raises:
        OSError: the disk does not take the file.
        UserError: the encoder does not take the frames, or the file not the sound or the whole.
    """
    # bitexact: no random numbers and no time of day in the file
    options = {"fflags": "+bitexact", **_CONTAINER_OPTIONS.get(coding.container, {})}
    if path.suffix.lower() in ANIMATIONS:
        options["loop"] = str(_loop(coding.container, video.plays or 0))
    muxer = None
    try:
        # absolute: "name:" at the start of a path would be a protocol
        container = av.open(str(path.absolute()), "w", format=coding.container, container_options=options)
        try:
            with closing(Muxer(container, coding, video, sound)) as muxer:
                yield muxer
            container.close()  # a full disk is reported here
        except BaseException:
            with suppress(Exception):
                container.close()
            raise
    except av.error.FFmpegError as error:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        reason, doing = error.strerror or "unknown", muxer.doing if muxer else ""
        expected, cure = f"frames and sound that {path.suffix} holds", "write another kind of file"
        if doing == "sound":
            expected, cure = f"sound that {path.suffix} holds", "leave it out with --no-sound"
        elif doing == "encode":
            expected, cure = f"frames that {coding.codec} takes", "choose another encoder with --codec"
        raise UserError(f"{video.path}: expected {expected}, got {reason}; {cure}") from error


def encode_trial(coding: Coding, video: Video) -> BytesIO:
    """A file in memory with the first frame, black.

    Raises:
        FFmpegError, ValueError: FFmpeg does not take it.
    """
    output = BytesIO()
    short = replace(coding, ticks=coding.ticks[:2])
    with closing(av.open(output, "w", format=coding.container)) as container:
        muxer = Muxer(container, short, video, sound=False)
        muxer.write(0, np.zeros((*video.size, 3), np.uint8))
        muxer.finish()
    output.seek(0)
    return output


def rehearse(coding: Coding, video: Video, sound: bool) -> list[str]:
    """Write a file as it will be but for its pixels, and keep nothing; what a user should know of the sound.

    Raises:
        FFmpegError, ValueError, AttributeError: FFmpeg does not take it.
        UserError: the sound cannot be read.
    """
    # any: PyAV wants no more than these methods
    nowhere: Any = _Nowhere()
    with (
        closing(av.open(nowhere, "w", format=coding.container)) as container,
        closing(Muxer(container, coding, video, sound)) as muxer,
    ):
        return muxer.write_black()


class _Nowhere:
    """A file that keeps nothing."""

    def __init__(self) -> None:
        self._at = self._end = 0

    def write(self, data: Any) -> int:
        self._at += len(data)
        self._end = max(self._at, self._end)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + {0: 0, SEEK_CUR: self._at, SEEK_END: self._end}[whence]
        return self._at

    def tell(self) -> int:
        return self._at


class Muxer:
    """Encodes frames into an open container, and copies the sound in between.

    doing: what was last tried: to "encode" a frame, to add it to the "file", or to add "sound" to that.
    """

    def __init__(self, container: OutputContainer, coding: Coding, video: Video, sound: bool) -> None:
        self._container, self._coding, self._size = container, coding, video.size
        self._lengths = {start: end - start for start, end in pairwise(coding.ticks)}
        self._stream = _add_stream(container, coding, video)
        self._convert = VideoReformatter()
        self._palettes = _Palettes(video.size, coding.unit) if coding.codec == "gif" else None
        container.metadata.update(video.metadata)
        if video.chapters and coding.container in CONTAINERS.values():
            container.set_chapters([_chapter(k, chapter) for k, chapter in enumerate(video.chapters)])
        self.doing: Literal["encode", "file", "sound"] = "file"
        self._sound = CopiedSound(container, video) if sound else None

    def write(self, k: int, pixels: np.ndarray) -> None:
        """Frame k, (H, W, 3) uint8."""
        self._mux(self._encode(self._frame(k, pixels)))
        self._copy_sound(k)

    def write_black(self) -> list[str]:
        """All packets as they will be, except that each frame is the same black one; notes on the sound."""
        black = self._frame(0, np.zeros((*self._size, 3), np.uint8))
        coded = bytes([*self._encode(black), *self._encode(None)][0])
        for k, tick in enumerate(self._coding.ticks[:-1]):
            packet = Packet(coded)
            packet.stream, packet.is_keyframe = self._stream, True
            packet.pts = packet.dts = tick
            packet.time_base = self._coding.unit
            self._mux([packet])
            self._copy_sound(k)
        self._copy_sound(None)
        return self._sound.notes if self._sound else []

    def finish(self) -> None:
        """After the last frame."""
        self._mux(self._encode(None))
        self._copy_sound(None)

    def close(self) -> None:
        """Close the source of the sound."""
        if self._sound:
            self._sound.close()

    def _frame(self, k: int, pixels: np.ndarray) -> VideoFrame:
        """As the encoder takes it."""
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
        self._stamp(frame, k)
        if self._palettes:
            frame = self._palettes.of(frame)
        else:
            frame = from_rgb(frame, self._convert, self._coding.colours, self._coding.pixel_format)
        self._stamp(frame, k)
        return frame

    def _stamp(self, frame: VideoFrame, k: int) -> None:
        frame.pts, frame.time_base = self._coding.ticks[k], self._coding.unit
        frame.duration = self._lengths[self._coding.ticks[k]]

    def _encode(self, frame: VideoFrame | None) -> list[Packet]:
        self.doing = "encode"
        return self._stream.encode(frame)

    def _mux(self, packets: Iterable[Packet]) -> None:
        self.doing = "file"
        for packet in packets:
            # encoders drop the durations of frames, and that of the last one follows from nothing else
            if packet.pts is not None and packet.pts in self._lengths:
                packet.duration = self._lengths[packet.pts]
            self._container.mux(packet)

    def _copy_sound(self, k: int | None) -> None:
        """That until frame k, or all of it."""
        if self._sound:
            self.doing = "sound"
            self._sound.mux_to(None if k is None else self._coding.ticks[k] * self._coding.unit)
            self.doing = "file"


def _chapter(k: int, chapter: Chapter) -> Any:
    unit = Fraction(1, 1_000_000)
    start, end = round(chapter.start / unit), round(chapter.end / unit)
    return {"id": k, "start": start, "end": end, "time_base": unit, "metadata": chapter.metadata}


def _loop(container: str, plays: int) -> int:
    """How the muxer of an animation is told how often it is played; 0: endlessly."""
    if container == "gif" and plays:
        plays = plays - 1 or -1  # a GIF states how often it is played again; -1: not at all
    return min(plays, 65535)


def _add_stream(container: OutputContainer, coding: Coding, video: Video) -> VideoStream:
    options = dict(coding.options)
    stream = cast(VideoStream, container.add_stream(coding.codec, rate=video.rate or 24, options=options))
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = video.width, video.height, coding.pixel_format
    context.time_base = coding.unit
    context.framerate = video.rate or Fraction(0)
    if video.aspect != 1:
        context.sample_aspect_ratio = video.aspect
    steps = {after - before for before, after in pairwise(coding.ticks)}
    # packets out of order would get each other's length, and of a few frames x265 gives them random times
    if len(steps) > 1 or (coding.codec == "libx265" and len(coding.ticks) < 6):
        context.max_b_frames = 0
    if "crf" not in options:
        _best_quality(stream, coding.codec)
    if coding.container in CONTAINERS.values() and av.VideoFormat(coding.pixel_format).is_rgb:
        context.colorspace = MATRIX_RGB
    if colours := coding.colours:
        context.colorspace, context.color_range = colours.matrix, colours.range
        context.color_trc, context.color_primaries = colours.transfer, colours.primaries
    if coding.codec == "libvpx":
        context.bit_rate = 20 * video.width * video.height  # it has no quality without one
    return stream


def _best_quality(stream: VideoStream, codec: str) -> None:
    """For old encoders, whose own default is a rate for small pictures."""
    if codec in ("mpeg4", "mjpeg", "mpeg2video", "mpeg1video", "msmpeg4", "h263", "flv"):
        stream.codec_context.qscale = True
        stream.codec_context.global_quality = 3 * 118  # in units of FF_QP2LAMBDA


class _Palettes:
    """The colours of a GIF, chosen again for each frame."""

    def __init__(self, size: tuple[int, int], unit: Fraction) -> None:
        self._graph = graph = av.filter.Graph()
        given = av.VideoFormat("rgb24")
        start = graph.add_buffer(width=size[1], height=size[0], format=given, time_base=unit)
        split = graph.add("split")
        choose = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
        use, end = graph.add("paletteuse", "new=1:dither=sierra2_4a"), graph.add("buffersink")
        start.link_to(split)
        split.link_to(use, 0, 0)
        split.link_to(choose, 1, 0)
        choose.link_to(use, 0, 1)
        use.link_to(end)
        graph.configure()

    def of(self, frame: VideoFrame) -> VideoFrame:
        self._graph.vpush(frame)
        return self._graph.vpull()
