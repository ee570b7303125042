"""PNG: its chunks, pixels of 16 bits (which Pillow reduces to 8), and writing."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import putchunk

from csd_core.io.picture import Picture

_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_COLOUR = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI")
_SRGB_GAMMA, _GAMMA_APART = 45455, 1000
_SRGB_PRIMARIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)  # in 1/100000
_PRIMARIES_APART = 200
_SRGB_CODE = (1, 13)  # primaries and transfer function, as in ITU-T H.273
_METRE = 39.3701  # inches


def colour_chunks(path: Path) -> tuple[tuple[bytes, bytes], ...]:
    """The chunks of a PNG that say what its colours mean, except a profile: name and data."""
    with path.open("rb") as file:
        data = file.read(1 << 20)  # they stand before the pixels
    found = []
    for name, start, end in _chunks(data):
        if name == b"IDAT":
            break
        if name in _COLOUR and end <= len(data):
            found.append((name, data[start + 8 : end - 4]))
    return tuple(found)


def means_srgb(chunks: tuple[tuple[bytes, bytes], ...]) -> bool:
    """Whether colours mean the same without these chunks, as far as eyes can tell."""
    found = dict(chunks)
    if code := found.get(b"cICP"):
        return tuple(code[:2]) == _SRGB_CODE
    if b"sRGB" in found:
        return True
    gamma, primaries = found.get(b"gAMA", b""), found.get(b"cHRM", b"")
    if len(gamma) == 4 and abs(struct.unpack(">I", gamma)[0] - _SRGB_GAMMA) > _GAMMA_APART:
        return False
    if len(primaries) != 32:
        return True
    pairs = zip(struct.unpack(">8I", primaries), _SRGB_PRIMARIES, strict=True)
    return all(abs(value - srgb) <= _PRIMARIES_APART for value, srgb in pairs)


def decode_16(path: Path, image: Image.Image, *, alpha: bool) -> np.ndarray:
    """Pixels (H, W, 3 or 4) of a PNG that Pillow has checked, uint16."""
    data = path.read_bytes()
    # libpng has limits of its own on profiles and texts
    kept = b"".join(data[start:end] for name, start, end in _chunks(data) if name in _PIXELS)
    pixels = opencv_16(data[:8] + kept)
    return pixels if alpha else with_key(pixels[..., :3], image)


def opencv_16(data: bytes) -> np.ndarray:
    """RGB or RGBA uint16 (H, W, 3 or 4) of an encoded image of 16 bits.

    Raises:
        OSError: it is none.
    """
    pixels = opencv_decoded(data)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise OSError("OpenCV cannot decode it")
    return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


def opencv_decoded(data: bytes) -> np.ndarray | None:
    """An encoded image in OpenCV's order of channels; None where it cannot be decoded."""
    import cv2

    level = cv2.setLogLevel(0)  # it prints what is damaged
    try:
        # imdecode, since imread does not open every name; unchanged also means: not turned
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    finally:
        cv2.setLogLevel(level)


def with_key(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """RGB uint16 (H, W, 3); RGBA if one colour of the PNG is transparent."""
    if (key := image.info.get("transparency")) is None:
        return pixels
    alpha = np.where((pixels == np.asarray(key, np.uint16)).all(axis=2), 0, 65535).astype(np.uint16)
    return np.dstack([pixels, alpha])


def write_png(path: Path, picture: Picture) -> None:
    """Write a picture with all that came with it."""
    import cv2

    order = [2, 1, 0] if picture.alpha is None else [2, 1, 0, 3]
    done, encoded = cv2.imencode(".png", picture.stacked()[..., order], [cv2.IMWRITE_PNG_COMPRESSION, 6])
    if not done:
        raise OSError(f"{path}: OpenCV cannot encode the PNG")
    head = 8 + 25  # signature and IHDR; what says what colours mean has to come right after
    with path.open("wb") as file:
        file.write(encoded[:head].tobytes())
        for name, data in picture.png_colour:
            putchunk(file, name, data)
        if picture.icc_profile:
            putchunk(file, b"iCCP", b"ICC Profile\0\0", zlib.compress(picture.icc_profile))
        if picture.dpi:
            putchunk(file, b"pHYs", struct.pack(">IIB", *(round(value * _METRE) for value in picture.dpi), 1))
        if picture.exif:
            putchunk(file, b"eXIf", picture.exif.removeprefix(b"Exif\0\0"))
        if picture.xmp:
            putchunk(file, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0", picture.xmp)
        file.write(encoded[head:].tobytes())


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each chunk."""
    start = 8
    while start + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, start)
        yield name, start, start + 12 + length
        start += 12 + length
