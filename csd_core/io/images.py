"""Image files: PNG, JPEG, WebP and TIFF with their transparency, colour profile, resolution, EXIF and XMP.

A picture is read upright, as RGB of 8 or 16 bits. Pillow reads 8 bits; it would reduce most pictures of 16
bits to 8, so those are read by OpenCV (PNG, PPM, JPEG 2000) and tifffile (TIFF).
"""

import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms
from torch import Tensor

from csd_core.errors import UserError, expect
from csd_core.io.decoders import TEXT_BYTES, pillow_limit, reading
from csd_core.io.files import unreadable, written_beside
from csd_core.io.image_metadata import (
    ORIENTATION,
    exif_with_resolution,
    photo_exif,
    photo_xmp,
    resolution,
    rgb_profile,
)
from csd_core.io.picture import Picture, check_pixels, sides, turned
from csd_core.io.png import colour_chunks, decode_16, means_srgb, opencv_16, with_key, write_png
from csd_core.io.tiff import TIFF_MAGIC, check_tiff, read_tiff, write_tiff

MAX_PIXELS = 200_000_000
NOISE = 20 / 255
"""What encoders add to black and white. JPEG of quality 75 adds more to 0.3 % of the pixels of drawn shapes,
of quality 85 to 0.01 %."""

# All kinds that were tried; Pillow also knows some that run other programs, or hold no photos.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "DIB", "TGA", "PPM", "JPEG2000", "AVIF")
_FORMATS += ("ICO", "SGI", "PCX", "QOI", "PSD")
_ANIMATED = {"GIF", "PNG", "WEBP", "AVIF"}  # pages of a TIFF and extra pictures of a phone are none
_HEIC = (b"ftypheic", b"ftypheix", b"ftypmif1")
_JPEG = (".jpg", ".jpeg")
_SIDE_LIMITS = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}
_MARKER_BYTES = 65_000  # EXIF and XMP have one segment of a JPEG each, of 64 KiB with its header
_PROFILE_BYTES = 255 * 65_000  # of a JPEG, in numbered segments


def quantise(image: Tensor, dtype: Any) -> np.ndarray:
    """Image (3, H, W) in [0, 1] to (H, W, 3) of dtype uint8 or uint16, to the nearest level."""
    top = np.iinfo(dtype).max
    levels = image.detach().float().clamp(0, 1).mul(top).round().permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(levels.astype(dtype))


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """uint8 or uint16 to uint8, to the nearest level."""
    if pixels.dtype == np.uint8:
        return pixels
    return ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def read_picture(path: Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a still image of 8 or 16 bits per channel.

    Of a TIFF with pages and a phone's JPEG with several pictures, the first is read.

    Raises:
        UserError: there is no such file, it is not an image, it is damaged, an animation, has more than
            max_pixels pixels or channels of another kind.
    """
    expect(path.exists(), str(path), "an image file", "no such file; check the path")
    expect(not path.is_dir(), str(path), "an image file", "a folder; name a file in it")
    with decoding(path, "image"), reading():
        with path.open("rb") as file:
            start = file.read(4)
        expect(bool(start), str(path), "an image file", "an empty file; copy or save it again")
        is_ours, has_pages = check_tiff(path, max_pixels) if start in TIFF_MAGIC else (False, False)
        lost = ["its further pages"] if has_pages else []
        if is_ours:
            return _picture(path, *read_tiff(path), lost)
        return _read_with_pillow(path, max_pixels, lost)


def read_mask(path: Path, *, size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read a mask of size (height, width) as float32 (H, W) in [0, 1].

    It is the brightness of the image; of a shape in one colour on a transparent ground, it is the opacity.
    The noise of a JPEG or another lossy file is cleared, with a warning.

    Raises:
        UserError: as read_picture, or the size is another, or the mask is black all over.
    """
    picture = read_picture(path, max_pixels=max_pixels)
    expected, got = f"{sides(size)} as the image", sides(picture.size)
    expect(picture.size == tuple(size), str(path), expected, f"{got}; draw the mask on the image itself")
    mask = mask_levels(picture)
    if picture.is_lossy:
        warnings.warn(noise_note(path), stacklevel=2)
    got = "an empty one; paint it white there"
    expect(bool(mask.max() > 0), str(path), "a mask with white where to edit", got)
    return mask


def mask_levels(picture: Picture) -> np.ndarray:
    """What read_mask reads of a picture, float32 (H, W) in [0, 1]; it may be black all over."""
    levels = picture.alpha if picture.alpha is not None and _is_shape(picture) else luma(picture.pixels)
    mask = levels.astype(np.float32) / np.float32(np.iinfo(picture.pixels.dtype).max)
    return without_noise(mask) if picture.is_lossy else mask


def without_noise(mask: np.ndarray) -> np.ndarray:
    """A mask of a lossy file: levels within NOISE of 0 and 1 become those, what is between is stretched."""
    return np.clip((mask - NOISE) / (1 - 2 * NOISE), 0, 1, dtype=np.float32)


def noise_note(path: Path) -> str:
    """What without_noise does to a mask, for the user."""
    low = round(NOISE * 255)
    return (
        f"{path} is lossy, which adds noise to black and white: levels up to {low} of 255 count as black, "
        f"from {255 - low} as white; a PNG is used as it is"
    )


def luma(pixels: np.ndarray) -> np.ndarray:
    """Brightness (H, W) of RGB (H, W, 3), in its levels; of grey, the grey itself."""
    red, green, blue = (pixels[..., channel].astype(np.float32) for channel in range(3))
    return np.rint(0.299 * red + 0.587 * green + 0.114 * blue)


def check_can_hold(output: Path, picture: Picture) -> list[str]:
    """Check that the format of `output` can hold the picture.

    Returns:
        What it cannot hold that a user should know.

    Raises:
        UserError: unknown suffix, transparency or long metadata in a JPEG, or a side is too long.
    """
    suffix = output.suffix.lower()
    got = f"{output.suffix or 'no suffix'}; rename the output"
    expect(suffix in _WRITERS, str(output), f"one of {' '.join(_WRITERS)}", got)
    limit = _SIDE_LIMITS.get(suffix, max(picture.size))
    got = f"{sides(picture.size)}; write a .png or .tif"
    expect(max(picture.size) <= limit, str(output), f"sides of at most {limit} pixels in {suffix}", got)
    if suffix in _JPEG:
        got = "transparent pixels; write a .png, .webp or .tif"
        expect(picture.is_opaque, str(output), "an opaque picture in a JPEG", got)
        longest = max(len(picture.exif or b""), len(picture.xmp or b""))
        got = f"{longest} bytes; write a .png, .webp or .tif"
        expect(longest <= _MARKER_BYTES, str(output), f"EXIF and XMP of {_MARKER_BYTES} bytes in a JPEG", got)
        profile = len(picture.icc_profile or b"")
        got = f"{profile} bytes; write a .png, .webp or .tif"
        expected = f"a colour profile of {_PROFILE_BYTES} bytes in a JPEG"
        expect(profile <= _PROFILE_BYTES, str(output), expected, got)
    notes = []
    if picture.depth == 16 and suffix in (*_JPEG, ".webp"):
        notes.append(
            f"{output}: {suffix} holds 8 bits per channel, not the 16 of the input; .png or .tif does"
        )
    if suffix != ".png" and not (picture.icc_profile or means_srgb(picture.png_colour)):
        names = " ".join(name.decode() for name, _ in picture.png_colour)
        lacks = f"{suffix} cannot hold the colour coding of the input ({names})"
        notes.append(f"{output}: {lacks}: colours may look different; .png can")
    return notes


def write_picture(path: Path, picture: Picture) -> None:
    """Write PNG, JPEG, WebP or TIFF by the suffix, all or nothing. JPEG and WebP reduce 16 bits to 8.

    Raises:
        UserError: the format cannot hold the picture.
        OSError: the disk does not take the file.
    """
    check_can_hold(path, picture)
    with written_beside(path) as beside:
        _WRITERS[path.suffix.lower()](beside, picture)


@contextmanager
def decoding(path: Path, kind: str) -> Iterator[None]:
    """Turn what decoders raise into one line; kind is what is expected, such as "image".

    Raises:
        UserError: of any error except those of memory.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except PermissionError as error:
        raise unreadable(path, error) from error
    except Image.UnidentifiedImageError as error:
        known = "an image (PNG, JPEG, WebP, TIFF or another that Pillow reads)"
        with path.open("rb") as file:
            got = "HEIC; save it as JPEG" if file.read(12)[4:] in _HEIC else "something else; convert it"
        raise UserError(f"{path}: expected {known}, got {got}") from error
    except Exception as error:  # from OSError to IndexError, by format and damage
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if "MAX_TEXT_CHUNK" in reason or "Too much memory used in text chunks" in reason:  # of Pillow's PNG
            expected = f"profiles and texts of at most {TEXT_BYTES >> 20} MiB in a PNG"
            raise UserError(f"{path}: expected {expected}, got more; save it without metadata") from error
        got = f"one that is damaged or cut off, or something else ({' '.join(reason.split())})"
        raise UserError(f"{path}: expected a whole {kind}, got {got}; copy or save it again") from error


def rgb_pixels(path: Path | str, image: Image.Image) -> np.ndarray:
    """Pixels of a loaded image as (H, W, 3 or 4): uint16 of grey with 16 bits, else uint8.

    path: names it in errors.

    Raises:
        UserError: its numbers have more than 16 bits.
    """
    is_16 = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    got = f"mode {image.mode}; save it with 8 or 16 bits"
    expect(is_16 or image.mode not in ("I", "F"), str(path), "8 or 16 bits per channel", got)
    if is_16:
        grey = np.asarray(image).astype(np.uint16)
        return with_key(np.repeat(grey[..., None], 3, axis=2), image)
    if image.mode == "CMYK":
        image = _from_cmyk(image)
    if image.mode == "La":  # Pillow converts it in two steps
        image = image.convert("LA")
    return np.array(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _read_with_pillow(path: Path, max_pixels: int, lost: list[str]) -> Picture:
    # a file, not a path: Pillow 13 turns a TIFF of which it knows the path wrongly
    with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
        check_pixels(path, (image.height, image.width), max_pixels)
        # not of a TIFF, where a damaged second page would stop it
        frames = getattr(image, "n_frames", 1) if image.format in (*_ANIMATED, "MPO") else 1
        got = f"an animation that has {frames} frames; use csd-edit-video, or save one frame"
        expect(image.format not in _ANIMATED or frames == 1, str(path), "a still image", got)
        stored = image.tile[0].args if image.tile else None
        if image.format == "PNG":
            image.load()  # so does its getexif, where what is raised would be lost
        exif = Image.Exif()
        with suppress(Exception):  # damaged EXIF raises anything; the picture can be read without
            exif = image.getexif()
        kept, dpi = photo_exif(exif), resolution(image.info, exif)
        info = {**image.info, "orientation": exif.get(ORIENTATION, 1)}
        with pillow_limit(max_pixels):  # an icon may hold a picture larger than its header states
            image.load()  # raises if the file is cut off; OpenCV may fill up with black
        # Pillow has turned a TIFF by now, and removed its orientation
        upright = turned(_pixels(path, image, stored, lost), exif.get(ORIENTATION, 1))
        if image.format == "MPO" and frames > 1:
            lost = [*lost, "its further pictures"]
        found = _picture(path, upright, kept, dpi, info, lost)
        colour = colour_chunks(path) if image.format == "PNG" else ()
        return replace(found, png_colour=colour, is_lossy=_is_lossy(path, image))


def _pixels(path: Path, image: Image.Image, stored: Any, lost: list[str]) -> np.ndarray:
    """Pixels (H, W, 3 or 4) of a loaded image, with 16 bits where its file has them.

    stored: the arguments of Pillow's decoder. lost: is told what is left out.
    """
    if image.format == "PNG" and stored in ("RGB;16B", "RGBA;16B", "LA;16B"):
        return decode_16(path, image, alpha=stored != "RGB;16B")
    if image.format == "PPM" and image.mode == "RGB" and isinstance(stored, tuple) and stored[1] > 255:
        levels, top = opencv_16(path.read_bytes() + b"\n").astype(np.uint32), stored[1]
        return ((levels * 65535 + top // 2) // top).astype(np.uint16)
    if image.format == "SGI":
        got = "16; save it as PNG or TIFF"
        expect(path.read_bytes()[3] == 1, str(path), "8 bits per channel in SGI", got)
    if image.format == "JPEG2000" and image.mode != "I;16":  # Pillow takes the brightest of 16 bits for black
        data = path.read_bytes()
        bits = (data[data.index(b"\xff\x4f\xff\x51") + 42] & 127) + 1
        known = bits <= 8 or (bits == 16 and image.mode in ("RGB", "RGBA"))
        expect(known, str(path), "8 or 16 bits per channel", f"{bits} in JPEG 2000; save it as PNG or TIFF")
        if bits > 8:
            return opencv_16(data)
    if image.format == "AVIF" and _is_deep(path.read_bytes()):
        lost.append("more than 8 bits per channel")
    return rgb_pixels(path, image)


def _is_deep(avif: bytes) -> bool:
    """Whether the first coded picture has 10 or 12 bits: high_bitdepth of the AV1 configuration."""
    place = avif.find(b"av1C")
    return place >= 0 and len(avif) > place + 6 and bool(avif[place + 6] & 0x40)


def _is_lossy(path: Path, image: Image.Image) -> bool:
    if image.format == "WEBP":
        data, start = path.read_bytes(), 12
        while data[start : start + 4] not in (b"VP8 ", b"VP8L", b""):
            length = int.from_bytes(data[start + 4 : start + 8], "little")
            start += 8 + length + length % 2
        return data[start : start + 4] == b"VP8 "
    return image.format in ("JPEG", "MPO", "AVIF", "JPEG2000") or image.info.get("compression") == "jpeg"


def _picture(
    path: Path,
    pixels: np.ndarray,
    exif: bytes | None,
    dpi: tuple[float, float] | None,
    info: Mapping[Any, Any],
    lost: Sequence[str],
) -> Picture:
    """info: icc_profile and xmp as in Pillow's, orientation as in EXIF. lost: what it does not have."""
    xmp, parts = photo_xmp(info.get("xmp") or b"")
    icc, left_out = rgb_profile(info.get("icc_profile") or b"")
    return Picture(
        pixels=np.ascontiguousarray(pixels[..., :3]),
        alpha=np.ascontiguousarray(pixels[..., 3]) if pixels.shape[2] == 4 else None,
        icc_profile=icc,
        exif=exif,
        xmp=xmp,
        dpi=dpi,
        orientation=info.get("orientation", 1),
        notes=tuple(f"{path}: the output does not have {part}" for part in (*parts, *left_out, *lost)),
    )


def _from_cmyk(image: Image.Image) -> Image.Image:
    with suppress(ImageCms.PyCMSError, OSError):  # a damaged profile; convert without it
        if icc := image.info.get("icc_profile"):
            target = ImageCms.createProfile("sRGB")
            found = ImageCms.profileToProfile(image, io.BytesIO(icc), target, outputMode="RGB")
            return found or image.convert("RGB")
    return image.convert("RGB")


def _is_shape(picture: Picture) -> bool:
    """One colour on a transparent ground, whatever colour the transparent pixels have."""
    if picture.alpha is None or picture.is_opaque:
        return False
    seen = picture.pixels[picture.alpha > 0]
    return bool((seen == seen[:1]).all())


def _metadata(picture: Picture) -> dict[str, Any]:
    """As arguments of Pillow's save."""
    found = {"icc_profile": picture.icc_profile, "exif": picture.exif, "xmp": picture.xmp, "dpi": picture.dpi}
    return {name: value for name, value in found.items() if value}


def _write_jpeg(path: Path, picture: Picture) -> None:
    image = Image.fromarray(eight_bits(picture.pixels))
    image.save(path, "JPEG", quality=95, subsampling=0, **_metadata(picture))


def _write_webp(path: Path, picture: Picture) -> None:
    # exact keeps the colours under transparent pixels
    image = Image.fromarray(eight_bits(picture.stacked()))
    picture = replace(picture, exif=exif_with_resolution(picture.exif, picture.dpi))
    image.save(path, "WEBP", lossless=True, exact=True, **_metadata(picture))


_WRITERS: dict[str, Callable[[Path, Picture], None]] = {
    ".png": write_png,
    ".jpg": _write_jpeg,
    ".jpeg": _write_jpeg,
    ".webp": _write_webp,
    ".tif": write_tiff,
    ".tiff": write_tiff,
}
