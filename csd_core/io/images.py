"""Image files: PNG, JPEG, WebP and TIFF with their transparency, colour profile, EXIF and XMP.

A picture is read upright, as RGB of 8 or 16 bits. Pillow reads 8 bits; it would reduce most pictures of 16
bits to 8, so those are read by OpenCV (PNG) and tifffile (TIFF).
"""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import putchunk
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from torch import Tensor

from csd_core.errors import UserError, expect
from csd_core.io.files import unreadable, written_beside

MAX_PIXELS = 200_000_000

_ANIMATED = {"GIF", "PNG", "WEBP", "AVIF", "FLI"}  # pages of a TIFF and extra pictures of a phone are none
_SIDE_LIMITS = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}
_MARKER_BYTES = 65_000  # EXIF and XMP have one segment of a JPEG each, of 64 KiB with its header
_ORIENTATION, _EXIF, _GPS = ExifTags.Base.Orientation, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width
# Tags of the first directory that describe the photo: description, camera, software, dates, artist, rating,
# titles. The others describe the file, which changes.
_PHOTO_TAGS = (270, 271, 272, 305, 306, 315, 316, 18246, 33432, 40091, 40092, 40093, 40094, 40095)
_NOT_COPIED = (ExifTags.IFD.MakerNote, ExifTags.IFD.Interop)  # hold offsets that do not survive a rewrite
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFFFILE_DECODES = (1, 8, 32946)  # none and deflate; tifffile needs another package for the rest
_XMP_ORIENTATION = re.compile(rb'(tiff:Orientation(?:\s*=\s*["\']|>))([1-8])')


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright picture and its metadata.

    Attributes:
        pixels: RGB, uint8 or uint16 (H, W, 3).
        alpha: (H, W), same type as the pixels; None if the file has no transparency.
        icc_profile: colour profile of the RGB pixels.
        exif: starts with "Exif" and two zeros; without orientation and thumbnail.
        xmp: an XML packet; describes the projection of a 360-degree picture.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None

    def __post_init__(self) -> None:
        if self.pixels.dtype not in (np.uint8, np.uint16) or self.pixels.shape[2:] != (3,):
            raise ValueError(
                f"expected uint8 or uint16 (H, W, 3), got {self.pixels.dtype} {self.pixels.shape}"
            )
        if self.alpha is not None and (self.alpha.dtype, self.alpha.shape) != (self.pixels.dtype, self.size):
            raise ValueError(f"expected alpha as the pixels, got {self.alpha.dtype} {self.alpha.shape}")

    @property
    def height(self) -> int:
        """Rows."""
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        """Columns."""
        return self.pixels.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def depth(self) -> int:
        """Bits of a channel, 8 or 16."""
        return self.pixels.dtype.itemsize * 8

    @property
    def is_opaque(self) -> bool:
        """No pixel is transparent, not even in part."""
        return self.alpha is None or bool((self.alpha == np.iinfo(self.alpha.dtype).max).all())

    @property
    def is_full_sphere(self) -> bool:
        """A whole 360-degree panorama: equirectangular by its XMP, and twice as wide as high."""
        whole, cropped = self._gpano("FullPanoWidthPixels"), self._gpano("CroppedAreaImageWidthPixels")
        is_part = None not in (whole, cropped) and whole != cropped
        is_sphere = self._gpano("ProjectionType") == "equirectangular"
        return is_sphere and not is_part and self.width == 2 * self.height

    def to_tensor(self) -> Tensor:
        """The pixels as float32 (3, H, W) in [0, 1]."""
        scaled = self.pixels.astype(np.float32) / np.float32(np.iinfo(self.pixels.dtype).max)
        return torch.from_numpy(scaled).permute(2, 0, 1).contiguous()

    def stacked(self) -> np.ndarray:
        """RGB, or RGBA if there is alpha: (H, W, 3 or 4)."""
        return self.pixels if self.alpha is None else np.dstack([self.pixels, self.alpha])

    def with_pixels(self, pixels: np.ndarray) -> "Picture":
        """The same metadata with other pixels.

        Raises:
            ValueError: not uint8 or uint16 (H, W, 3), or not of the size and type of the alpha.
        """
        return replace(self, pixels=pixels)

    def _gpano(self, name: str) -> str | None:
        """A property of the panorama, written as an attribute or as an element."""
        pattern = rf"GPano:{name}(?:\s*=\s*[\"']|\s*>)\s*([^\s\"'<]+)"
        found = re.search(pattern.encode(), self.xmp or b"")
        return found[1].decode(errors="replace").lower() if found else None


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
    with decoding(path, "image"), pillow_limit(None), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged metadata warns
        with path.open("rb") as file:
            start = file.read(4)
        expect(bool(start), str(path), "an image file", "an empty file; copy or save it again")
        is_tiff_16 = start in TIFF_MAGIC and _check_tiff(path, max_pixels) == 16
        return _read_tiff_16(path) if is_tiff_16 else _read_with_pillow(path, max_pixels)


def read_mask(
    path: Path, *, size: tuple[int, int], max_pixels: int = MAX_PIXELS, may_be_empty: bool = False
) -> np.ndarray:
    """Read a mask of size (height, width) as float32 (H, W) in [0, 1].

    It is the brightness of the image; of a shape in one colour on a transparent ground, it is the opacity.

    Raises:
        UserError: as read_picture, or the size is another, or the mask is black all over (unless that may be).
    """
    picture = read_picture(path, max_pixels=max_pixels)
    expected, got = f"{sides(size)} as the image", sides(picture.size)
    expect(picture.size == tuple(size), str(path), expected, f"{got}; draw the mask on the image itself")
    top = np.iinfo(picture.pixels.dtype).max
    levels = picture.alpha if picture.alpha is not None and _is_shape(picture) else luma(picture.pixels)
    mask = levels.astype(np.float32) / np.float32(top)
    got = "an empty one; paint it white there"
    expect(may_be_empty or bool(mask.max() > 0), str(path), "a mask with white where to edit", got)
    return mask


def luma(pixels: np.ndarray) -> np.ndarray:
    """Brightness (H, W) of RGB (H, W, 3), in its levels; of grey, the grey itself."""
    red, green, blue = (pixels[..., channel].astype(np.float32) for channel in range(3))
    return np.rint(0.299 * red + 0.587 * green + 0.114 * blue)


def check_can_hold(output: Path, picture: Picture) -> None:
    """Check that the format of `output` can hold the picture.

    Raises:
        UserError: unknown suffix, transparency or long metadata in a JPEG, or a side is too long.
    """
    suffix = output.suffix.lower()
    got = f"{output.suffix or 'no suffix'}; rename the output"
    expect(suffix in _WRITERS, str(output), f"one of {' '.join(_WRITERS)}", got)
    limit = _SIDE_LIMITS.get(suffix, max(picture.size))
    got = f"{sides(picture.size)}; write a .png or .tif"
    expect(max(picture.size) <= limit, str(output), f"sides of at most {limit} pixels in {suffix}", got)
    if suffix in (".jpg", ".jpeg"):
        got = "transparent pixels; write a .png, .webp or .tif"
        expect(picture.is_opaque, str(output), "an opaque picture in a JPEG", got)
        longest = max(len(picture.exif or b""), len(picture.xmp or b""))
        got = f"{longest} bytes; write a .png, .webp or .tif"
        expect(longest <= _MARKER_BYTES, str(output), f"EXIF and XMP of {_MARKER_BYTES} bytes in a JPEG", got)


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
        raise UserError(f"{path}: expected {known}, got something else; convert it") from error
    except Exception as error:  # from OSError to IndexError, by format and damage
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        got = f"one that is damaged or cut off, or something else ({' '.join(reason.split())})"
        raise UserError(f"{path}: expected a whole {kind}, got {got}; copy or save it again") from error


@contextmanager
def pillow_limit(pixels: int | None) -> Iterator[None]:
    """Replace Pillow's own limit of pixels."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = pixels
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def check_pixels(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    """Check that height times width is at most max_pixels.

    Raises:
        UserError: it is more.
    """
    pixels = size[0] * size[1]
    got = f"{sides(size)}, {pixels} pixels, more than the limit of {max_pixels}; raise it with --max-pixels"
    expect(pixels <= max_pixels, str(path), "pictures of a size to edit", got)


def sides(size: tuple[int, int]) -> str:
    """Height and width as users write them: 48x32 is 48 wide."""
    return f"{size[1]}x{size[0]}"


def rgb_pixels(path: Path, image: Image.Image) -> np.ndarray:
    """Pixels of a loaded image as (H, W, 3 or 4): uint16 of grey with 16 bits, else uint8.

    Raises:
        UserError: its numbers have more than 16 bits.
    """
    got = f"mode {image.mode}; save it with 8 or 16 bits"
    expect(image.mode not in ("I", "F"), str(path), "8 or 16 bits per channel", got)
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint16)
        return _with_key(np.repeat(grey[..., None], 3, axis=2), image)
    if image.mode == "CMYK":
        image = _from_cmyk(image)
    return np.array(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _read_with_pillow(path: Path, max_pixels: int) -> Picture:
    # a file, not a path: Pillow 13 turns a TIFF of which it knows the path wrongly
    with path.open("rb") as file, Image.open(file) as image:
        check_pixels(path, (image.height, image.width), max_pixels)
        frames = getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1
        got = f"an animation that has {frames} frames; use csd-edit-video, or save one frame"
        expect(frames == 1, str(path), "a still image", got)
        stored = str(image.tile[0].args) if image.format == "PNG" and image.tile else ""
        exif = Image.Exif()
        with suppress(Exception):  # damaged EXIF raises anything; the picture can be read without
            exif = image.getexif()
        kept = _photo_exif(exif)
        with pillow_limit(max_pixels):  # an icon may hold a picture larger than its header states
            image.load()  # raises if the file is cut off; OpenCV may fill up with black
        if stored in ("RGB;16B", "RGBA;16B", "LA;16B"):
            pixels = _png_16(path, image, alpha=stored != "RGB;16B")
        else:
            pixels = rgb_pixels(path, image)
        xmp = image.info.get("xmp")
        xmp = xmp.encode() if isinstance(xmp, str) else xmp
        # Pillow has turned a TIFF by now, and removed its orientation
        upright = turned(pixels, exif.get(_ORIENTATION, 1))
        return _picture(upright, image.info.get("icc_profile"), kept, xmp)


def _picture(pixels: np.ndarray, icc: bytes | None, exif: bytes | None, xmp: bytes | None) -> Picture:
    return Picture(
        pixels=np.ascontiguousarray(pixels[..., :3]),
        alpha=np.ascontiguousarray(pixels[..., 3]) if pixels.shape[2] == 4 else None,
        icc_profile=icc if icc and icc[16:20] == b"RGB " else None,  # one of grey or CMYK does not fit
        exif=exif,
        xmp=_XMP_ORIENTATION.sub(rb"\g<1>1", xmp) if xmp else None,
    )


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels (H, W, C) made upright; orientation as in EXIF, 1 is upright."""
    if orientation in _SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def _photo_exif(exif: Image.Exif) -> bytes | None:
    """The EXIF that describes the photo, or None. Its thumbnail would show the picture before an edit."""
    kept = Image.Exif()
    try:
        kept.update({tag: _text_as_bytes(exif[tag]) for tag in _PHOTO_TAGS if tag in exif})
        folders = {folder: exif.get_ifd(folder) for folder in (_EXIF, _GPS)}
        if exif.get(_ORIENTATION) in _SIDEWAYS:
            height, width = ExifTags.Base.ExifImageHeight, ExifTags.Base.ExifImageWidth
            swapped = {height: folders[_EXIF].get(width), width: folders[_EXIF].get(height)}
            folders[_EXIF] |= {tag: value for tag, value in swapped.items() if value is not None}
        for folder, found in folders.items():
            entries = {tag: _text_as_bytes(value) for tag, value in found.items() if tag not in _NOT_COPIED}
            if entries:
                kept[folder] = entries
        return kept.tobytes() if len(kept) else None
    except Exception:  # damaged EXIF raises anything; the picture can be read without
        return None


def _text_as_bytes(value: Any) -> Any:
    """Pillow reads text as Latin-1 and writes it as ASCII: letters beyond that are kept as bytes."""
    return value.encode("latin-1", "replace") if isinstance(value, str) and not value.isascii() else value


def _from_cmyk(image: Image.Image) -> Image.Image:
    with suppress(ImageCms.PyCMSError, OSError):  # a damaged profile; convert without it
        if icc := image.info.get("icc_profile"):
            target = ImageCms.createProfile("sRGB")
            found = ImageCms.profileToProfile(image, io.BytesIO(icc), target, outputMode="RGB")
            return found or image.convert("RGB")
    return image.convert("RGB")


def _png_16(path: Path, image: Image.Image, *, alpha: bool) -> np.ndarray:
    """Pixels (H, W, 3 or 4) of a PNG that Pillow has checked."""
    import cv2

    # imdecode, since imread does not open every name; unchanged also means: not turned
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise OSError("OpenCV cannot decode it")
    return pixels[..., [2, 1, 0, 3]] if alpha else _with_key(pixels[..., 2::-1], image)


def _with_key(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """RGB uint16 (H, W, 3); RGBA if one colour of the PNG is transparent."""
    if (key := image.info.get("transparency")) is None:
        return pixels
    alpha = np.where((pixels == np.asarray(key, np.uint16)).all(axis=2), 0, 65535).astype(np.uint16)
    return np.dstack([pixels, alpha])


def _check_tiff(path: Path, max_pixels: int) -> int:
    """Check size, kind and length of the first page by its tags; bits per channel."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        check_pixels(path, (page.imagelength, page.imagewidth), max_pixels)
        bits = int(np.max(page.tags.valueof(258, default=1)))
        whole = bool(np.all(np.equal(page.tags.valueof(339, default=1), 1)))
        got = f"{bits} bits of {'unsigned' if whole else 'signed or real'} numbers; save it with 8 or 16 bits"
        expect(bits in (1, 2, 4, 8, 16) and whole, str(path), "8 or 16 bits per channel", got)
        ends = [start + length for start, length in zip(page.dataoffsets, page.databytecounts, strict=False)]
        if max(ends, default=0) > path.stat().st_size:  # some decoders would fill up with black
            raise OSError("its pixels end early")
        return bits


def _read_tiff_16(path: Path) -> Picture:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page, exif = tiff.pages.first, Image.Exif()
        exif.endian, exif.bigtiff = tiff.byteorder, tiff.is_bigtiff
        with suppress(Exception):  # damaged EXIF raises anything; the picture can be read without
            exif.load_from_fp(cast(Any, tiff.filehandle), page.offset)
        xmp = page.tags.valueof(700)
        pixels = _tiff_16_rgb(path, page)
        return _picture(pixels, page.iccprofile, _photo_exif(exif), bytes(xmp) if xmp else None)


def _tiff_16_rgb(path: Path, page: Any) -> np.ndarray:
    """Upright pixels of a page with 16 bits as RGB or RGBA, uint16 (H, W, 3 or 4)."""
    got = f"{page.photometric!r}; convert it"
    expect(int(page.photometric) in (0, 1, 2), str(path), "grey or RGB in a TIFF of 16 bits", got)
    samples = _tiff_16_samples(path, page)
    colours = 3 if page.photometric == 2 else 1
    pixels = samples[..., :colours]
    if page.photometric == 0:  # white is zero
        pixels = 65535 - pixels
    if colours == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    kind = int(page.extrasamples[0]) if page.extrasamples else 2
    if samples.shape[2] == colours or kind not in (1, 2):  # the rest is no transparency
        return pixels
    alpha = samples[..., colours : colours + 1]
    if kind == 1:  # colours are multiplied by it
        plain = np.rint(pixels * (65535.0 / np.maximum(alpha, 1)))
        pixels = np.minimum(plain, 65535).astype(np.uint16)
    return np.concatenate([pixels, alpha], axis=2)


def _tiff_16_samples(path: Path, page: Any) -> np.ndarray:
    """Samples (H, W, C), upright."""
    if int(page.compression) in _TIFFFILE_DECODES:
        planes = page.asarray(squeeze=False)[:, 0]  # (P, H, W, C): either planes or channels are 1
        samples = planes.transpose(1, 2, 0, 3).reshape(page.imagelength, page.imagewidth, -1)
        return turned(samples.astype(np.uint16, copy=False), page.tags.valueof(int(_ORIENTATION), default=1))
    import cv2

    read = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)  # turns a TIFF
    samples = None if read is None else read.reshape(*read.shape[:2], -1)
    expected = (page.imagelength * page.imagewidth * page.samplesperpixel, np.uint16)
    # planes one after the other come out wrong
    if samples is None or (samples.size, samples.dtype) != expected or page.planarconfig != 1:
        raise OSError(f"cannot decode {page.compression!r}; save it with deflate or LZW")
    return samples[..., [2, 1, 0, 3][: samples.shape[2]]] if samples.shape[2] >= 3 else samples


def _is_shape(picture: Picture) -> bool:
    """One colour on a transparent ground, whatever colour the transparent pixels have."""
    if picture.alpha is None or picture.is_opaque:
        return False
    seen = picture.pixels[picture.alpha > 0]
    return bool((seen == seen[:1]).all())


def _metadata(picture: Picture) -> dict[str, bytes]:
    """As arguments of Pillow's save."""
    found = {"icc_profile": picture.icc_profile, "exif": picture.exif, "xmp": picture.xmp}
    return {name: value for name, value in found.items() if value}


def _write_jpeg(path: Path, picture: Picture) -> None:
    image = Image.fromarray(eight_bits(picture.pixels))
    image.save(path, "JPEG", quality=95, subsampling=0, **_metadata(picture))


def _write_webp(path: Path, picture: Picture) -> None:
    # exact keeps the colours under transparent pixels
    image = Image.fromarray(eight_bits(picture.stacked()))
    image.save(path, "WEBP", lossless=True, exact=True, **_metadata(picture))


def _write_png(path: Path, picture: Picture) -> None:
    import cv2

    order = [2, 1, 0] if picture.alpha is None else [2, 1, 0, 3]
    done, encoded = cv2.imencode(".png", picture.stacked()[..., order], [cv2.IMWRITE_PNG_COMPRESSION, 6])
    if not done:
        raise OSError(f"{path}: OpenCV cannot encode the PNG")
    head = 8 + 25  # signature and IHDR; the profile has to come right after
    with path.open("wb") as file:
        file.write(encoded[:head].tobytes())
        if picture.icc_profile:
            putchunk(file, b"iCCP", b"ICC Profile\0\0", zlib.compress(picture.icc_profile))
        if picture.exif:
            putchunk(file, b"eXIf", picture.exif.removeprefix(b"Exif\0\0"))
        if picture.xmp:
            putchunk(file, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0", picture.xmp)
        file.write(encoded[head:].tobytes())


def _write_tiff(path: Path, picture: Picture) -> None:
    import tifffile

    exif = Image.Exif()
    exif.load(picture.exif or b"")
    tags: list[tuple] = [(700, 1, len(picture.xmp), picture.xmp, True)] if picture.xmp else []
    for tag in _PHOTO_TAGS:
        if isinstance(value := exif.get(tag), str):
            text = value.encode("latin-1", "replace") + b"\0"  # as Pillow has decoded it
            tags.append((tag, 2, len(text), text, True))
    folders = {folder: entries for folder in (_EXIF, _GPS) if (entries := exif.get_ifd(folder))}
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
            directory[tag] = _text_as_bytes(value)
        end = tiff.filehandle.size
        offset = end + end % 2  # directories start at even offsets
        tiff.filehandle.seek(end)
        tiff.filehandle.write(bytes(offset - end) + directory.tobytes(offset))
        place = tiff.pages.first.tags[folder - 1]
        place.overwrite(offset)
        tiff.filehandle.seek(place.offset)
        tiff.filehandle.write(struct.pack("<H", folder))


_WRITERS: dict[str, Callable[[Path, Picture], None]] = {
    ".png": _write_png,
    ".jpg": _write_jpeg,
    ".jpeg": _write_jpeg,
    ".webp": _write_webp,
    ".tif": _write_tiff,
    ".tiff": _write_tiff,
}
