import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms, ImageOps

from csd_core.errors import UserError
from csd_core.io.images import Picture, check_can_hold, quantise, read_mask, read_picture, write_picture

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY = SRGB[:16] + b"GRAY" + SRGB[20:]
GPANO = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d GPano:ProjectionType="equirectangular"/></x:xmpmeta>'
LOSSLESS = (".png", ".webp", ".tif", ".tiff")
SUFFIXES = (*LOSSLESS, ".jpg")
SIXTEEN = (".png", ".tif")


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> np.ndarray:
    """Every level may occur."""
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def smooth(height: int = 24, width: int = 32) -> np.ndarray:
    """Colours that a JPEG keeps, uint8 (height, width, 3)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 7, y * 9, 128 + 0 * x], axis=2).astype(np.uint8)


def photo_exif(orientation: int | None = None) -> Image.Exif:
    """Camera, size of the stored pixels, place."""
    exif = Image.Exif()
    exif[271], exif[272], exif[306] = "Maker", "Modèl".encode("latin-1"), "2020:01:02 03:04:05"
    exif[33432] = "Someone"
    exif.get_ifd(34665).update({36867: "2020:01:01 00:00:00", 33434: 0.01, 37386: 35.0, 40962: 32, 40963: 24})
    exif.get_ifd(34853).update({1: "N", 2: (1.0, 2.0, 3.0)})
    if orientation is not None:
        exif[274] = orientation
    return exif


def picture(dtype: Any = np.uint8, *, alpha: bool = False) -> Picture:
    """Noise with everything that can come with it."""
    clear = noise(24, 32, dtype=dtype, seed=1) if alpha else None
    return Picture(noise(24, 32, 3, dtype=dtype), clear, SRGB, photo_exif().tobytes(), GPANO)


def png(
    width: int, height: int, kind: int, depth: int, rows: np.ndarray, *chunks: tuple[bytes, bytes]
) -> bytes:
    """A PNG of colour type kind; rows are its bytes (height, bytes of a row)."""
    data = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", data), (b"IEND", b"")]
    body = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def refused(path: Path, **settings: Any) -> str:
    """The one-line message of read_picture."""
    with pytest.raises(UserError) as error:
        read_picture(path, **settings)
    assert str(error.value).startswith(f"{path}: expected ")
    assert "\n" not in str(error.value)
    return str(error.value)


# Reading


def test_modes_of_8_bits(tmp_path: Path) -> None:
    rgba = Image.fromarray(noise(9, 7, 4))
    path = tmp_path / "a.png"
    for mode in ("1", "L", "P", "RGB", "LA", "RGBA"):
        image = rgba.convert("RGB").convert(mode) if mode not in ("LA", "RGBA") else rgba.convert(mode)
        image.save(path)
        read = read_picture(path)
        np.testing.assert_array_equal(read.pixels, np.array(image.convert("RGB")), err_msg=mode)
        assert read.pixels.dtype == np.uint8
        assert read.depth == 8
        assert (read.height, read.width) == (9, 7)
        assert (read.alpha is not None) == (mode in ("LA", "RGBA"))
        if read.alpha is not None:
            np.testing.assert_array_equal(read.alpha, np.array(image.getchannel("A")))


def test_a_transparent_colour_of_16_bits(tmp_path: Path) -> None:
    grey = noise(5, 4, dtype=np.uint16)
    grey[2, 3], grey[0, 0] = 0x1234, 0x1235
    key = struct.pack(">H", 0x1234)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    for kind, samples in ((0, grey), (2, rgb)):
        rows = samples.astype(">u2").reshape(5, -1).view(np.uint8)
        chunk = (b"tRNS", key * (1 if kind == 0 else 3))
        (tmp_path / "a.png").write_bytes(png(4, 5, kind, 16, rows, chunk))
        read = read_picture(tmp_path / "a.png")
        np.testing.assert_array_equal(read.pixels, rgb)
        assert read.alpha is not None
        assert np.argwhere(read.alpha == 0).tolist() == [[2, 3]]
        assert read.alpha.max() == 65535


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_of_16_bits(tmp_path: Path, kind: int, channels: int) -> None:
    samples = noise(5, 4, channels, dtype=np.uint16)
    path = tmp_path / "ünicode.png"
    path.write_bytes(png(4, 5, kind, 16, samples.astype(">u2").reshape(5, -1).view(np.uint8)))
    read = read_picture(path)
    colours = samples[..., :3] if channels >= 3 else np.repeat(samples[..., :1], 3, axis=2)
    assert read.depth == 16
    np.testing.assert_array_equal(read.pixels, colours)
    assert (read.alpha is None) == (channels in (1, 3))
    if read.alpha is not None:
        np.testing.assert_array_equal(read.alpha, samples[..., -1])


@pytest.mark.parametrize(("order", "compression"), [("<", None), (">", "zlib")])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_tiff_of_16_bits(
    tmp_path: Path, order: Any, compression: str | None, channels: int, planes: Any
) -> None:
    samples = noise(40, 30, channels, dtype=np.uint16)
    stored = samples.transpose(2, 0, 1) if planes == "separate" else samples
    tifffile.imwrite(
        tmp_path / "a.tif",
        stored if channels > 1 else samples[..., 0],
        byteorder=order,
        photometric="rgb" if channels >= 3 else "minisblack",
        planarconfig=planes if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression=compression,
        rowsperstrip=8,
    )
    read = read_picture(tmp_path / "a.tif")
    colours = samples[..., :3] if channels >= 3 else np.repeat(samples[..., :1], 3, axis=2)
    np.testing.assert_array_equal(read.pixels, colours)
    assert (read.alpha is None) == (channels in (1, 3))
    if read.alpha is not None:
        np.testing.assert_array_equal(read.alpha, samples[..., -1])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiff_of_16_bits_with_lzw(tmp_path: Path, channels: int) -> None:
    samples = noise(40, 30, channels, dtype=np.uint16)
    stored = samples if channels == 1 else samples[..., [2, 1, 0, 3][:channels]]
    cv2.imwrite(str(tmp_path / "a.tif"), stored, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.pages.first.compression == 5
    read = read_picture(tmp_path / "a.tif")
    stacked = read.pixels if read.alpha is None else np.dstack([read.pixels, read.alpha])
    np.testing.assert_array_equal(stacked, np.repeat(samples, 3, axis=2) if channels == 1 else samples)


def test_packed_planes_are_refused(tmp_path: Path) -> None:
    path, samples = tmp_path / "a.tif", noise(3, 4, 5, dtype=np.uint16)
    tifffile.imwrite(path, samples, photometric="rgb", planarconfig="separate", byteorder="<")
    strips = [bytes([39]) + plane.tobytes() for plane in samples]  # PackBits: 40 bytes as they are
    end = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"".join(strips))
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tags = tiff.pages.first.tags
        tags[259].overwrite(32773)
        tags[273].overwrite([end, end + 41, end + 82])
        tags[279].overwrite([41, 41, 41])
    assert "cannot decode" in refused(path)  # OpenCV would read something else


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_in_some_tiffs(tmp_path: Path, dtype: Any) -> None:
    samples = noise(9, 7, dtype=dtype)
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="miniswhite")
    expected = np.iinfo(dtype).max - samples
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").pixels[..., 1], expected)


def test_colours_multiplied_by_the_alpha_are_divided(tmp_path: Path) -> None:
    samples = np.array([[[100, 200, 300, 400], [0, 0, 0, 0], [9, 9, 9, 65535]]], np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", extrasamples=["assocalpha"])
    read = read_picture(tmp_path / "a.tif")
    assert read.pixels[0].tolist() == [[16384, 32768, 49151], [0, 0, 0], [9, 9, 9]]
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", extrasamples=["unspecified"])
    assert read_picture(tmp_path / "a.tif").alpha is None


def test_the_first_page_is_read(tmp_path: Path) -> None:
    for dtype in (np.uint8, np.uint16):
        pages = noise(2, 9, 7, 3, dtype=dtype)
        tifffile.imwrite(tmp_path / "a.tif", pages, photometric="rgb")
        np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").pixels, pages[0])


def test_the_first_picture_of_a_phone_is_read(tmp_path: Path) -> None:
    first, second = Image.fromarray(smooth()), Image.new("RGB", (32, 24))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second], quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "MPO"
    assert np.abs(read_picture(tmp_path / "a.jpg").pixels.astype(int) - smooth()).mean() < 3


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(smooth()).convert("CMYK")
    for suffix in (".jpg", ".tif"):
        image.save(tmp_path / f"a{suffix}")
        read = read_picture(tmp_path / f"a{suffix}")
        assert np.abs(read.pixels.astype(int) - smooth()).mean() < 4
        # not a profile that can be used: the picture is read without
        image.save(tmp_path / f"a{suffix}", icc_profile=SRGB[:16] + b"CMYK" + SRGB[20:])
        again = read_picture(tmp_path / f"a{suffix}")
        assert again.icc_profile is None
        np.testing.assert_array_equal(again.pixels, read.pixels)


def test_a_cmyk_profile_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(image: Image.Image, profile: Any, target: Any, outputMode: str) -> Image.Image:
        assert (image.mode, outputMode) == ("CMYK", "RGB")
        return Image.new("RGB", image.size, (1, 2, 3))

    # no profile of CMYK comes with Pillow
    monkeypatch.setattr(ImageCms, "profileToProfile", convert)
    Image.new("CMYK", (4, 3)).save(tmp_path / "a.jpg", icc_profile=SRGB)
    assert read_picture(tmp_path / "a.jpg").pixels[0, 0].tolist() == [1, 2, 3]


def test_other_formats_are_read(tmp_path: Path) -> None:
    for mode, suffix in (("RGB", ".bmp"), ("RGB", ".ppm"), ("RGB", ".tga"), ("YCbCr", ".tif")):
        Image.fromarray(smooth()).convert(mode).save(tmp_path / f"a{suffix}")
        assert np.abs(read_picture(tmp_path / f"a{suffix}").pixels.astype(int) - smooth()).mean() < 3


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_grey_profile_is_dropped(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(noise(9, 7)).save(tmp_path / f"a{suffix}", icc_profile=GREY)
    assert read_picture(tmp_path / f"a{suffix}").icc_profile is None


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", LOSSLESS)
def test_orientations_of_8_bits(tmp_path: Path, suffix: str, orientation: int) -> None:
    image = Image.fromarray(noise(24, 32, 4))
    image.save(tmp_path / f"a{suffix}", exif=photo_exif(orientation).tobytes(), lossless=True, exact=True)
    read = read_picture(tmp_path / f"a{suffix}")
    image.getexif()[274] = orientation
    turned = np.array(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read.pixels, turned[..., :3])
    assert read.alpha is not None
    np.testing.assert_array_equal(read.alpha, turned[..., 3])
    exif = Image.Exif()
    exif.load(read.exif or b"")
    assert 274 not in exif
    assert exif[271] == "Maker"
    folder = exif.get_ifd(34665)
    assert (folder[40962], folder[40963]) == (read.width, read.height)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tiff", "lzw"])
def test_orientations_of_16_bits(tmp_path: Path, kind: str, orientation: int) -> None:
    # two of the levels of 8 bits in the two bytes: what Pillow turns is the reference
    samples = noise(24, 32, 3).astype(np.uint16) * 257
    path = tmp_path / "a"
    if kind == "png":
        exif = photo_exif(orientation).tobytes()[6:]
        rows = samples.astype(">u2").reshape(24, -1).view(np.uint8)
        path.write_bytes(png(32, 24, 2, 16, rows, (b"eXIf", exif)))
    elif kind == "tiff":
        tag = (274, 3, 1, orientation, True)
        tifffile.imwrite(path, samples, photometric="rgb", compression="zlib", extratags=[tag])
    else:
        lzw_with_orientation(path, samples, orientation)
    image = Image.fromarray((samples // 257).astype(np.uint8))
    image.getexif()[274] = orientation
    turned = np.array(ImageOps.exif_transpose(image)).astype(np.uint16) * 257
    np.testing.assert_array_equal(read_picture(path).pixels, turned)


def lzw_with_orientation(path: Path, samples: np.ndarray, orientation: int) -> None:
    """A TIFF of 16 bits by OpenCV, with a new directory at its end that holds the orientation as well."""
    data = cv2.imencode(".tif", samples[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1].tobytes()
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = [data[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    entries = [*entries, struct.pack("<HHIHH", 274, 3, 1, orientation, 0)]
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry))
    data += bytes(len(data) % 2)
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    path.write_bytes(data[:4] + struct.pack("<I", len(data)) + data[8:] + directory)


def test_orientation_that_only_xmp_states(tmp_path: Path) -> None:
    xmp = b'<d tiff:Orientation="6"/><tiff:Orientation>6</tiff:Orientation>'
    for dtype, suffix in ((np.uint8, ".png"), (np.uint16, ".png"), (np.uint8, ".tif")):
        start = replace(picture(dtype), exif=None, xmp=xmp)
        write_picture(tmp_path / f"a{suffix}", start)
        read = read_picture(tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(read.pixels, np.rot90(start.pixels, -1))
        assert b"6" not in (read.xmp or b"6")


# What comes with a picture


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(suffix, np.uint8) for suffix in LOSSLESS] + [(suffix, np.uint16) for suffix in SIXTEEN],
)
def test_pictures_come_back(tmp_path: Path, suffix: str, dtype: Any, alpha: bool) -> None:
    there_and_back(tmp_path / f"a{suffix}", picture(dtype, alpha=alpha))


def there_and_back(path: Path, start: Picture) -> None:
    """Exact pixels, and all that came with them."""
    write_picture(path, start)
    read = read_picture(path)
    assert read.depth == start.depth
    np.testing.assert_array_equal(read.pixels, start.pixels)
    assert (read.alpha is None) == (start.alpha is None)
    if read.alpha is not None:
        assert start.alpha is not None
        np.testing.assert_array_equal(read.alpha, start.alpha)
    assert (read.icc_profile, read.xmp) == (start.icc_profile, start.xmp)
    assert read.exif is not None
    again = Image.Exif()
    again.load(read.exif)
    assert again[271] == "Maker"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pillow_finds_what_came_with_the_picture(tmp_path: Path, suffix: str, dtype: Any) -> None:
    write_picture(tmp_path / f"b{suffix}", picture(dtype))
    write_picture(tmp_path / f"a{suffix}", read_picture(tmp_path / f"b{suffix}"))
    with Image.open(tmp_path / f"a{suffix}") as image:
        image.load()
        assert image.info["icc_profile"] == SRGB
        assert image.info["xmp"] == GPANO
        exif = image.getexif()
        assert (exif[271], exif[272], exif[306]) == ("Maker", "Modèl", "2020:01:02 03:04:05")
        assert exif[33432] == "Someone"
        folder, place = exif.get_ifd(34665), exif.get_ifd(34853)
    assert (folder[36867], float(folder[33434]), folder[37386]) == ("2020:01:01 00:00:00", 0.01, 35)
    assert (place[1], place[2]) == ("N", (1, 2, 3))


def test_big_tiffs_hold_exif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tifffile.imwrite
    monkeypatch.setattr(tifffile, "imwrite", lambda *args, **settings: plain(*args, bigtiff=True, **settings))
    there_and_back(tmp_path / "a.tif", picture(np.uint16))
    exif = Image.Exif()
    exif.load(read_picture(tmp_path / "a.tif").exif or b"")
    assert exif.get_ifd(34853)[1] == "N"


def test_the_old_thumbnail_is_left_out(tmp_path: Path) -> None:
    # a big-endian EXIF whose second directory holds a thumbnail of four bytes
    first = struct.pack(">HHHI4sI", 1, 274, 3, 1, b"\0\1\0\0", 26)
    second = struct.pack(">HHHIIHHIII", 2, 513, 4, 1, 56, 514, 4, 1, 4, 0)
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + first + second + b"OLD!"
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", exif=exif)
    assert b"OLD!" in (tmp_path / "a.jpg").read_bytes()
    write_picture(tmp_path / "b.jpg", read_picture(tmp_path / "a.jpg"))
    assert b"OLD!" not in (tmp_path / "b.jpg").read_bytes()


def test_damaged_exif_does_not_stop_a_picture(tmp_path: Path) -> None:
    for junk in (b"Exif\0\0junk", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(30)):
        Image.fromarray(smooth()).save(tmp_path / "a.webp", exif=junk, lossless=True)
        np.testing.assert_array_equal(read_picture(tmp_path / "a.webp").pixels, smooth())


def test_16_bits_are_rounded_where_8_are_held(tmp_path: Path) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    write_picture(tmp_path / "a.webp", Picture(np.repeat(levels[..., None], 3, axis=2), levels))
    read = read_picture(tmp_path / "a.webp")
    expected = np.rint(levels * (255 / 65535))
    np.testing.assert_array_equal(read.pixels[..., 0], expected)
    assert read.alpha is not None
    np.testing.assert_array_equal(read.alpha, expected)


# Errors


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert "no such file" in refused(path)
    assert "a folder" in refused(tmp_path)
    path.touch()
    assert "an empty file" in refused(path)
    for data in (b"x", b"a text\nof lines\n" * 9):
        path.write_bytes(data)
        assert "PNG, JPEG, WebP, TIFF" in refused(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [*SUFFIXES, ".gif", ".plain.tif", ".strips.tif"])
@pytest.mark.parametrize("part", [0.5, 0.95])
def test_files_that_are_cut_off(tmp_path: Path, suffix: str, dtype: Any, part: float) -> None:
    path = tmp_path / f"a{suffix}"
    pixels = noise(64, 64, 3, dtype=dtype)
    if suffix == ".gif":
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    elif suffix == ".plain.tif":
        tifffile.imwrite(path, pixels, photometric="rgb")
    elif suffix == ".strips.tif":
        tifffile.imwrite(path, pixels, photometric="rgb", rowsperstrip=1, compression="zlib")
    else:
        write_picture(path, Picture(pixels))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert "damaged or cut off" in refused(path)


def test_a_lzw_tiff_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    lzw_with_orientation(path, noise(64, 64, 3, dtype=np.uint16), 1)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        lengths = tiff.pages.first.tags[279]
        lengths.overwrite([2**20] * lengths.count)
    assert "end early" in refused(path)


def test_too_many_pixels_are_refused_by_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(100_000, 100_000, 2, 8, np.zeros((1, 1), np.uint8)))
    assert "10000000000 pixels, more than the limit of 200000000; raise it with --max-pixels" in refused(path)
    for suffix in SUFFIXES:
        write_picture(tmp_path / f"b{suffix}", Picture(smooth()))
        assert "768 pixels" in refused(tmp_path / f"b{suffix}", max_pixels=767)
        assert read_picture(tmp_path / f"b{suffix}", max_pixels=768).width == 32


def test_the_limit_of_pillow_is_neither_in_the_way_nor_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for suffix in SUFFIXES:
        write_picture(tmp_path / f"a{suffix}", Picture(smooth()))
        assert read_picture(tmp_path / f"a{suffix}").width == 32
        assert Image.MAX_IMAGE_PIXELS == 100
        refused(tmp_path / f"a{suffix}", max_pixels=5)
        assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_animations_are_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), (80 * i, 0, 0)) for i in range(3)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    said = refused(tmp_path / f"a{suffix}")
    assert "has 3 frames; use csd-edit-video, or save one frame" in said


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint32])
def test_other_channels_are_refused(tmp_path: Path, dtype: Any) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4, 3), dtype), photometric="rgb")
    assert "8 or 16 bits per channel" in refused(tmp_path / "a.tif")


def test_16_bits_of_other_colours_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(4, 4, 4, dtype=np.uint16), photometric="separated")
    assert "grey or RGB in a TIFF of 16 bits" in refused(tmp_path / "a.tif")
    # Pillow reads it as whole numbers of 32 bits
    (tmp_path / "a.pgm").write_bytes(b"P5 4 4 65535\n" + bytes(32))
    assert "8 or 16 bits per channel" in refused(tmp_path / "a.pgm")


# Writing


def not_held(name: str, start: Picture) -> str:
    """The one-line message of check_can_hold."""
    with pytest.raises(UserError) as error:
        check_can_hold(Path(name), start)
    assert str(error.value).startswith(f"{name}: expected ")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_a_format_cannot_hold() -> None:
    opaque, clear = Picture(smooth(), np.full((24, 32), 255, np.uint8)), picture(alpha=True)
    for suffix in (*SUFFIXES, ".JPEG", ".PNG"):
        check_can_hold(Path(f"a{suffix}"), opaque)
    for name in ("a.bmp", "a", "a.png.part"):
        assert "one of .png .jpg .jpeg .webp .tif .tiff" in not_held(name, opaque)
    for name in ("a.jpg", "a.jpeg", "a.JPG"):
        assert "opaque" in not_held(name, clear)
    for name in ("a.png", "a.webp", "a.tif"):
        check_can_hold(Path(name), clear)
    long = replace(picture(), xmp=bytes(70_000))
    assert "70000 bytes" in not_held("a.jpg", long)
    check_can_hold(Path("a.png"), long)


@pytest.mark.parametrize(("suffix", "limit"), [(".jpg", 65500), (".webp", 16383)])
def test_the_longest_side(tmp_path: Path, suffix: str, limit: int) -> None:
    write_picture(tmp_path / f"a{suffix}", Picture(np.zeros((1, limit, 3), np.uint8)))
    for shape in ((1, limit + 1, 3), (limit + 1, 1, 3)):
        assert f"at most {limit}" in not_held(f"a{suffix}", Picture(np.zeros(shape, np.uint8)))
    check_can_hold(Path("a.png"), Picture(np.zeros((1, limit + 1, 3), np.uint8)))


def test_a_failure_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(path: Path, *args: Any, **settings: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    path = tmp_path / "a.tif"
    write_picture(path, Picture(smooth()))
    before = path.read_bytes()
    monkeypatch.setattr(tifffile, "imwrite", half)
    with pytest.raises(OSError, match="disk full"):
        write_picture(path, picture())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_that_cannot_be_held_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="opaque"):
        write_picture(tmp_path / "a.jpg", picture(alpha=True))
    assert not list(tmp_path.iterdir())


# Values


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_level_survives_the_tensor(dtype: Any) -> None:
    levels = np.repeat(np.arange(np.iinfo(dtype).max + 1, dtype=dtype)[None, :, None], 3, axis=2)
    tensor = Picture(levels).to_tensor()
    assert tensor.shape == (3, 1, levels.shape[1])
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    np.testing.assert_array_equal(quantise(tensor, dtype), levels)


def test_quantise_rounds_and_stays_in_range() -> None:
    image = torch.tensor([-1.0, 0.4 / 255, 0.6 / 255, 2.0]).expand(3, 1, 4)
    assert quantise(image, np.uint8)[0, :, 0].tolist() == [0, 0, 1, 255]
    assert quantise(image, np.uint16)[0, :, 0].tolist() == [0, 103, 154, 65535]
    assert quantise(torch.ones(3, 2, 5), np.uint8).shape == (2, 5, 3)


def test_other_pixels_keep_the_rest() -> None:
    start = picture(alpha=True)
    other = start.with_pixels(255 - start.pixels)
    assert other.alpha is start.alpha
    assert other.exif == start.exif
    np.testing.assert_array_equal(other.pixels, 255 - start.pixels)
    for wrong in (start.pixels[:-1], start.pixels.astype(np.uint16), start.pixels[..., 0]):
        with pytest.raises(ValueError, match="expected"):
            start.with_pixels(wrong)


@pytest.mark.parametrize(
    ("xmp", "width", "expected"),
    [
        (GPANO, 16, True),
        (b"<GPano:ProjectionType> equirectangular </GPano:ProjectionType>", 16, True),
        (b"<a GPano:ProjectionType='equirectangular'/>", 16, True),
        (b'<a GPano:ProjectionType="cylindrical"/>', 16, False),
        (GPANO, 15, False),
        (None, 16, False),
        (GPANO + b'<a GPano:FullPanoWidthPixels="64" GPano:CroppedAreaImageWidthPixels="16"/>', 16, False),
        (GPANO + b'<a GPano:FullPanoWidthPixels="64" GPano:CroppedAreaImageWidthPixels="64"/>', 16, True),
    ],
)
def test_full_spheres(xmp: bytes | None, width: int, expected: bool) -> None:
    assert Picture(noise(8, width, 3), xmp=xmp).is_full_sphere is expected


# Masks


def mask_of(path: Path, pixels: np.ndarray, **settings: Any) -> np.ndarray:
    """Through a file."""
    Image.fromarray(pixels).save(path, **settings)
    return read_mask(path, size=(9, 7))


def test_a_mask_is_the_brightness(tmp_path: Path) -> None:
    grey = noise(9, 7)
    mask = mask_of(tmp_path / "a.png", grey)
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(mask, grey.astype(np.float32) / np.float32(255))
    colours = noise(9, 7, 3)
    luma = colours @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(mask_of(tmp_path / "a.png", colours), luma, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(mask_of(tmp_path / "a.png", noise(9, 7, dtype=np.uint16)).max(), 1, atol=0.1)
    assert mask_of(tmp_path / "a.png", np.full((9, 7), 255, np.uint8)).min() == 1


def test_a_mask_of_one_colour_is_its_opacity(tmp_path: Path) -> None:
    alpha = noise(9, 7)
    alpha[0, 0] = 0
    for colour in ((0, 0, 0), (200, 10, 10)):
        pixels = np.dstack([np.full((9, 7, 3), colour, np.uint8), alpha])
        pixels[0, 0, :3] = 90  # behind nothing
        expected = alpha.astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(mask_of(tmp_path / "a.png", pixels), expected)
    opaque = np.dstack([np.full((9, 7, 3), 51, np.uint8), np.full((9, 7), 255, np.uint8)])
    assert mask_of(tmp_path / "a.png", opaque).max() == np.float32(0.2)
    colours = np.dstack([np.repeat(alpha[..., None], 3, axis=2), noise(9, 7, seed=3) | 1])
    np.testing.assert_array_equal(
        mask_of(tmp_path / "a.png", colours), alpha.astype(np.float32) / np.float32(255)
    )


def test_a_mask_is_turned(tmp_path: Path) -> None:
    grey = noise(7, 9)
    mask = mask_of(tmp_path / "a.png", grey, exif=photo_exif(6))
    np.testing.assert_array_equal(mask, np.rot90(grey, -1).astype(np.float32) / np.float32(255))


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected 7x9 as the image, got 9x7"):
        mask_of(tmp_path / "a.png", noise(7, 9))
    clear = np.dstack([noise(9, 7, 3), np.zeros((9, 7), np.uint8)])
    for empty in (np.zeros((9, 7), np.uint8), clear):
        with pytest.raises(UserError, match="empty"):
            mask_of(tmp_path / "a.png", empty)
    with pytest.raises(UserError, match="more than the limit of 5"):
        read_mask(tmp_path / "a.png", size=(9, 7), max_pixels=5)
