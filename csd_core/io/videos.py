"""Videos in files: whatever FFmpeg decodes, animated WebP, and folders of pictures.

Frames are decoded one after the other whenever they are asked for; none is kept. Times are exact fractions of
seconds. Pixels are upright RGB of 8 bits, as the colour tags of the video say; HDR keeps its curve. What is
transparent becomes white, colour profiles of pictures are not applied.

Sound is copied packet by packet. It is cut only where the selection of frames cuts the video.
"""

import errno
import os
import re
import struct
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from io import BytesIO
from itertools import islice, pairwise
from math import gcd, lcm
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

import av
import av.error
import av.filter
import numpy as np
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from PIL import Image

from csd_core.errors import UserError, expect
from csd_core.io.files import check_output, folder_written_beside, written_beside
from csd_core.io.images import MAX_PIXELS, Picture, read_mask, read_picture, write_picture

MAX_FRAMES = 3000
DEFAULT_RATE = Fraction(24)
"""Frames per second of what has no times, such as a folder of pictures."""

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
_CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
_ANIMATIONS = {".gif": "gif", ".webp": "webp"}
_NO_VIDEOS = ("tty", "hls", "concat", "dash", "image2")  # text, and lists that name other files
_MOV_PARTS = (
    b"ftyp",
    b"moov",
    b"mdat",
    b"moof",
    b"free",
    b"skip",
    b"wide",
    b"uuid",
    b"sidx",
    b"styp",
    b"mfra",
)
_CRF = {"libx264": 18, "libx264rgb": 18, "libx265": 20, "libvpx-vp9": 30, "libvpx": 10, "libsvtav1": 28}
_CRF_LIMIT = {"libx264": 51, "libx264rgb": 51, "libx265": 51}
_OPTIONS = {
    "libvpx-vp9": {"deadline": "good", "cpu-used": "4", "row-mt": "1"},
    "libx265": {"x265-params": "log-level=none"},  # it writes to stderr on its own
    "libwebp_anim": {"quality": "90"},
}
_TELL_RANGE = ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "ffv1", "mjpeg")
_FILE_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "software"}
_EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_EXACT |= Interpolation.FULL_CHR_H_INP
_RGB, _BT709, _UNKNOWN, _BT470BG, _SMPTE170M = 0, 1, 2, 5, 6  # AVColorSpace
_HDR = (16, 18)  # AVColorTransferCharacteristic: PQ and HLG
_BLACK, _WHITE = 0, 255
_MASK_NOISE = 4 / 255  # what encoders add to black and white


class _Colours(NamedTuple):
    """How a video codes its colours, in the numbers of FFmpeg: AVColorSpace and the like."""

    matrix: int
    full: bool
    transfer: int
    primaries: int

    @property
    def range(self) -> ColorRange:
        return ColorRange.JPEG if self.full else ColorRange.MPEG

    @property
    def space(self) -> int:
        """The matrix as swscale counts it."""
        return Colorspace.ITU601 if self.matrix in (_BT470BG, _SMPTE170M) else self.matrix


class _Frame(NamedTuple):
    """A decoded frame."""

    name: str
    time: Fraction | None
    """When it is shown, in the time of the file."""
    length: Fraction
    """How long the file says it is shown; 0 if it does not."""
    size: tuple[int, int]
    colours: _Colours | None
    aspect: Fraction
    may_be_clear: bool
    pixels: Callable[[], np.ndarray]
    """RGB or, where it may be clear, RGBA: (H, W, 3 or 4) uint8."""


class _Source(Protocol):
    """Something that yields frames, from the beginning at every iteration."""

    has_sound: bool
    notes: tuple[str, ...]
    metadata: dict[str, str]
    tick: Fraction
    """Times are multiples of this, rounded."""
    rates: tuple[Fraction, ...]
    """Frame rates that the file states."""
    is_lossy: bool

    def __iter__(self) -> Generator[_Frame]: ...

    def stated_end(self, first: Fraction) -> Fraction | None:
        """When the last frame ends, if the file says so; its first is shown at `first`."""
        ...


@dataclass(frozen=True)
class Video:
    """Frames of a file or folder, to be decoded one after the other.

    Attributes:
        path: the file or folder.
        height: rows of the upright picture.
        width: its columns.
        times: when each selected frame is shown, in seconds from the first of them on; strictly increasing.
        end: when the last one ends.
        indices: which frames of the file they are.
        total: frames in the file, as decoded.
        rate: of the selected frames per second, exactly; None where it varies. Pictures have DEFAULT_RATE.
        has_sound: there is sound beside.
        start: time in the file when the first selected frame is shown, as written.
        sound_from: time in the file where a selection cuts the sound; None if it does not.
        sound_to: where it ends likewise.
        aspect: width of a pixel by its height.
        metadata: title and the like.
        notes: what a user should know of what was read.
    """

    path: Path
    height: int
    width: int
    times: tuple[Fraction, ...]
    end: Fraction
    indices: tuple[int, ...]
    total: int
    rate: Fraction | None
    has_sound: bool
    start: Fraction
    sound_from: Fraction | None
    sound_to: Fraction | None
    aspect: Fraction
    metadata: dict[str, str]
    notes: tuple[str, ...]
    _colours: _Colours = field(repr=False)
    _source: _Source = field(repr=False, compare=False)

    @property
    def num_frames(self) -> int:
        """Selected frames."""
        return len(self.indices)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def frames(self) -> Iterator[np.ndarray]:
        """The selected frames in order, (H, W, 3) uint8, decoded as one goes, from the start at every call.

        Raises:
            UserError: the file has changed meanwhile.
        """
        return self._frames(_WHITE)

    def _frames(self, ground: int) -> Iterator[np.ndarray]:
        """The same with another ground under what is transparent."""
        remaining = iter(self.indices)
        wanted = next(remaining)
        with closing(iter(self._source)) as stream:
            for k, frame in enumerate(stream):
                if k < wanted:
                    continue
                got = f"{_sides(frame.size)}; keep the file as it is during an edit"
                expect(frame.size == self.size, f"{self.path}, {frame.name}", _sides(self.size), got)
                yield _over(frame.pixels(), ground)
                wanted = next(remaining, None)
                if wanted is None:
                    return
        got = "fewer; keep the file as it is during an edit"
        raise UserError(f"{self.path}: expected {self.total} frames as before, got {got}")


def read_video(
    path: Path,
    *,
    frames: slice = slice(None),
    max_frames: int = MAX_FRAMES,
    max_pixels: int = MAX_PIXELS,
) -> Video:
    """Decode a whole video once, so that damage is found now, and say what is in it.

    A folder is read as the pictures in it, in the natural order of their names (2 before 10), at
    DEFAULT_RATE; hidden and other files are left out. A still picture is a video of one frame.

    Args:
        path: a file or a folder.
        frames: the frames to select, in the order of the file.
        max_frames: how many may be selected.
        max_pixels: how many a frame may have.

    Raises:
        UserError: there is no such file, no video in it, it is damaged or cut off, its frames differ in size,
            none or too many are selected, or they are too large.
    """
    expect(frames.step is None or frames.step > 0, "--frames", "a step of at least 1", frames.step)
    source = _source(path, max_pixels)
    found = _scan(path, source, frames, max_frames, max_pixels)
    indices = range(len(found.stamps))[frames]
    got = f"{_written(frames)} of {len(found.stamps)} frames; choose another part with --frames"
    expect(len(indices) > 0, str(path), "a selection that holds a frame", got)
    line = _timeline(found.stamps, found.last.length, source)
    after = indices[-1] + indices.step
    cut, whole = indices[0] > 0, after >= len(line.times)
    start, end = line.times[indices[0]], line.end if whole else line.times[after]
    return Video(
        path=path,
        height=found.first.size[0],
        width=found.first.size[1],
        times=tuple(line.times[k] - start for k in indices),
        end=end - start,
        indices=tuple(indices),
        total=len(found.stamps),
        rate=line.rate / indices.step if line.rate else None,
        has_sound=source.has_sound,
        start=start,
        sound_from=start if cut else None,
        sound_to=None if whole else end,
        aspect=found.first.aspect,
        metadata=source.metadata,
        notes=(*source.notes, *line.notes, *found.notes),
        _colours=found.first.colours or _untagged(found.first.size[0]),
        _source=source,
    )


class _Found(NamedTuple):
    """What decoding all frames told."""

    first: _Frame
    last: _Frame
    stamps: list[Fraction | None]
    notes: tuple[str, ...]


def _scan(path: Path, source: _Source, frames: slice, max_frames: int, max_pixels: int) -> _Found:
    first = last = None
    stamps: list[Fraction | None] = []
    clear = False
    counts = frames.start is None or frames.start >= 0  # otherwise the number selected may shrink again
    with closing(iter(source)) as stream:
        for frame in stream:
            first, last = first or frame, frame
            _check_size(path, frame, first, max_pixels)
            stamps.append(frame.time)
            if counts:
                _check_count(path, len(range(len(stamps))[frames]), max_frames)
            clear = clear or (frame.may_be_clear and _is_clear(frame.pixels()))
    if first is None or last is None:
        raise UserError(f"{path}: expected a video, got one without a frame; copy or save it again")
    _check_count(path, len(range(len(stamps))[frames]), max_frames)
    notes = ("what is transparent becomes white",) if clear else ()
    if first.colours and first.colours.transfer in _HDR:
        notes += ("the video is HDR: frames are edited and written with 8 bits, on its own curve",)
    return _Found(first, last, stamps, notes)


def _check_size(path: Path, frame: _Frame, first: _Frame, max_pixels: int) -> None:
    _check_pixels(path, frame.size, max_pixels)
    got = f"{_sides(first.size)} in {first.name} and {_sides(frame.size)} in {frame.name}; scale them alike"
    expect(frame.size == first.size, str(path), "frames of one size", got)


def _check_pixels(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    pixels = size[0] * size[1]
    got = f"{_sides(size)}, {pixels} pixels, more than the limit of {max_pixels}; raise it with --max-pixels"
    expect(pixels <= max_pixels, str(path), "frames of a size to edit", got)


def _check_count(path: Path, selected: int, max_frames: int) -> None:
    got = "more; choose a part with --frames START:STOP, or raise --max-frames"
    expect(selected <= max_frames, str(path), f"at most {max_frames} frames", got)


class _Timeline(NamedTuple):
    """When frames are shown, in the time of the file."""

    times: list[Fraction]
    end: Fraction
    rate: Fraction | None
    notes: tuple[str, ...] = ()


def _timeline(stamps: list[Fraction | None], last_length: Fraction, source: _Source) -> _Timeline:
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) < len(stamps) or any(after <= before for before, after in pairwise(known)):
        rate, first = next(iter(source.rates), DEFAULT_RATE), min(known, default=Fraction(0))
        times = [first + k / rate for k in range(len(stamps))]
        said = f"the video does not say when each frame is shown: {rate} frames per second are assumed"
        return _Timeline(times, times[-1] + 1 / rate, rate, (said,))
    rate = _rate(known, last_length, source)
    times = [known[0] + k / rate for k in range(len(known))] if rate else known
    usual = 1 / rate if rate else (known[-1] - known[-2] if len(known) > 1 else 1 / DEFAULT_RATE)
    end = source.stated_end(known[0]) or known[-1] + last_length
    slack = max(source.tick, Fraction(1, 1000))  # an mp4 may round the end to milliseconds
    if end <= times[-1] or (rate and abs(end - times[-1] - usual) <= slack <= usual / 4):
        end = times[-1] + usual
    return _Timeline(times, end, rate)


def _rate(times: list[Fraction], last_length: Fraction, source: _Source) -> Fraction | None:
    """Frames per second that explain the times, but for their rounding to ticks; None if they vary."""
    steps = {after - before for before, after in pairwise(times)} or {last_length} - {0}
    even = [1 / step for step in steps] if len(steps) == 1 else []
    for rate in (*_likely(source.rates), *even):
        # rounding is assumed only where ticks are fine, and of rates that there are
        rounded = source.tick <= min(Fraction(1, 500), 1 / rate / 4) and rate.denominator in (1, 1001)
        slack = source.tick if rounded else 0
        if all(abs(time - times[0] - k / rate) <= slack for k, time in enumerate(times)):
            return rate
    return None


def _likely(rates: Iterable[Fraction]) -> Iterator[Fraction]:
    """What a file states, and what it may have been before it was rounded."""
    for rate in rates:
        yield rate
        if whole := round(rate):
            yield Fraction(whole)
            yield Fraction(whole * 1000, 1001)


def _sides(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _written(frames: slice) -> str:
    """As --frames has it."""
    parts = [frames.start, frames.stop, *([frames.step] if frames.step else [])]
    return ":".join("" if part is None else str(part) for part in parts)


def _is_clear(pixels: np.ndarray) -> bool:
    return pixels.shape[2] == 4 and bool((pixels[..., 3] < 255).any())


def _over(pixels: np.ndarray, ground: int) -> np.ndarray:
    """RGB of RGB or RGBA on a ground, rounded."""
    if not _is_clear(pixels):
        return np.ascontiguousarray(pixels[..., :3])
    alpha = pixels[..., 3:].astype(np.uint32)
    mixed = pixels[..., :3] * alpha + ground * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def _untagged(height: int) -> _Colours:
    """How players take a video without tags."""
    return _Colours(_BT709 if height >= 720 else _SMPTE170M, False, _UNKNOWN, _UNKNOWN)


# Reading


def _source(path: Path, max_pixels: int) -> _Source:
    expect(path.exists(), str(path), "a video or a folder of frames", "no such file; check the path")
    if path.is_dir():
        return _Pictures(path, _pictures_in(path), max_pixels)
    with _decoding(path), path.open("rb") as file:
        start = file.read(32)
    expect(bool(start), str(path), "a video", "an empty file; copy or save it again")
    if start[:4] == b"RIFF" and start[8:16] == b"WEBPVP8X" and start[20] & 2:
        return _Animation(path, max_pixels)
    if _is_picture(path, start):
        return _Pictures(path, [path], max_pixels)
    return _File(path, max_pixels)


def _pictures_in(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if file.suffix.lower() in _PICTURES and file.is_file()]
    files = sorted((file for file in files if not file.name.startswith(".")), key=_natural)
    got = "none of them; name another folder, or a video"
    expect(bool(files), str(folder), f"pictures ({' '.join(_PICTURES)})", got)
    return files


def _natural(path: Path) -> tuple[list[Any], str]:
    """Numbers by value; texts and numbers take turns, so that like is compared with like."""
    parts = re.split(r"([0-9]+)", path.name.casefold())
    return [int(part) if k % 2 else part for k, part in enumerate(parts)], path.name


def _is_picture(path: Path, start: bytes) -> bool:
    """A still one, of those that read_picture reads as well as a decoder of videos."""
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        head = path.read_bytes().partition(b"IDAT")[0]
        return b"acTL" not in head
    is_jpeg = start[:3] == b"\xff\xd8\xff" and path.suffix.lower() not in (".mjpeg", ".mjpg")
    return is_jpeg or start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") or start[8:12] == b"WEBP"


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turn what decoders raise into one line."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except PermissionError as error:
        raise UserError(
            f"{path}: expected a file that can be read, got {error.strerror}; change it"
        ) from error
    except (av.error.FFmpegError, OSError, ValueError, EOFError, SyntaxError, IndexError) as error:
        raise _damaged(path, getattr(error, "strerror", None) or str(error)) from error


def _damaged(path: Path, reason: str) -> UserError:
    reason = " ".join(reason.split()) or "unknown"
    got = f"one that is damaged or cut off, or something else ({reason})"
    return UserError(f"{path}: expected a whole video, got {got}; copy or save it again")


class _File:
    """A file that FFmpeg decodes."""

    def __init__(self, path: Path, max_pixels: int) -> None:
        self._path, self._max_pixels = path, max_pixels
        with _decoding(path), _opened(path) as container:
            stream = _video_stream(path, container)
            _check_pixels(path, (stream.height, stream.width), max_pixels)
            self.tick = stream.time_base or Fraction(1, 1000)
            stated = (stream.guessed_rate, stream.average_rate, stream.base_rate)
            self.rates = tuple(rate for rate in stated if rate)
            told = container.metadata | {k: v for k, v in stream.metadata.items() if k == "title"}
            self.metadata = {key: value for key, value in told.items() if key.lower() not in _FILE_TAGS}
            self.has_sound = bool(container.streams.audio)
            self.is_lossy = stream.codec_context.codec.lossy
            left_out = ["subtitles are left out"] if container.streams.subtitles else []
            self.notes = tuple(left_out)
            self._stated_end = _stated_end(container, stream)
        self._is_checked = False

    def __iter__(self) -> Generator[_Frame]:
        with _decoding(self._path), _opened(self._path) as container:
            stream = _video_stream(self._path, container)
            stream.thread_type = "AUTO"
            convert, k = VideoReformatter(), 0
            for packet in container.demux(stream):
                for frame in packet.decode():
                    _check_pixels(self._path, (frame.height, frame.width), self._max_pixels)
                    yield _upright(frame, stream, convert, k)
                    k += 1
        if not self._is_checked:
            with _decoding(self._path):
                _check_whole(self._path)
            self._is_checked = True

    def stated_end(self, first: Fraction) -> Fraction | None:
        """See _Source."""
        return self._stated_end(first)


def _opened(path: Path) -> InputContainer:
    # absolute: "name:" at the start of a path would be a protocol
    return av.open(str(path.absolute()), "r", metadata_errors="replace")


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


def _stated_end(container: InputContainer, stream: VideoStream) -> Callable[[Fraction], Fraction | None]:
    """When the pictures end by what the file says of them apart from the sound, given when they begin."""
    if told := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):
        end = int(told[1]) * 3600 + int(told[2]) * 60 + Fraction(told[3])
        return lambda first: end
    if container.format.name.startswith("mov") and stream.duration and stream.time_base:
        length = stream.duration * stream.time_base
        return lambda first: first + length
    return lambda first: None


def _upright(frame: VideoFrame, stream: VideoStream, convert: VideoReformatter, k: int) -> _Frame:
    base = frame.time_base or stream.time_base or Fraction(0)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    turn = _turn(bytes(cast(Any, matrix))) if matrix is not None else _Turn()
    aspect = stream.sample_aspect_ratio or Fraction(1)
    colours = _colours_of(frame)
    clear = frame.format.has_palette or any(part.is_alpha for part in frame.format.components)
    return _Frame(
        name=f"frame {k}",
        time=None if frame.pts is None else frame.pts * base,
        length=(frame.duration or 0) * base,
        size=(frame.width, frame.height) if turn.swaps else (frame.height, frame.width),
        colours=colours,
        aspect=1 / aspect if turn.swaps else aspect,
        may_be_clear=clear,
        pixels=lambda: turn.of(_to_rgb(frame, convert, colours, "rgba" if clear else "rgb24")),
    )


def _colours_of(frame: VideoFrame) -> _Colours | None:
    """None if the frame is RGB."""
    if frame.format.is_rgb or frame.format.has_palette:
        return None
    usual = _untagged(frame.height)
    matrix = usual.matrix if frame.colorspace in (_RGB, _UNKNOWN, 3) else int(frame.colorspace)
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    return _Colours(matrix, full, int(frame.color_trc), int(frame.color_primaries))


def _to_rgb(frame: VideoFrame, convert: VideoReformatter, colours: _Colours | None, to: str) -> np.ndarray:
    spaces = {"src_colorspace": colours.space, "src_color_range": colours.range} if colours else {}
    settings: dict[str, Any] = {**spaces, "dst_color_range": ColorRange.JPEG, "interpolation": _EXACT}
    return convert.reformat(frame, format=to, **settings).to_ndarray()


@dataclass(frozen=True)
class _Turn:
    """One of the eight ways to turn and mirror pixels: first rows and columns swap places."""

    swaps: bool = False
    down: bool = False
    right: bool = False

    def of(self, pixels: np.ndarray) -> np.ndarray:
        if self.swaps:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.down else 1, :: -1 if self.right else 1]


def _turn(matrix: bytes) -> _Turn:
    """What makes pixels upright. A matrix that slants them is left alone: players ignore it as well."""
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix[:36])
    if b == c == 0 and a and d:
        return _Turn(False, d < 0, a < 0)
    if a == d == 0 and b and c:
        return _Turn(True, b < 0, c < 0)
    return _Turn()


def _check_whole(path: Path) -> None:
    """FFmpeg takes the end of a file that was cut off for that of the video. Its parts tell their sizes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(12)
        if start[:3] == b"GIF":
            end = size if _gif_ends(path.read_bytes()) else size + 1
        elif start[:4] == b"RIFF":
            end = _end_of(file, size, _riff_part)
        elif start[:4] == b"\x1aE\xdf\xa3":
            end = _end_of(file, size, _matroska_part)
        else:
            end = _end_of(file, size, _mov_part) if start[4:8] in _MOV_PARTS else size
    if end > size:
        raise _damaged(path, f"it ends after {size} bytes")


def _end_of(file: BinaryIO, size: int, part: Callable[[bytes], int | None]) -> int:
    """Where the last of the parts of a file should end; `part` tells the length of one from its beginning."""
    at = 0
    while at < size:
        file.seek(at)
        length = part(file.read(20))
        if not length:
            return size  # it lasts until the end, or is none that is known
        at += length
    return at


def _riff_part(start: bytes) -> int | None:
    if start[:4] != b"RIFF" or len(start) < 8:
        return None
    length = int.from_bytes(start[4:8], "little")
    return 8 + length if length else None


def _mov_part(start: bytes) -> int | None:
    if start[4:8] not in _MOV_PARTS:
        return None
    length = int.from_bytes(start[:4], "big")
    return int.from_bytes(start[8:16], "big") if length == 1 else length


def _matroska_part(start: bytes) -> int | None:
    if start[:4] not in (b"\x1aE\xdf\xa3", b"\x18S\x80g"):
        return None
    bits = 9 - start[4].bit_length()  # the leading one says how many bytes follow
    length = int.from_bytes(start[4 : 4 + bits], "big") - (1 << 7 * bits)
    return None if length == (1 << 7 * bits) - 1 else 4 + bits + length


def _gif_ends(data: bytes) -> bool:
    """Its blocks lead to a trailer."""

    def table(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    with suppress(IndexError):
        at = 13 + table(data[10])
        while True:
            kind = data[at]
            if kind not in (0x21, 0x2C):
                return True  # the trailer, or what only the decoder may judge
            at += 2 if kind == 0x21 else 11 + table(data[at + 9])
            while data[at]:
                at += data[at] + 1
            at += 1
    return False


class _Still:
    """What pictures have in common: no sound, no tags."""

    has_sound = False
    notes: tuple[str, ...] = ()
    is_lossy = False
    tick = Fraction(1, 1000)
    rates: tuple[Fraction, ...] = ()

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}

    def stated_end(self, first: Fraction) -> Fraction | None:
        """See _Source."""
        return None


class _Animation(_Still):
    """An animated WebP, which FFmpeg does not decode."""

    def __init__(self, path: Path, max_pixels: int) -> None:
        super().__init__()
        self._path, self._max_pixels = path, max_pixels

    def __iter__(self) -> Generator[_Frame]:
        with _decoding(self._path):
            _check_whole(self._path)  # Pillow would end with the last whole frame
            with _animation(self._path, self._max_pixels) as image:
                yield from self._frames(image)

    def _frames(self, image: Image.Image) -> Iterator[_Frame]:
        shown = Fraction(0)
        for k in range(getattr(image, "n_frames", 1)):
            image.seek(k)
            image.load()
            length = Fraction(int(image.info.get("duration", 0)) or 100, 1000)  # as browsers do
            pixels = np.asarray(image.convert("RGBA" if image.mode == "RGBA" else "RGB"))
            clear, size = image.mode == "RGBA", (image.height, image.width)
            yield _Frame(f"frame {k}", shown, length, size, None, Fraction(1), clear, partial(_same, pixels))
            shown += length


def _animation(path: Path, max_pixels: int) -> Image.Image:
    """Opened by Pillow, whose own limit of pixels is off meanwhile."""
    limit = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = None
        image = Image.open(path, formats=("WEBP",))
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    try:
        _check_pixels(path, (image.height, image.width), max_pixels)
    except UserError:
        image.close()
        raise
    return image


class _Pictures(_Still):
    """Still pictures, one after the other."""

    rates = (DEFAULT_RATE,)

    def __init__(self, path: Path, files: list[Path], max_pixels: int) -> None:
        super().__init__()
        self._files, self._max_pixels = files, max_pixels
        if path.is_dir():
            self.notes = (f"a folder has no times: {DEFAULT_RATE} frames per second are assumed",)

    def __iter__(self) -> Generator[_Frame]:
        for k, file in enumerate(self._files):
            picture = read_picture(file, max_pixels=self._max_pixels)
            pixels, clear = _eight_bits(picture), picture.alpha is not None
            length = 1 / DEFAULT_RATE
            yield _Frame(
                file.name, k * length, length, picture.size, None, Fraction(1), clear, partial(_same, pixels)
            )


def _same(pixels: np.ndarray) -> np.ndarray:
    return pixels


def _eight_bits(picture: Picture) -> np.ndarray:
    """RGB or RGBA, to the nearest level."""
    parts = [picture.pixels] if picture.alpha is None else [picture.pixels, picture.alpha]
    pixels = np.dstack(parts)
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return pixels


# Masks


class Masks:
    """A mask (H, W) in [0, 1], float32, for each selected frame, from the start at every iteration.

    Attributes:
        still: they are all the same.
    """

    def __init__(self, masks: Callable[[], Iterator[np.ndarray]], *, still: bool) -> None:
        self._masks, self.still = masks, still

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._masks()


def open_masks(path: Path, video: Video, *, max_pixels: int = MAX_PIXELS) -> Masks:
    """Read a mask for a video: a still picture, or a video or a folder with a mask for each frame.

    A still picture is read by images.read_mask. Moving masks are the brightness of their frames, black where
    transparent; they may have a frame for each of the whole video, or for each selected one. Black and white
    of a lossy video are cleared of the noise of its encoder.

    Raises:
        UserError: as read_video, or size or number of frames do not fit, or all masks are black.
    """
    if path.is_file() and _is_still(path):
        mask = read_mask(path, size=video.size, max_pixels=max_pixels)
        return Masks(lambda: iter([mask] * video.num_frames), still=True)
    found = read_video(path, max_frames=sys.maxsize, max_pixels=max_pixels)
    expected, got = f"{_sides(video.size)} as the video", _sides(found.size)
    expect(found.size == video.size, str(path), expected, f"{got}; draw the masks on the video itself")
    still = found.num_frames == 1
    counts = (1, video.total, video.num_frames)
    expected = (
        f"{video.total} masks, one for each frame of the video, or {video.num_frames} for those selected"
    )
    expect(found.num_frames in counts, str(path), expected, f"{found.num_frames}; leave none out")
    if not still and found.num_frames == video.total:
        found = replace(found, indices=video.indices)
    masks = partial(_moving_masks, found, video.num_frames if still else 1)
    empty = "empty ones; paint it white there"
    expect(any(mask.any() for mask in masks()), str(path), "masks with white where to edit", empty)
    return Masks(masks, still=still)


def _is_still(path: Path) -> bool:
    with _decoding(path), path.open("rb") as file:
        start = file.read(32)
    animated = start[8:16] == b"WEBPVP8X" and bool(start[20] & 2)
    return not animated and _is_picture(path, start)


def _moving_masks(masks: Video, times: int) -> Iterator[np.ndarray]:
    for frame in masks._frames(_BLACK):
        mask = np.rint(frame @ np.array([0.299, 0.587, 0.114], np.float32)) / np.float32(255)
        if masks._source.is_lossy:
            mask[mask <= _MASK_NOISE] = 0
            mask[mask >= 1 - _MASK_NOISE] = 1
        for _ in range(times):
            yield mask.astype(np.float32)


# Writing


@dataclass(frozen=True)
class _Plan:
    """How a video is coded: everything but the pixels and the sound.

    Attributes:
        container: format of FFmpeg.
        codec: encoder of FFmpeg.
        pixel_format: what the encoder gets.
        unit: seconds of a tick.
        ticks: when each frame is shown, and when the last one ends.
        options: of the encoder.
    """

    container: str
    codec: str
    pixel_format: str
    unit: Fraction
    ticks: tuple[int, ...]
    options: dict[str, str]
    colours: _Colours | None


def check_can_write(
    output: Path, video: Video, *, codec: str | None = None, crf: int | None = None, sound: bool = True
) -> list[str]:
    """Check, before any long work, that the video can be written to `output`. A frame is encoded to try it.

    The suffix says what is written: .mp4 .mov .mkv .webm .gif .webp; without one, a folder of PNGs.

    Returns:
        What a user should know of the output, those of video.notes among it.

    Raises:
        UserError: unknown suffix, the codec is not there, does not fit or refuses the size, the sound does
            not fit, or what is at `output` must not be replaced.
    """
    notes = list(video.notes)
    suffix = _suffix(output)
    _check_place(output, video)
    if video.has_sound and sound and suffix not in _CONTAINERS:
        notes.append(f"{suffix or 'a folder'} holds no sound: it is left out")
    if not suffix:
        _check_no_codec(output, codec, crf)
        return [*notes, "a folder of frames holds no times"] if video.num_frames > 1 else notes
    plan = _plan(output, video, codec, crf)
    notes += _notes_on_times(suffix, video, plan)
    if suffix in _CONTAINERS:
        notes += _notes_on_pixels(output, video, plan)
        if video.has_sound and sound:
            _try_sound(output, video, plan)
    return notes


class VideoWriter:
    """Write the frames of an edited video, all or nothing: use it as a context manager.

    Times, pixel shape, colour tags, metadata and sound are those of `video`. Where the container or the codec
    cannot hold them, check_can_write says so.

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
        self._sound = sound and video.has_sound and _suffix(output) in _CONTAINERS
        if _suffix(output):
            self._plan = _plan(output, video, codec, crf)
        else:
            self._plan = None
            _check_no_codec(output, codec, crf)
        self._stack, self._written = ExitStack(), 0
        self._target: _Target | None = None

    def __enter__(self) -> "VideoWriter":
        _check_place(self._output, self._video)
        with ExitStack() as stack:
            if self._plan is None:
                folder = stack.enter_context(folder_written_beside(self._output))
                self._target = _Folder(folder, self._video.num_frames, partial(_check_folder, self._output))
            else:
                beside = stack.enter_context(written_beside(self._output))
                muxer = _muxing(beside, self._plan, self._video, self._sound)
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


class _Target(Protocol):
    """Where frames go."""

    def write(self, k: int, pixels: np.ndarray) -> None: ...

    def finish(self) -> None:
        """After the last frame."""
        ...


class _Folder:
    """Numbered PNGs."""

    def __init__(self, folder: Path, num_frames: int, check: Callable[[], None]) -> None:
        self._folder, self._check = folder, check
        self._digits = max(5, len(str(num_frames - 1)))

    def write(self, k: int, pixels: np.ndarray) -> None:
        write_picture(self._folder / f"{k:0{self._digits}d}.png", Picture(pixels))

    def finish(self) -> None:
        self._check()  # something may have been put there meanwhile


def _suffix(output: Path) -> str:
    suffix = output.suffix.lower()
    known = (*_CONTAINERS, *_ANIMATIONS)
    got = f"{suffix}; rename the output"
    expect(not suffix or suffix in known, str(output), f"one of {' '.join(known)}, or no suffix", got)
    return suffix


def _check_place(output: Path, video: Video) -> None:
    if output.suffix:
        check_output(output, video.path)
        return
    _check_folder(output)
    place, source = output.resolve(), video.path.resolve()
    inside = "the input, or a folder around it; choose another output"
    expect(place != source and place not in source.parents, str(output), "a new folder", inside)
    if not output.is_dir():
        check_output(output, video.path)
    else:
        got = "one that is not; choose another output"
        writable = os.access(place.parent, os.W_OK | os.X_OK)
        expect(writable, str(place.parent), "a folder that can be written", got)


def _check_folder(output: Path) -> None:
    """A folder is replaced if nothing but frames is lost."""
    if not os.path.lexists(output):
        return
    got = "a file; choose another output, or a name with a suffix such as .mp4"
    expect(output.is_dir(), str(output), "a folder for the frames", got)
    others = [entry.name for entry in output.iterdir() if not re.fullmatch(r"[0-9]+\.png", entry.name)]
    expected = "a folder that is empty or holds numbered PNGs alone"
    expect(not others, str(output), expected, f"{others[:1]} in it; choose another output")


def _check_no_codec(output: Path, codec: str | None, crf: int | None) -> None:
    kind = f"{output.suffix.lower()} output" if output.suffix else "a folder of PNGs"
    expect(codec is None, "--codec", f"none for {kind}", f"{codec}; leave it out, or write a .mp4 or .mkv")
    expect(crf is None, "--crf", f"none for {kind}", f"{crf}; leave it out, or write a .mp4 or .mkv")


def _plan(output: Path, video: Video, codec: str | None, crf: int | None) -> _Plan:
    suffix = output.suffix.lower()
    if suffix in _ANIMATIONS:
        _check_no_codec(output, codec, crf)
        gif = suffix == ".gif"
        unit, name = (Fraction(1, 100), "gif") if gif else (Fraction(1, 1000), "libwebp_anim")
        ticks = _ticks(video, unit, least=2 if gif else 1)
        options, kind = _OPTIONS.get(name, {}), "pal8" if gif else "bgra"
        draft = _Plan(_ANIMATIONS[suffix], name, kind, unit, ticks, options, None)
        return _with_pixel_format(output, video, draft, [kind])
    name = _encoder(codec or ("libvpx-vp9" if suffix == ".webm" else "libx264"))
    options = _OPTIONS.get(name, {}) | _quality(name, crf)
    unit = _unit(video)
    # mkv and webm round to milliseconds on their own
    milli = suffix in (".mkv", ".webm") and video.rate is None
    unit = Fraction(1, 1000) if milli else unit
    draft = _Plan(_CONTAINERS[suffix], name, "", unit, _ticks(video, unit), options, None)
    return _with_pixel_format(output, video, draft, _pixel_formats(name, video.size))


def _encoder(name: str) -> str:
    expected = "a video encoder of FFmpeg, such as libx264, libx265, libvpx-vp9 or ffv1"
    try:
        codec = av.Codec(name, "w")
    except ValueError as error:
        got = f"{name}, which is not there; choose another"
        raise UserError(f"--codec: expected {expected}, got {got}") from error
    expect(codec.type == "video", "--codec", expected, f"{name}, which is for {codec.type}; choose another")
    if codec.name == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "0")  # it writes to stderr on its own
    return codec.name


def _quality(name: str, crf: int | None) -> dict[str, str]:
    known = {option.name: option for option in av.Codec(name, "w").create().supported_options.private}
    if "crf" not in known:
        expect(crf is None, "--crf", f"none, since {name} has no such setting", f"{crf}; leave it out")
        return {}
    top = int(min(known["crf"].max, _CRF_LIMIT.get(name, 63)))
    expect(crf is None or 0 <= crf <= top, "--crf", f"a number from 0 to {top} for {name}", crf)
    chosen = _CRF.get(name) if crf is None else crf
    return {} if chosen is None else {"crf": str(chosen)}


def _unit(video: Video) -> Fraction:
    """The longest tick that all times are multiples of."""
    stamps = [*video.times[1:], video.end]
    bottom = lcm(*(s.denominator for s in stamps))
    common = Fraction(gcd(*(int(s * bottom) for s in stamps)), bottom)
    return common if common.denominator <= 1_000_000 else Fraction(1, 90_000)


def _ticks(video: Video, unit: Fraction, least: int = 1) -> tuple[int, ...]:
    """Times to the nearest tick, and at least so many apart."""
    ticks: list[int] = []
    for stamp in (*video.times, video.end):
        nearest = round(stamp / unit)
        ticks.append(max(nearest, ticks[-1] + least) if ticks else nearest)
    return tuple(ticks)


def _with_pixel_format(output: Path, video: Video, plan: _Plan, names: list[str]) -> _Plan:
    """The first that the encoder takes at this size."""
    if plan.codec == "libx265":  # below that it writes outside its memory, which ends the whole process
        got = f"{_sides(video.size)}; choose another with --codec"
        expect(min(video.size) >= 64, str(output), "sides of at least 64 for libx265", got)
    failure: Exception | None = None
    for name in names:
        candidate = replace(plan, pixel_format=name, colours=_coded(video, plan.codec, name))
        try:
            _trial(candidate, video)
        except (av.error.FFmpegError, ValueError) as error:
            failure = error
        else:
            return candidate
    reason = " ".join(str(getattr(failure, "strerror", None) or failure).split())
    expected = f"a codec that {output.suffix.lower()} holds at {_sides(video.size)}"
    got = f"{plan.codec} ({reason}); choose another with --codec, or write another kind of file"
    raise UserError(f"{output}: expected {expected}, got {got}")


def _pixel_formats(codec: str, size: tuple[int, int]) -> list[str]:
    """What to try: RGB where nothing is lost, few colours where sides are even or the codec does not mind."""
    known = [pixel_format.name for pixel_format in av.Codec(codec, "w").video_formats or []]
    if codec in ("ffv1", "libx264rgb", "png", "qtrle", "utvideo", "huffyuv"):
        wanted = ["rgb24", "gbrp", "bgr0"]
    elif size[0] % 2 or size[1] % 2:
        plain = ["yuv420p", "yuv444p"]
        wanted = plain if codec.startswith(("libvpx", "libsvtav1", "mpeg4")) else plain[::-1]
    else:
        wanted = ["yuv420p", "yuv444p"]
    wanted += ["yuvj420p", "yuvj444p", "yuv422p10le"]
    return [name for name in wanted if name in known] or known[:1]


def _coded(video: Video, codec: str, pixel_format: str) -> _Colours | None:
    """How the output codes its colours: as the source if the codec can say so. None for RGB."""
    if av.VideoFormat(pixel_format).is_rgb or pixel_format == "pal8":
        return None
    full = video._colours.full and codec in _TELL_RANGE
    return video._colours._replace(full=full or pixel_format.startswith("yuvj"))


def _trial(plan: _Plan, video: Video, sound: bool = False) -> BytesIO:
    """The first frame, black, in memory; some sound with it."""
    output = BytesIO()
    pixels = np.zeros((*video.size, 3), np.uint8)
    short = replace(plan, ticks=plan.ticks[:2])
    with (
        closing(av.open(output, "w", format=plan.container)) as container,
        closing(_Muxer(container, short, video, sound)) as muxer,
    ):
        muxer.write(0, pixels)
        muxer.finish(trial=True)
    output.seek(0)
    return output


def _try_sound(output: Path, video: Video, plan: _Plan) -> None:
    try:
        with _decoding(video.path), _opened(video.path) as container:
            names = [getattr(s.codec_context, "name", "unknown") for s in container.streams.audio]
        _trial(plan, video, sound=True)
    except UserError:
        raise
    except (av.error.FFmpegError, ValueError, AttributeError) as error:
        expected = f"sound that {output.suffix.lower()} holds"
        got = f"{' and '.join(names)}; write a .mkv, or leave the sound out with --no-sound"
        raise UserError(f"{output}: expected {expected}, got {got}") from error


def _notes_on_times(suffix: str, video: Video, plan: _Plan) -> list[str]:
    if suffix not in _ANIMATIONS:
        return []
    stamps = (*video.times, video.end)
    notes = ["a GIF has at most 256 colours in a frame"] if suffix == ".gif" else []
    off = max(abs(tick * plan.unit - stamp) for tick, stamp in zip(plan.ticks, stamps, strict=True))
    if off > plan.unit:
        return [*notes, "a GIF shows at most 50 frames per second: this one becomes slower"]
    if off > 0:
        notes.append(f"{suffix} shows frames at multiples of {plan.unit} s: times are rounded")
    return notes


def _notes_on_pixels(output: Path, video: Video, plan: _Plan) -> list[str]:
    notes = []
    if plan.pixel_format == "yuv444p" and plan.codec in ("libx264", "libx265"):
        notes.append("sides are odd: colours are written whole (yuv444p), which some players do not show")
    if video.aspect != 1 and not _keeps_aspect(plan, video):
        notes.append(f"{output.suffix} with {plan.codec} does not keep that pixels are not square")
    return notes


def _keeps_aspect(plan: _Plan, video: Video) -> bool:
    with av.open(_trial(plan, video), "r") as container:
        return container.streams.video[0].sample_aspect_ratio == video.aspect


class _Sink:
    """A file that FFmpeg writes to. It keeps the first error: FFmpeg would lose it, or the later ones."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        return self._tried(lambda: self._file.write(data), len(data))

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._tried(lambda: self._file.seek(offset, whence), 0)

    def tell(self) -> int:
        return self._tried(self._file.tell, 0)

    def flush(self) -> None:
        self._tried(lambda: self._file.flush() or 0, 0)

    def check(self) -> None:
        """Raise what a write has raised."""
        if self.error is not None:
            raise self.error

    def _tried(self, act: Callable[[], int], otherwise: int) -> int:
        if self.error is None:
            try:
                return act()
            except OSError as error:
                self.error = error
        return otherwise


@contextmanager
def _muxing(path: Path, plan: _Plan, video: Video, sound: bool) -> Iterator["_Target"]:
    """Where to write the frames of a file, which is closed at the end."""
    file = path.open("w+b")
    try:
        sink = _Sink(file)
        container = av.open(sink, "w", format=plan.container, container_options=_container_options(plan))
        muxer = None
        try:
            with _encoding(path, plan, sink):
                muxer = _Muxer(container, plan, video, sound)
            yield _Guarded(muxer, partial(_encoding, path, plan, sink))
            with _encoding(path, plan, sink):
                container.close()
                sink.flush()
        finally:
            sink.error = sink.error or OSError("given up")  # what comes now is not written
            if muxer is not None:
                muxer.close()
            with suppress(Exception):
                container.close()
        if plan.container == "webp":
            _set_last_length(file, (plan.ticks[-1] - plan.ticks[0]))
    finally:
        file.close()


class _Guarded:
    """A muxer whose errors are told as those of its file."""

    def __init__(self, muxer: "_Muxer", guard: Callable[[], Any]) -> None:
        self._muxer, self._guard = muxer, guard

    def write(self, k: int, pixels: np.ndarray) -> None:
        with self._guard():
            self._muxer.write(k, pixels)

    def finish(self) -> None:
        with self._guard():
            self._muxer.finish()


@contextmanager
def _encoding(path: Path, plan: _Plan, sink: _Sink) -> Iterator[None]:
    try:
        yield
        sink.check()
    except av.error.FFmpegError as error:
        sink.check()
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        reason = error.strerror or "unknown"
        got = f"{reason}; choose another codec or container"
        raise UserError(f"{plan.codec}: expected an encoder that takes the frames, got {got}") from error


def _container_options(plan: _Plan) -> dict[str, str]:
    return {"loop": "0"} if plan.container == "webp" else {}  # for ever, as a GIF does by default


class _Muxer:
    """Encodes frames into an open container, and copies the sound in between."""

    def __init__(self, container: OutputContainer, plan: _Plan, video: Video, sound: bool) -> None:
        self._container, self._plan = container, plan
        lengths = pairwise(plan.ticks)
        self._lengths = {start: end - start for start, end in lengths}
        self._stream = _add_stream(container, plan, video)
        self._convert = VideoReformatter()
        self._palettes = _Palettes(video.size, plan.unit) if plan.codec == "gif" else None
        container.metadata.update(video.metadata)
        self._sound = _Sound(container, video) if sound else None

    def write(self, k: int, pixels: np.ndarray) -> None:
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
        self._stamp(frame, k)
        frame = self._palettes.of(frame) if self._palettes else self._coded(frame)
        self._stamp(frame, k)
        self._mux(self._stream.encode(frame))
        if self._sound:
            self._sound.mux_to(self._plan.ticks[k] * self._plan.unit)

    def finish(self, trial: bool = False) -> None:
        """After the last frame. A trial takes a little of the sound."""
        self._mux(self._stream.encode())
        if self._sound and trial:
            self._sound.mux_some()
        elif self._sound:
            self._sound.mux_to(None)

    def close(self) -> None:
        """Close the source of the sound."""
        if self._sound:
            self._sound.close()

    def _stamp(self, frame: VideoFrame, k: int) -> None:
        frame.pts, frame.time_base = self._plan.ticks[k], self._plan.unit
        frame.duration = self._lengths[self._plan.ticks[k]]

    def _coded(self, frame: VideoFrame) -> VideoFrame:
        colours = self._plan.colours
        target: dict[str, Any] = {"interpolation": _EXACT}
        if colours:
            target |= {"dst_colorspace": colours.space, "dst_color_range": colours.range}
        coded = self._convert.reformat(frame, format=self._plan.pixel_format, **target)
        if colours:
            coded.colorspace, coded.color_range = colours.matrix, colours.range
        return coded

    def _mux(self, packets: Iterable[Packet]) -> None:
        for packet in packets:
            # encoders do not pass on how long a frame is shown; the last one has no next to tell
            if packet.pts is not None and packet.pts in self._lengths:
                packet.duration = self._lengths[packet.pts]
            self._container.mux(packet)


def _add_stream(container: OutputContainer, plan: _Plan, video: Video) -> VideoStream:
    options = dict(plan.options)
    stream = cast(VideoStream, container.add_stream(plan.codec, rate=video.rate or 24, options=options))
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = video.width, video.height, plan.pixel_format
    context.time_base = plan.unit
    context.framerate = video.rate or Fraction(0)
    if video.aspect != 1:
        context.sample_aspect_ratio = video.aspect
    steps = {after - before for before, after in pairwise(plan.ticks)}
    if len(steps) > 1:
        context.max_b_frames = 0  # packets out of order would get each other's length
    if "crf" not in options:
        _best_quality(stream, plan.codec)
    if plan.container in _CONTAINERS.values() and av.VideoFormat(plan.pixel_format).is_rgb:
        context.colorspace = _RGB
    if colours := plan.colours:
        context.colorspace, context.color_range = colours.matrix, colours.range
        context.color_trc, context.color_primaries = colours.transfer, colours.primaries
    if plan.codec == "libvpx":
        context.bit_rate = 20 * video.width * video.height  # it has no quality without one
    return stream


def _best_quality(stream: VideoStream, codec: str) -> None:
    """For old encoders, whose own default is a rate for small pictures."""
    if codec in ("mpeg4", "mjpeg", "mpeg2video", "mpeg1video", "msmpeg4", "h263", "flv"):
        stream.codec_context.qscale = True
        stream.codec_context.global_quality = 3 * 118  # in units of FF_QP2LAMBDA


class _Palettes:
    """The colours of a GIF, chosen anew for each frame."""

    def __init__(self, size: tuple[int, int], unit: Fraction) -> None:
        graph = av.filter.Graph()
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
        self._graph = graph

    def of(self, frame: VideoFrame) -> VideoFrame:
        self._graph.vpush(frame)
        return self._graph.vpull()


def _set_last_length(file: BinaryIO, total: int) -> None:
    """The encoder of WebP guesses how long the last frame is shown: write it into its chunk, in ms."""
    file.seek(0, os.SEEK_END)
    size, at, before, last = file.tell(), 12, 0, None
    while at + 8 <= size:
        file.seek(at)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind == b"ANMF":
            file.seek(at + 20)
            last = at + 20, before
            before += int.from_bytes(file.read(3), "little")
        at += 8 + length + length % 2
    if last:
        file.seek(last[0])
        file.write((total - last[1]).to_bytes(3, "little"))


class _Sound:
    """Copies packets of sound as they are, shifted to the start of the selection."""

    def __init__(self, container: OutputContainer, video: Video) -> None:
        self._container, self._video = container, video
        self._source = _opened(video.path)
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

    def mux_some(self) -> None:
        """Copy a few packets."""
        for packet in islice(self._packets, 8):
            self._container.mux(packet[1])

    def _added(self, stream: Any) -> Stream:
        added = self._container.add_stream_from_template(stream)
        added.metadata.update({k: v for k, v in stream.metadata.items() if k in ("language", "title")})
        added.disposition = stream.disposition
        return added

    def _kept(self) -> Any:
        """(time in the output, packet) of those in the selection."""
        video = self._video
        with _decoding(video.path):
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
