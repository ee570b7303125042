"""Frames decoded from files and folders: videos by FFmpeg, animations by Pillow, pictures by io.images.

Frames are decoded one after the other on request; none is kept. Pixels are upright.
"""

import re
import struct
from collections.abc import Callable, Generator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from PIL import Image

from csd_core.errors import expect
from csd_core.io.images import check_pixels, decoding, eight_bits, pillow_limit, read_picture, rgb_pixels
from csd_core.io.video_colours import Colours, colours_of, to_rgb

DEFAULT_RATE = Fraction(24)
"""Frames per second where a file has no times, such as a folder of pictures."""

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
_PICTURE_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NO_VIDEOS = ("tty", "hls", "concat", "dash", "image2")  # text, and lists that name other files
_FILE_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "software"}
_MOV_BOXES = b"ftyp moov mdat moof free skip wide uuid sidx styp mfra".split()
_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"


class Frame(NamedTuple):
    """A decoded frame."""

    name: str
    time: Fraction | None
    """When it is shown, in seconds of the file."""
    length: Fraction
    """How long it is shown according to the file; 0 if unknown."""
    size: tuple[int, int]
    colours: Colours | None
    aspect: Fraction
    may_be_clear: bool
    pixels: Callable[[], np.ndarray]
    """RGB or, where it may be transparent, RGBA: (H, W, 3 or 4) uint8."""


class Source:
    """Yields frames, from the beginning at every iteration. Can be pickled: rank 0 sends it to the others.

    Attributes:
        has_sound: the file has sound.
        notes: what a user should know.
        metadata: title and the like.
        tick: times are rounded to multiples of this.
        rates: frame rates that the file states.
        is_lossy: the codec changes pixels.
        stated_end: when the last frame ends, in seconds of the file, if it states that.
        stated_length: how long all frames last, if it states that.
    """

    has_sound = False
    notes: tuple[str, ...] = ()
    tick = Fraction(1, 1000)
    rates: tuple[Fraction, ...] = ()
    is_lossy = False
    stated_end: Fraction | None = None
    stated_length: Fraction | None = None

    def __init__(self, path: Path, max_pixels: int) -> None:
        self.path, self.max_pixels = path, max_pixels
        self.metadata: dict[str, str] = {}

    def __iter__(self) -> Generator[Frame]:
        raise NotImplementedError


def open_source(path: Path, max_pixels: int) -> Source:
    """The frames of a file or folder.

    Raises:
        UserError: there is no such file, or no video or pictures in it, or it is cut off.
    """
    expect(path.exists(), str(path), "a video or a folder of frames", "no such file; check the path")
    if path.is_dir():
        return _Pictures(path, pictures_in(path), max_pixels)
    with decoding(path, "video"), path.open("rb") as file:
        expect(bool(file.read(1)), str(path), "a video", "an empty file; copy or save it again")
    if _is_animation(path):
        return _Animation(path, max_pixels)
    if is_still_picture(path):
        return _Pictures(path, [path], max_pixels)
    return _File(path, max_pixels)


def is_still_picture(path: Path) -> bool:
    """Whether it is a still picture, of those that read_picture reads as well as a decoder of videos."""
    with decoding(path, "video"), path.open("rb") as file:
        start = file.read(12)
    is_picture = start.startswith(_PICTURE_MAGIC) and path.suffix.lower() not in (".mjpeg", ".mjpg")
    return (is_picture or start[8:12] == b"WEBP") and not _is_animation(path)


def open_container(path: Path) -> InputContainer:
    """Opened by FFmpeg."""
    # absolute: "name:" at the start of a path would be a protocol
    return av.open(str(path.absolute()), "r", metadata_errors="replace")


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


class _File(Source):
    """A video that FFmpeg decodes."""

    def __init__(self, path: Path, max_pixels: int) -> None:
        super().__init__(path, max_pixels)
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
            self.has_sound = bool(container.streams.audio)
            self.is_lossy = stream.codec_context.codec.lossy
            self.notes = ("subtitles are left out",) if container.streams.subtitles else ()
            # of the pictures, apart from the sound
            if end := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):
                self.stated_end = int(end[1]) * 3600 + int(end[2]) * 60 + Fraction(end[3])
            elif container.format.name.startswith("mov") and stream.duration:
                self.stated_length = stream.duration * self.tick

    def __iter__(self) -> Generator[Frame]:
        with decoding(self.path, "video"), open_container(self.path) as container:
            stream = _video_stream(self.path, container)
            stream.thread_type = "AUTO"
            convert = VideoReformatter()
            for k, frame in enumerate(container.decode(stream)):
                check_pixels(self.path, (frame.height, frame.width), self.max_pixels)
                yield _upright(frame, stream, convert, k)


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


class _Turn(NamedTuple):
    """One of the eight ways to turn and mirror pixels: first rows and columns swap places."""

    swaps: bool = False
    down: bool = False
    right: bool = False

    def of(self, pixels: np.ndarray) -> np.ndarray:
        if self.swaps:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.down else 1, :: -1 if self.right else 1]


def _turn(matrix: bytes) -> _Turn:
    """What makes pixels upright. A matrix that slants them is ignored, as by players."""
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix[:36])
    if b == c == 0 and a and d:
        return _Turn(False, d < 0, a < 0)
    if a == d == 0 and b and c:
        return _Turn(True, b < 0, c < 0)
    return _Turn()


class _Animation(Source):
    """A GIF, an animated PNG or WebP. Pillow refuses one whose pixels are cut off; FFmpeg reads no WebP."""

    def __iter__(self) -> Generator[Frame]:
        with decoding(self.path, "video"), _open_animation(self.path) as image:
            check_pixels(self.path, (image.height, image.width), self.max_pixels)
            # between two frames Pillow takes the end of a GIF for the end of the animation
            if image.format == "GIF" and not self.path.read_bytes().rstrip(b"\0").endswith(b";"):
                raise EOFError("its last byte is missing")
            shown = Fraction(0)
            # the picture of an APNG for programs that do not play it
            first = int(bool(image.info.get("default_image")))
            for k in range(first, getattr(image, "n_frames", 1)):
                image.seek(k)
                image.load()
                length = Fraction(int(image.info.get("duration", 0)) or 100, 1000)  # as browsers do
                pixels = eight_bits(rgb_pixels(self.path, image))
                yield _still_frame(f"frame {k - first}", shown, length, pixels)
                shown += length


def _is_animation(path: Path) -> bool:
    """Whether it is an animation that Pillow decodes. A GIF always is: it may have lost frames."""
    try:
        with _open_animation(path) as image:
            return image.format == "GIF" or getattr(image, "is_animated", False)
    except Exception:  # something else, or damaged: its decoder reports that
        return False


def _open_animation(path: Path) -> Image.Image:
    with pillow_limit(None):
        return Image.open(path, formats=("GIF", "PNG", "WEBP"))


class _Pictures(Source):
    """Still pictures, one after the other."""

    rates = (DEFAULT_RATE,)

    def __init__(self, path: Path, files: list[Path], max_pixels: int) -> None:
        super().__init__(path, max_pixels)
        self._files = files
        if path.is_dir():
            self.notes = (f"a folder has no times: {DEFAULT_RATE} frames per second are assumed",)

    def __iter__(self) -> Generator[Frame]:
        for k, file in enumerate(self._files):
            pixels = eight_bits(read_picture(file, max_pixels=self.max_pixels).stacked())
            yield _still_frame(file.name, k / DEFAULT_RATE, 1 / DEFAULT_RATE, pixels)


def _still_frame(name: str, time: Fraction, length: Fraction, pixels: np.ndarray) -> Frame:
    size, may_be_clear = (pixels.shape[0], pixels.shape[1]), pixels.shape[2] == 4
    return Frame(name, time, length, size, None, Fraction(1), may_be_clear, lambda: pixels)
