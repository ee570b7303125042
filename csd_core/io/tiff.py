"""TIFF: a check of its kind, pixels of 16 bits (which Pillow reduces to 8), and writing."""

import struct
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from csd_core.errors import UserError, expect
from csd_core.io.image_metadata import (
    EXIF,
    GPS,
    ORIENTATION,
    PHOTO_TAGS,
    photo_exif,
    resolution,
    text_as_bytes,
)
from csd_core.io.picture import Picture, check_pixels, turned
from csd_core.io.png import opencv_decoded

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_DECODES = (1, 8, 32946)  # none and deflate; tifffile needs another package for the rest


def check_tiff(path: Path, max_pixels: int) -> tuple[bool, bool]:
    """Check size, kind and length of the first page by its tags.

    Returns:
        Whether read_tiff has to read it, and whether there are further pages.

    Raises:
        UserError: it is too large, has channels of another kind, or is a camera's raw file.
        OSError: it is cut off.
    """
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page, has_pages = tiff.pages.first, False
        with path.open("rb") as file:
            is_raw = page.is_dng or page.is_reduced or file.read(12)[8:10] == b"CR"
        got = "a camera's raw file or a thumbnail; develop it, and save it as TIFF or PNG"
        expect(not is_raw, str(path), "a finished picture", got)
        check_pixels(path, (page.imagelength, page.imagewidth), max_pixels)
        bits = int(np.max(page.tags.valueof(258, default=1)))
        whole = bool(np.all(np.equal(page.tags.valueof(339, default=1), 1)))
        got = f"{bits} bits of {'unsigned' if whole else 'signed or real'} numbers; save it with 8 or 16 bits"
        expect(bits in (1, 2, 4, 8, 16) and whole, str(path), "8 or 16 bits per channel", got)
        ends = [start + length for start, length in zip(page.dataoffsets, page.databytecounts, strict=False)]
        if max(ends, default=0) > path.stat().st_size:  # some decoders would fill up with black
            raise OSError("its pixels end early")
        # Pillow takes grey and alpha in separate planes for other channels
        is_ours = bits == 16 or (bits == 8 and page.samplesperpixel == 2 and page.planarconfig == 2)
        with suppress(Exception):  # a damaged second page raises anything
            has_pages = len(tiff.pages) > 1 and not cast(Any, tiff.pages[1]).is_reduced
        return is_ours, has_pages


def read_tiff(path: Path) -> tuple[np.ndarray, bytes | None, tuple[float, float] | None, dict[str, Any]]:
    """Upright RGB or RGBA, uint8 or uint16 (H, W, 3 or 4); EXIF; resolution; the info of images._picture."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page, exif = tiff.pages.first, Image.Exif()
        exif.endian, exif.bigtiff = tiff.byteorder, tiff.is_bigtiff
        with suppress(Exception):  # damaged EXIF raises anything; the picture can be read without
            exif.load_from_fp(cast(Any, tiff.filehandle), page.offset)
        found = {"icc_profile": page.iccprofile, "xmp": page.tags.valueof(700)}
        info: dict[str, Any] = {name: bytes(value) for name, value in found.items() if value}
        info["orientation"] = page.tags.valueof(int(ORIENTATION), default=1)
        return _rgb(path, page), photo_exif(exif), resolution(info, exif), info


def _rgb(path: Path, page: Any) -> np.ndarray:
    name = getattr(page.photometric, "name", page.photometric)
    known = "grey or RGB in a TIFF of 16 bits"
    expect(int(page.photometric) in (0, 1, 2), str(path), known, f"{name}; convert it to RGB")
    samples = _samples(path, page)
    colours = 3 if page.photometric == 2 else 1
    pixels, top = samples[..., :colours], np.iinfo(samples.dtype).max
    if page.photometric == 0:  # white is zero
        pixels = top - pixels
    if colours == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    kind = int(page.extrasamples[0]) if page.extrasamples else 2
    if samples.shape[2] == colours or kind not in (1, 2):  # the rest is no transparency
        return pixels
    alpha = samples[..., colours : colours + 1]
    if kind == 1:  # colours are multiplied by it
        plain = np.rint(pixels * (float(top) / np.maximum(alpha, 1)))
        pixels = np.minimum(plain, top).astype(samples.dtype)
    return np.concatenate([pixels, alpha], axis=2)


def _samples(path: Path, page: Any) -> np.ndarray:
    """Samples (H, W, C), upright."""
    kind = np.uint16 if page.bitspersample == 16 else np.uint8
    if int(page.compression) in _DECODES:
        planes = page.asarray(squeeze=False)[:, 0]  # (P, H, W, C): either planes or channels are 1
        samples = planes.transpose(1, 2, 0, 3).reshape(page.imagelength, page.imagewidth, -1)
        return turned(samples.astype(kind, copy=False), page.tags.valueof(int(ORIENTATION), default=1))
    read = opencv_decoded(path.read_bytes())  # turns a TIFF
    samples = None if read is None else read.reshape(*read.shape[:2], -1)
    expected = (page.imagelength * page.imagewidth * page.samplesperpixel, kind)
    # planes one after the other come out wrong
    name = getattr(page.compression, "name", page.compression)
    if samples is None or (samples.size, samples.dtype) != expected or page.planarconfig != 1:
        got = f"one with {name} that is damaged or that OpenCV cannot decode; save it with deflate"
        raise UserError(f"{path}: expected a whole TIFF, got {got}")
    return samples[..., [2, 1, 0, 3][: samples.shape[2]]] if samples.shape[2] >= 3 else samples


def write_tiff(path: Path, picture: Picture) -> None:
    """Write a picture with all that came with it."""
    import tifffile

    exif = Image.Exif()
    exif.load(picture.exif or b"")
    tags: list[tuple] = [(700, 1, len(picture.xmp), picture.xmp, True)] if picture.xmp else []
    for tag in PHOTO_TAGS:
        if isinstance(value := exif.get(tag), str):
            text = value.encode("latin-1", "replace") + b"\0"  # as Pillow has decoded it
            tags.append((tag, 2, len(text), text, True))
    folders = {folder: entries for folder in (EXIF, GPS) if (entries := exif.get_ifd(folder))}
    tags += [(folder - 1, 4, 1, 0, True) for folder in folders]  # a place: tifffile refuses the tag itself
    tifffile.imwrite(
        path,
        picture.stacked(),
        photometric="rgb",
        extrasamples=None if picture.alpha is None else ["unassalpha"],
        compression="zlib",
        predictor=True,
        byteorder="<",
        metadata=None,
        software=False,
        resolution=picture.dpi,
        resolutionunit="inch" if picture.dpi else None,
        iccprofile=picture.icc_profile,
        extratags=tags,
    )
    for folder, entries in folders.items():
        _append_folder(path, folder, entries)


def _append_folder(path: Path, folder: int, entries: dict[int, Any]) -> None:
    """Put a directory of EXIF at the end of a TIFF, and its offset into the first directory."""
    import tifffile

    with tifffile.TiffFile(path, mode="r+") as tiff:
        head = b"II+\0\x08" + bytes(11) if tiff.is_bigtiff else b"II*\0" + bytes(4)
        directory = ImageFileDirectory_v2(head, group=folder)
        for tag, value in entries.items():
            directory[tag] = text_as_bytes(value)
        end = tiff.filehandle.size
        offset = end + end % 2  # directories start at even offsets
        tiff.filehandle.seek(end)
        tiff.filehandle.write(bytes(offset - end) + directory.tobytes(offset))
        place = tiff.pages.first.tags[folder - 1]
        place.overwrite(offset)
        tiff.filehandle.seek(place.offset)
        tiff.filehandle.write(struct.pack("<H", folder))
