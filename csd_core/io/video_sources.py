"""Frames decoded from files and folders: by FFmpeg, animated WebP by Pillow, pictures by io.images.

They are decoded one after the other whenever they are asked for; none is kept. Pixels are upright.
"""

import re
import struct
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from PIL import Image

from csd_core.errors import UserError, expect
from csd_core.io.files import unreadable
from csd_core.io.images import Picture, read_picture
from csd_core.io.video_colours import Colours, colours_of, to_rgb
from csd_core.io.video_truncation import is_cut_off

DEFAULT_RATE = Fraction(24)
"""Frames per second of what has no times, such as a folder of pictures."""

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
_NO_VIDEOS = ("tty", "hls", "concat", "dash", "image2")  # text, and lists that name other files
_FILE_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "software"}


class Frame(NamedTuple):
    """A decoded frame."""

    name: str
    time: Fraction | None
    """When it is shown, in the time of the file."""
    length: Fraction
    """How long the file says it is shown; 0 if it does not."""
    size: tuple[int, int]
    colours: Colours | None
    aspect: Fraction
    may_be_clear: bool
    pixels: Callable[[], np.ndarray]
    """RGB or, where it may be clear, RGBA: (H, W, 3 or 4) uint8."""


class Source(Protocol):
    """Something that yields frames, from the beginning at every iteration."""

    has_sound: bool
    notes: tuple[str, ...]
    metadata: dict[str, str]
    tick: Fraction
    """Times are multiples of this, rounded."""
    rates: tuple[Fraction, ...]
    """Frame rates that the file states."""
    is_lossy: bool
    """The codec changes pixels."""

    def __iter__(self) -> Generator[Frame]: ...

    def stated_end(self, first: Fraction) -> Fraction | None:
        """When the last frame ends, if the file says so; its first is shown at `first`."""
        ...


def open_source(path: Path, max_pixels: int) -> Source:
    """The frames of a file or folder.

    Raises:
        UserError: there is no such file, or no video or pictures in it.
    """
    expect(path.exists(), str(path), "a video or a folder of frames", "no such file; check the path")
    if path.is_dir():
        return _Pictures(path, pictures_in(path), max_pixels)
    start = _start(path)
    expect(bool(start), str(path), "a video", "an empty file; copy or save it again")
    if _is_animated_webp(start):
        return _Animation(path, max_pixels)
    if is_still_picture(path):
        return _Pictures(path, [path], max_pixels)
    return _File(path, max_pixels)


def is_still_picture(path: Path) -> bool:
    """It is a still picture, of those that read_picture reads as well as a decoder of videos."""
    start = _start(path)
    if _is_animated_webp(start):
        return False
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        head = path.read_bytes().partition(b"IDAT")[0]
        return b"acTL" not in head
    is_jpeg = start[:3] == b"\xff\xd8\xff" and path.suffix.lower() not in (".mjpeg", ".mjpg")
    return is_jpeg or start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") or start[8:12] == b"WEBP"


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turn what decoders raise into one line.

    Raises:
        UserError: of any error but those of memory.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except PermissionError as error:
        raise unreadable(path, error) from error
    except (av.error.FFmpegError, OSError, ValueError, EOFError, SyntaxError, IndexError) as error:
        raise _damaged(path, getattr(error, "strerror", None) or str(error)) from error


def open_container(path: Path) -> InputContainer:
    """Opened by FFmpeg."""
    # absolute: "name:" at the start of a path would be a protocol
    return av.open(str(path.absolute()), "r", metadata_errors="replace")


def sides(size: tuple[int, int]) -> str:
    """Height and width as users write them: 48x32 is 48 wide."""
    return f"{size[1]}x{size[0]}"


def _start(path: Path) -> bytes:
    with decoding(path), path.open("rb") as file:
        return file.read(32)


def _is_animated_webp(start: bytes) -> bool:
    return start[:4] == b"RIFF" and start[8:16] == b"WEBPVP8X" and len(start) > 20 and bool(start[20] & 2)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder in the natural order of their names; hidden and other files are left out.

    Raises:
        UserError: there is none.
    """
    files = [file for file in folder.iterdir() if file.suffix.lower() in _PICTURES and file.is_file()]
    files = sorted((file for file in files if not file.name.startswith(".")), key=_natural)
    got = "none of them; name another folder, or a video"
    expect(bool(files), str(folder), f"pictures ({' '.join(_PICTURES)})", got)
    return files


def _natural(path: Path) -> tuple[list[Any], str]:
    """Numbers by value; texts and numbers take turns, so that like is compared with like."""
    parts = re.split(r"([0-9]+)", path.name.casefold())
    return [int(part) if k % 2 else part for k, part in enumerate(parts)], path.name


def _damaged(path: Path, reason: str) -> UserError:
    reason = " ".join(reason.split()) or "unknown"
    got = f"one that is damaged or cut off, or something else ({reason})"
    return UserError(f"{path}: expected a whole video, got {got}; copy or save it again")


def _check_whole(path: Path) -> None:
    if is_cut_off(path):
        raise _damaged(path, f"it ends after {path.stat().st_size} bytes")


def _check_pixels(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    pixels = size[0] * size[1]
    got = f"{sides(size)}, {pixels} pixels, more than the limit of {max_pixels}; raise it with --max-pixels"
    expect(pixels <= max_pixels, str(path), "frames of a size to edit", got)


class _File:
    """A file that FFmpeg decodes."""

    def __init__(self, path: Path, max_pixels: int) -> None:
        self._path, self._max_pixels = path, max_pixels
        with decoding(path), open_container(path) as container:
            stream = _video_stream(path, container)
            _check_pixels(path, (stream.height, stream.width), max_pixels)
            self.tick = stream.time_base or Fraction(1, 1000)
            stated = (stream.guessed_rate, stream.average_rate, stream.base_rate)
            self.rates = tuple(rate for rate in stated if rate)
            told = container.metadata | {k: v for k, v in stream.metadata.items() if k == "title"}
            self.metadata = {key: value for key, value in told.items() if key.lower() not in _FILE_TAGS}
            self.has_sound = bool(container.streams.audio)
            self.is_lossy = stream.codec_context.codec.lossy
            self.notes: tuple[str, ...] = ("subtitles are left out",) if container.streams.subtitles else ()
            self._stated_end = _stated_end(container, stream)
        self._is_checked = False

    def __iter__(self) -> Generator[Frame]:
        with decoding(self._path), open_container(self._path) as container:
            stream = _video_stream(self._path, container)
            stream.thread_type = "AUTO"
            convert, k = VideoReformatter(), 0
            for packet in container.demux(stream):
                for frame in packet.decode():
                    _check_pixels(self._path, (frame.height, frame.width), self._max_pixels)
                    yield _upright(frame, stream, convert, k)
                    k += 1
        if not self._is_checked:
            with decoding(self._path):
                _check_whole(self._path)
            self._is_checked = True

    def stated_end(self, first: Fraction) -> Fraction | None:
        """See Source."""
        return self._stated_end(first)


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


def _upright(frame: VideoFrame, stream: VideoStream, convert: VideoReformatter, k: int) -> Frame:
    base = frame.time_base or stream.time_base or Fraction(0)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    turn = _turn(bytes(cast(Any, matrix))) if matrix is not None else _Turn()
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
        pixels=lambda: turn.of(to_rgb(frame, convert, colours, "rgba" if clear else "rgb24")),
    )


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
        """See Source."""
        return None


class _Animation(_Still):
    """An animated WebP, which FFmpeg does not decode."""

    def __init__(self, path: Path, max_pixels: int) -> None:
        super().__init__()
        self._path, self._max_pixels = path, max_pixels

    def __iter__(self) -> Generator[Frame]:
        with decoding(self._path):
            _check_whole(self._path)  # Pillow would end with the last whole frame
            with _animation(self._path, self._max_pixels) as image:
                yield from self._frames(image)

    def _frames(self, image: Image.Image) -> Iterator[Frame]:
        shown = Fraction(0)
        for k in range(getattr(image, "n_frames", 1)):
            image.seek(k)
            image.load()
            length = Fraction(int(image.info.get("duration", 0)) or 100, 1000)  # as browsers do
            pixels = np.asarray(image.convert("RGBA" if image.mode == "RGBA" else "RGB"))
            yield _still_frame(f"frame {k}", shown, length, pixels)
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

    def __iter__(self) -> Generator[Frame]:
        for k, file in enumerate(self._files):
            picture = read_picture(file, max_pixels=self._max_pixels)
            yield _still_frame(file.name, k / DEFAULT_RATE, 1 / DEFAULT_RATE, _eight_bits(picture))


def _still_frame(name: str, time: Fraction, length: Fraction, pixels: np.ndarray) -> Frame:
    size, may_be_clear = (pixels.shape[0], pixels.shape[1]), pixels.shape[2] == 4
    return Frame(name, time, length, size, None, Fraction(1), may_be_clear, lambda: pixels)


def _eight_bits(picture: Picture) -> np.ndarray:
    """RGB or RGBA, to the nearest level."""
    parts = [picture.pixels] if picture.alpha is None else [picture.pixels, picture.alpha]
    pixels = np.dstack(parts)
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return pixels
