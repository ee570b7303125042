"""Tell whether a file of a video was cut off, which decoders take for the end of the video.

Known are mp4 and mov, mkv and webm, WebP and AVI, GIF, and PNG.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_PNG = b"\x89PNG\r\n\x1a\n"
_MOV_PARTS = b"ftyp moov mdat moof free skip wide uuid sidx styp mfra".split()


def is_cut_off(path: Path) -> bool:
    """The parts of a file tell that it should be longer."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(12)
        if start[:3] == b"GIF":
            return not _gif_ends(path.read_bytes())
        if start[:8] == _PNG:
            return not _png_ends(file, size)
        if start[:4] == b"RIFF":
            end = _end_of(file, size, _riff_part)
        elif start[:4] == b"\x1aE\xdf\xa3":
            end = _end_of(file, size, _matroska_part)
        else:
            end = _end_of(file, size, _mov_part) if start[4:8] in _MOV_PARTS else size
    return end > size


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


def _png_ends(file: BinaryIO, size: int) -> bool:
    """Its chunks lead to the last one, which is there to its end."""
    at = len(_PNG)
    while at < size:
        file.seek(at)
        start = file.read(8)
        at += int.from_bytes(start[:4], "big") + 12
        if start[4:] == b"IEND":
            return at <= size
    return False


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
