"""Encode frames into files by FFmpeg, with times, colours and sound; a Coding holds the settings."""

import errno
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import av
import av.error
import av.filter
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from csd_core.errors import UserError
from csd_core.io.images import decoding
from csd_core.io.video_colours import MATRIX_RGB, Colours, from_rgb
from csd_core.io.video_sources import open_container
from csd_core.io.videos import Video

CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Formats of FFmpeg for videos with sound, by suffix."""
ANIMATIONS = {".gif": "gif", ".webp": "webp"}
"""The same for animations."""

_CONTAINER_OPTIONS = {
    "mp4": {"movflags": "+faststart"},  # a browser shows it before it has the whole file
    "mov": {"movflags": "+faststart"},
    "webp": {"loop": "0"},  # endlessly, as a GIF by default
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
        UserError: the encoder does not take the frames.
    """
    # bitexact: no random numbers and no time of day in the file
    options = {"fflags": "+bitexact", **_CONTAINER_OPTIONS.get(coding.container, {})}
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
        got = f"{error.strerror or 'unknown'}; choose another codec or container"
        raise UserError(f"{coding.codec}: expected an encoder that takes the frames, got {got}") from error


def encode_trial(coding: Coding, video: Video, sound: bool = False) -> BytesIO:
    """A file in memory with the first frame, black, and the first second of the sound.

    Raises:
        FFmpegError, ValueError, AttributeError: FFmpeg does not take it.
        UserError: the sound cannot be read.
    """
    output = BytesIO()
    pixels = np.zeros((*video.size, 3), np.uint8)
    short = replace(coding, ticks=coding.ticks[:2])
    with (
        closing(av.open(output, "w", format=coding.container)) as container,
        closing(Muxer(container, short, video, sound)) as muxer,
    ):
        muxer.write(0, pixels)
        muxer.finish(sound_to=Fraction(1))
    output.seek(0)
    return output


class Muxer:
    """Encodes frames into an open container, and copies the sound in between."""

    def __init__(self, container: OutputContainer, coding: Coding, video: Video, sound: bool) -> None:
        self._container, self._coding = container, coding
        self._lengths = {start: end - start for start, end in pairwise(coding.ticks)}
        self._stream = _add_stream(container, coding, video)
        self._convert = VideoReformatter()
        self._palettes = _Palettes(video.size, coding.unit) if coding.codec == "gif" else None
        container.metadata.update(video.metadata)
        self._sound = _CopiedSound(container, video) if sound else None

    def write(self, k: int, pixels: np.ndarray) -> None:
        """Frame k, (H, W, 3) uint8."""
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
        self._stamp(frame, k)
        if self._palettes:
            frame = self._palettes.of(frame)
        else:
            frame = from_rgb(frame, self._convert, self._coding.colours, self._coding.pixel_format)
        self._stamp(frame, k)
        self._mux(self._stream.encode(frame))
        if self._sound:
            self._sound.mux_to(self._coding.ticks[k] * self._coding.unit)

    def finish(self, sound_to: Fraction | None = None) -> None:
        """After the last frame; sound is copied until then, or all of it."""
        self._mux(self._stream.encode())
        if self._sound:
            self._sound.mux_to(sound_to)

    def close(self) -> None:
        """Close the source of the sound."""
        if self._sound:
            self._sound.close()

    def _stamp(self, frame: VideoFrame, k: int) -> None:
        frame.pts, frame.time_base = self._coding.ticks[k], self._coding.unit
        frame.duration = self._lengths[self._coding.ticks[k]]

    def _mux(self, packets: Iterable[Packet]) -> None:
        for packet in packets:
            # encoders drop the durations of frames, and that of the last one follows from nothing else
            if packet.pts is not None and packet.pts in self._lengths:
                packet.duration = self._lengths[packet.pts]
            self._container.mux(packet)


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
    if len(steps) > 1:
        context.max_b_frames = 0  # packets out of order would get each other's length
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


class _CopiedSound:
    """Copies packets of sound as they are, never decoded, shifted to the start of the selection.

    Sound is cut only where the selection of frames cuts the video.
    """

    def __init__(self, container: OutputContainer, video: Video) -> None:
        self._container, self._video = container, video
        self._source = open_container(video.path)
        try:
            self._streams = {s.index: self._added(s) for s in self._source.streams.audio}
        except BaseException:
            self._source.close()
            raise
        # these have no times below 0: sound from before the first frame would delay the video
        self._earliest = video.start if container.format.name in ("matroska", "webm") else None
        self._packets = self._kept()
        self._next: tuple[Fraction, Packet] | None = None

    def close(self) -> None:
        """Close the source."""
        self._packets.close()
        self._source.close()

    def mux_to(self, time: Fraction | None) -> None:
        """Copy what is heard until then; None: all of it."""
        waiting = self._next or next(self._packets, None)
        while waiting and (time is None or waiting[0] <= time):
            self._container.mux(waiting[1])
            waiting = next(self._packets, None)
        self._next = waiting

    def _added(self, stream: Any) -> Stream:
        added = self._container.add_stream_from_template(stream)
        added.metadata.update({k: v for k, v in stream.metadata.items() if k in ("language", "title")})
        added.disposition = stream.disposition
        return added

    def _kept(self) -> Generator[tuple[Fraction, Packet]]:
        """(time in the output, packet) of those in the selection."""
        video = self._video
        with decoding(video.path, "video"):
            for packet in self._source.demux(*self._source.streams.audio):
                stamp = packet.dts if packet.pts is None else packet.pts
                if stamp is None or not packet.size:
                    continue
                at = stamp * packet.time_base
                if video.sound_from is not None and at < video.sound_from:
                    continue
                if video.sound_to is not None and at >= video.sound_to:
                    continue
                length = (packet.duration or 0) * packet.time_base
                if self._earliest is not None and at + length <= self._earliest:
                    continue
                yield at - video.start, self._moved(packet)

    def _moved(self, packet: Packet) -> Packet:
        shift = round(self._video.start / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts - shift
        packet.dts = None if packet.dts is None else packet.dts - shift
        packet.stream = self._streams[packet.stream.index]
        return packet
