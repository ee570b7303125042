"""Where frames come from: videos by FFmpeg, animations by Pillow, pictures by io.images.

Frames are decoded one after the other on request; none is kept. Pixels are upright.
"""

import re
from collections import Counter
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from csd_core.errors import expect
from csd_core.io.images import check_pixels, decoding, eight_bits, pillow_limit, read_picture, rgb_pixels
from csd_core.io.video_decoder import FileSource
from csd_core.io.video_frames import Frame, Source

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
_PICTURE_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_source(path: Path, max_pixels: int, allow_corrupt: bool = False) -> Source:
    """The frames of a file or folder.

    allow_corrupt: leave out what cannot be decoded in place of an error.

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
    return FileSource(path, max_pixels, allow_corrupt)


def is_still_picture(path: Path) -> bool:
    """Whether it is a still picture, of those that read_picture reads as well as a decoder of videos."""
    with decoding(path, "video"), path.open("rb") as file:
        start = file.read(12)
    is_picture = start.startswith(_PICTURE_MAGIC) and path.suffix.lower() not in (".mjpeg", ".mjpg")
    return (is_picture or start[8:12] == b"WEBP") and not _is_animation(path)


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder in the natural order of their names; hidden and other files are left out.

    Raises:
        UserError: there is none.
    """
    files = [file for file in _files_in(folder) if file.suffix.lower() in _PICTURES]
    got = f"{_others_in(folder) or 'none of them'}; convert them, or name another folder or a video"
    expect(bool(files), str(folder), f"pictures ({' '.join(_PICTURES)})", got)
    return sorted(files, key=_natural)


def _files_in(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]


def _others_in(folder: Path) -> str:
    """What other files there are, by their endings, such as "3 .heic, 1 .txt"."""
    endings = [file.suffix.lower() or "without an ending" for file in _files_in(folder)]
    counts = Counter(ending for ending in endings if ending not in _PICTURES)
    return ", ".join(f"{count} {ending}" for ending, count in sorted(counts.items()))


def _natural(path: Path) -> tuple[list[Any], str]:
    """Numbers by value; texts and numbers take turns, so that like is compared with like."""
    parts = re.split(r"([0-9]+)", path.name.casefold())
    return [int(part) if k % 2 else part for k, part in enumerate(parts)], path.name


class _Animation(Source):
    """A GIF, an animated PNG or WebP. Pillow refuses one whose pixels are cut off; FFmpeg reads no WebP."""

    def __iter__(self) -> Generator[Frame]:
        with decoding(self.path, "video"), _open_animation(self.path) as image:
            check_pixels(self.path, (image.height, image.width), self.max_pixels)
            # between two frames Pillow takes the end of a GIF for the end of the animation
            if image.format == "GIF" and not self.path.read_bytes().rstrip(b"\0").endswith(b";"):
                raise EOFError("its last byte is missing")
            self.plays = _plays(image)
            shown = Fraction(0)
            # the picture of an APNG for programs that do not play it
            first = int(bool(image.info.get("default_image")))
            for k in range(first, getattr(image, "n_frames", 1)):
                with pillow_limit(None):  # a text may stand between frames
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


def _plays(image: Image.Image) -> int:
    """How often an animation is played; 0: endlessly."""
    loop = image.info.get("loop")
    if image.format != "GIF":
        return int(loop or 0)
    # a GIF states how often it is played again
    return 1 if loop is None else int(loop) and int(loop) + 1


class _Pictures(Source):
    """Still pictures, one after the other."""

    def __init__(self, path: Path, files: list[Path], max_pixels: int) -> None:
        super().__init__(path, max_pixels)
        self._files, self.timeless = files, ""
        if path.is_dir():
            self.timeless = "a folder has no times"
            if others := _others_in(path):
                self.note(f"other files in the folder are left out: {others}")

    def __iter__(self) -> Generator[Frame]:
        for file in self._files:
            picture = read_picture(file, max_pixels=self.max_pixels)
            if picture.depth > 8:
                self.note(f"pictures have {picture.depth} bits: they are edited and written with 8")
            yield _still_frame(file.name, None, Fraction(0), eight_bits(picture.stacked()))


def _still_frame(name: str, time: Fraction | None, length: Fraction, pixels: np.ndarray) -> Frame:
    size, may_be_clear = (pixels.shape[0], pixels.shape[1]), pixels.shape[2] == 4
    return Frame(name, time, length, size, None, Fraction(1), may_be_clear, False, lambda: pixels)
