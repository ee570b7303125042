"""Frames of videos, decoded by FFmpeg. Pixels are upright."""

import re
import struct
from collections.abc import Generator, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
import av.error
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from csd_core.errors import UserError, expect
from csd_core.io.images import check_pixels, decoding
from csd_core.io.video_colours import colours_of, to_rgb
from csd_core.io.video_frames import Chapter, Frame, Source

_NO_VIDEOS = ("tty", "hls", "concat", "dash", "image2")  # text, and lists that name other files
_FILE_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "software"}
_MOV_BOXES = b"ftyp moov mdat moof free skip wide uuid sidx styp mfra".split()
_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
_KEEP_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders of these drop it
# these can begin without a key frame, at a gradual refresh, and leave out what comes before
_FIND_THEIR_START = ("h264", "hevc", "mpeg1video", "mpeg2video")
_SIDE_DATA = {"A53_CC": "closed captions", "SPHERICAL": "that it is a 360-degree video", "STEREO3D": "stereo"}


class FileSource(Source):
    """A video that FFmpeg decodes.

    allow_corrupt: leave out what cannot be decoded in place of an error.
    """

    def __init__(self, path: Path, max_pixels: int, allow_corrupt: bool = False) -> None:
        super().__init__(path, max_pixels)
        self._allow_corrupt = allow_corrupt
        with decoding(path, "video"), open_container(path) as container:
            stream = _video_stream(path, container)
            check_pixels(path, (stream.height, stream.width), max_pixels)
            if _is_cut_off(path):
                raise EOFError(f"it ends after {path.stat().st_size} bytes")
            self.tick = stream.time_base or self.tick
            stated = (stream.guessed_rate, stream.average_rate, stream.base_rate)
            self.rates = tuple(rate for rate in stated if rate)
            tags = container.metadata | {k: v for k, v in stream.metadata.items() if k == "title"}
            self.metadata = {key: value for key, value in tags.items() if key.lower() not in _FILE_TAGS}
            self.has_sound = bool(sound_streams(container))
            self.is_lossy = stream.codec_context.codec.lossy
            self.chapters = _chapters(container)
            self.notes += _left_out(container, stream)
            # of the pictures, apart from the sound
            if end := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):
                self.stated_end = int(end[1]) * 3600 + int(end[2]) * 60 + Fraction(end[3])
            elif container.format.name.startswith("mov") and stream.duration:
                self.stated_length = stream.duration * self.tick

    def __iter__(self) -> Generator[Frame]:
        with decoding(self.path, "video"), open_container(self.path) as container:
            stream = _video_stream(self.path, container)
            convert = VideoReformatter()
            for k, frame in enumerate(self._decoded(container, stream)):
                check_pixels(self.path, (frame.height, frame.width), self.max_pixels)
                for text in _not_kept(frame):
                    self.note(text)
                yield _upright(frame, stream, convert, k)

    def _decoded(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        """The frames that can be decoded. A recording may begin between two key frames."""
        decoder, start = _decoder(stream), _Start(stream.codec_context.name not in _FIND_THEIR_START)
        count, failure, lost = 0, None, ""
        for packet in container.demux(stream):
            if packet.is_corrupt:
                lost = lost or _when(packet, stream)
            if not count and not start.takes(packet):
                continue
            try:
                frames = decoder.decode(packet)
            except av.error.FFmpegError as error:
                failure = error
                if count or start.is_key:
                    self._expect_allowed(error, packet, stream)
                continue
            for frame in frames:
                if not count and (why := start.missing(frame)):
                    if frame.is_corrupt and not frame.key_frame:
                        continue
                    self.note(why)
                count += 1
                yield frame
        if lost:
            self.note(f"packets were lost or files joined {lost}: look at the frames from there on")
        if failure and not count:
            raise failure

    def _expect_allowed(self, error: av.error.FFmpegError, packet: Packet, stream: VideoStream) -> None:
        if isinstance(error, OSError | MemoryError):
            raise error
        if not self._allow_corrupt:
            raise damaged(self.path, f"{_when(packet, stream)} ({error.strerror})")
        self.note("frames that are too damaged to be decoded are left out")


class _Start:
    """The packets before the first frame, of which a recording that begins between two key frames has some.

    is_key: the first one is a key frame.
    """

    def __init__(self, needs_key: bool) -> None:
        self._begun, self.is_key = not needs_key, None
        self._earliest: Fraction | None = None

    def takes(self, packet: Packet) -> bool:
        """Whether a packet can be decoded."""
        if self.is_key is None:
            self.is_key = packet.is_keyframe
        if packet.pts is not None and not packet.is_discard:
            at = packet.pts * packet.time_base
            self._earliest = at if self._earliest is None else min(at, self._earliest)
        self._begun = self._begun or packet.is_keyframe
        return self._begun

    def missing(self, first: VideoFrame) -> str:
        """A note on what comes before the first frame and cannot be decoded; empty if there is nothing."""
        length = ""
        if self._earliest is not None and first.pts is not None and first.time_base:
            seconds = first.pts * first.time_base - self._earliest
            if seconds <= 0:
                return ""
            length = f" {float(seconds):.2f} s"
        elif self.is_key:
            return ""
        return f"the video begins between key frames: its start{length} cannot be decoded, it is left out"


def damaged(path: Path, where: str) -> UserError:
    """The error for frames that are damaged."""
    how = "copy it again, or edit it all the same with csd-edit-video --allow-corrupt"
    return UserError(f"{path}: expected a whole video, got damaged frames {where}; {how}")


def _when(packet: Packet, stream: VideoStream) -> str:
    stamp, start = packet.pts or packet.dts or 0, stream.start_time or 0
    return f"at {float((stamp - start) * packet.time_base):.2f} s"


def open_container(path: Path) -> InputContainer:
    """Opened by FFmpeg."""
    # absolute: "name:" at the start of a path would be a protocol
    return av.open(str(path.absolute()), "r", metadata_errors="replace")


def sound_streams(container: InputContainer) -> list[AudioStream]:
    """The tracks of sound that can be copied: those of a known codec."""
    return [stream for stream in container.streams.audio if stream.codec_context]


def _decoder(stream: VideoStream) -> VideoCodecContext:
    decoder, name = stream.codec_context, stream.codec_context.name
    if name in _KEEP_ALPHA and stream.metadata.get("alpha_mode") == "1":
        decoder = cast(VideoCodecContext, VideoCodecContext.create(_KEEP_ALPHA[name], "r"))
        decoder.extradata = stream.codec_context.extradata
    decoder.thread_count = 1  # with more, some damaged frames are not reported, now and then
    return decoder


def _chapters(container: InputContainer) -> tuple[Chapter, ...]:
    found = ((chapter, chapter["time_base"]) for chapter in container.chapters())
    return tuple(Chapter(c["start"] * unit, c["end"] * unit, c["metadata"]) for c, unit in found if unit)


def _left_out(container: InputContainer, stream: VideoStream) -> Iterator[str]:
    """What else is in the file and is not kept."""
    streams = container.streams
    others = [other for other in streams.video if other is not stream]
    covers = [other for other in others if other.disposition & Disposition.attached_pic]
    tracks = len(others) - len(covers)
    if tracks:
        yield f"the file has {tracks + 1} tracks of pictures: track {stream.index} alone is kept"
    unknown = [str(track.index) for track in streams.audio if not track.codec_context]
    if unknown:
        yield f"sound of an unknown codec is left out: track {', '.join(unknown)} of the file"
    data = [track for track in streams.data if track.discard != Discard.all]  # that of chapters has it
    names = {"covers": covers, "subtitles": streams.subtitles, "attachments": streams.attachments}
    for name, found in {**names, "tracks of data, such as positions or a time code,": data}.items():
        if found:
            yield f"{name} are left out"


def _not_kept(frame: VideoFrame) -> Iterator[str]:
    """What of a frame is not kept."""
    bits = max(part.bits for part in frame.format.components)
    colours = colours_of(frame)
    if colours and colours.is_hdr:
        yield "the video is HDR: frames are edited and written with 8 bits, on its own curve"
    elif bits > 8:
        yield f"the video has {bits} bits: frames are edited and written with 8"
    if frame.interlaced_frame:
        yield "the video is interlaced: frames are edited and written as they are, with both fields in each"
    for name, words in _SIDE_DATA.items():
        if name in _side_data(frame):
            yield f"{words}: left out"


def _video_stream(path: Path, container: InputContainer) -> VideoStream:
    """The one to edit. A cover of an album is none."""
    got = f"{container.format.long_name or container.format.name}; name a video"
    expect(container.format.name not in _NO_VIDEOS, str(path), "a video", got)
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    expect(bool(streams), str(path), "a video", "a file without one (sound or a cover alone); name a video")
    stream = next((s for s in streams if s.disposition & Disposition.default), streams[0])
    got = "a codec that is unknown; convert it"
    expect(stream.codec_context is not None, str(path), "a video that FFmpeg can decode", got)
    return stream


def _is_cut_off(path: Path) -> bool:
    """Whether an mp4, mov, mkv, webm or AVI should be longer by the lengths of its parts.

    FFmpeg takes the end of such a file for the end of the video: neither err_detect nor the flags of packets
    and frames report what is missing.
    """
    at, size = 0, path.stat().st_size
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            length = _part_length(file.read(20))
            if not length:  # it lasts until the end, or is of another kind
                return False
            at += length
    return at > size


def _part_length(start: bytes) -> int:
    """Bytes of the part of a file that starts with these: a box, an element or a chunk; 0 if unknown."""
    if start[4:8] in _MOV_BOXES:
        length = int.from_bytes(start[:4], "big")
        return int.from_bytes(start[8:16], "big") if length == 1 else length
    if start[:4] in (_EBML, _SEGMENT) and len(start) > 4 and start[4]:
        extra = 8 - start[4].bit_length()  # the leading one counts the bytes that follow
        length = int.from_bytes(start[4 : 5 + extra], "big") - (1 << 7 * (extra + 1))
        is_known = length != (1 << 7 * (extra + 1)) - 1
        return 5 + extra + length if is_known else 0
    if start[:4] == b"RIFF" and (length := int.from_bytes(start[4:8], "little")):
        return 8 + length
    return 0


def _upright(frame: VideoFrame, stream: VideoStream, convert: VideoReformatter, k: int) -> Frame:
    base = frame.time_base or stream.time_base or Fraction(0)
    turn = _turn(frame)
    aspect = stream.sample_aspect_ratio or Fraction(1)
    colours = colours_of(frame)
    clear = frame.format.has_palette or any(part.is_alpha for part in frame.format.components)
    return Frame(
        name=f"frame {k}",
        time=None if frame.pts is None else frame.pts * base,
        length=(frame.duration or 0) * base,
        size=(frame.width, frame.height) if turn.swaps else (frame.height, frame.width),
        colours=colours,
        aspect=1 / aspect if turn.swaps else aspect,
        may_be_clear=clear,
        is_damaged=frame.is_corrupt,
        pixels=lambda: turn.of(to_rgb(frame, convert, colours, "rgba" if clear else "rgb24")),
    )


def _side_data(frame: VideoFrame) -> Mapping[str, Any]:
    try:
        return {data.type.name: data for data in cast(Any, frame.side_data)}
    except ValueError:  # PyAV does not know all kinds, such as the EXIF of a JPEG
        return {}


class _Turn(NamedTuple):
    """One of the eight ways to turn and mirror pixels: first rows and columns swap places."""

    swaps: bool = False
    down: bool = False
    right: bool = False

    def of(self, pixels: np.ndarray) -> np.ndarray:
        if self.swaps:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.down else 1, :: -1 if self.right else 1]


_ROTATED = {90: _Turn(True, True, False), -90: _Turn(True, False, True), 180: _Turn(False, True, True)}


def _turn(frame: VideoFrame) -> _Turn:
    """What makes pixels upright. A matrix that slants them is ignored, as by players."""
    if (matrix := _side_data(frame).get("DISPLAYMATRIX")) is None:
        return _ROTATED.get(frame.rotation, _Turn())
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix)[:36])
    if b == c == 0 and a and d:
        return _Turn(False, d < 0, a < 0)
    if a == d == 0 and b and c:
        return _Turn(True, b < 0, c < 0)
    return _Turn()
