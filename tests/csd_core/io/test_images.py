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
from csd_core.io.images import Picture, check_can_hold, quantise, read_picture, write_picture
from tests.csd_core.io.clips import apart, one_line

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GPANO = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d GPano:ProjectionType="equirectangular"/></x:xmpmeta>'
LOSSLESS = (".png", ".webp", ".tif")
SUFFIXES = (*LOSSLESS, ".jpg")

each_depth = pytest.mark.parametrize("dtype", [np.uint8, np.uint16])


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
    kind: int, samples: np.ndarray, *chunks: tuple[bytes, bytes], size: tuple[int, int] | None = None
) -> bytes:
    """A PNG of 16 bits, of a colour type. size: the height and width in its header."""
    height, width = size or samples.shape[:2]
    rows = samples.astype(">u2").reshape(len(samples), -1).view(np.uint8)
    data = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", data), (b"IEND", b"")]
    body = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def as_rgb(samples: np.ndarray) -> np.ndarray:
    """RGB or RGBA of grey, grey and alpha, RGB or RGBA."""
    channels = samples.shape[2]
    return samples if channels >= 3 else samples[..., [0, 0, 0, 1][: channels + 2]]


def reads(path: Path, expected: np.ndarray) -> Picture:
    """The picture in a file, which is exactly this RGB or RGBA."""
    read = read_picture(path)
    assert read.pixels.dtype == expected.dtype
    np.testing.assert_array_equal(read.stacked(), expected)
    return read


def turned(image: Image.Image, orientation: int) -> np.ndarray:
    """By Pillow."""
    image.getexif()[274] = orientation
    return np.array(ImageOps.exif_transpose(image))


def exif_of(read: Picture) -> Image.Exif:
    exif = Image.Exif()
    exif.load(read.exif or b"")
    return exif


def refused(path: Path, **settings: Any) -> str:
    """The one-line message of read_picture."""
    message = one_line(read_picture, path, **settings)
    assert message.startswith(f"{path}: expected ")
    return message


# Reading


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA"])
def test_modes_of_8_bits(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(noise(9, 7, 4))
    image = (image if "A" in mode else image.convert("RGB")).convert(mode)
    image.save(tmp_path / "a.png")
    read = reads(tmp_path / "a.png", np.array(image.convert("RGBA" if "A" in mode else "RGB")))
    assert (read.height, read.width, read.depth) == (9, 7, 8)


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3)])
def test_a_transparent_colour_of_16_bits(tmp_path: Path, kind: int, channels: int) -> None:
    samples, alpha = (
        noise(5, 4, 1, dtype=np.uint16).repeat(channels, axis=2),
        np.full((5, 4), 65535, np.uint16),
    )
    samples[2, 3], samples[0, 0], alpha[2, 3] = 0x1234, 0x1235, 0
    key = struct.pack(">H", 0x1234) * channels
    (tmp_path / "a.png").write_bytes(png(kind, samples, (b"tRNS", key)))
    reads(tmp_path / "a.png", np.dstack([as_rgb(samples), alpha]))


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_of_16_bits(tmp_path: Path, kind: int, channels: int) -> None:
    samples, path = noise(5, 4, channels, dtype=np.uint16), tmp_path / "ünicode.png"
    path.write_bytes(png(kind, samples))
    assert reads(path, as_rgb(samples)).depth == 16


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
    reads(tmp_path / "a.tif", as_rgb(samples))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiff_of_16_bits_with_lzw(tmp_path: Path, channels: int) -> None:
    samples = noise(40, 30, channels, dtype=np.uint16)
    stored = samples if channels == 1 else samples[..., [2, 1, 0, 3][:channels]]
    cv2.imwrite(str(tmp_path / "a.tif"), stored, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.pages.first.compression == 5
    reads(tmp_path / "a.tif", as_rgb(samples))


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
    assert "with PACKBITS" in refused(path)  # OpenCV would read something else


@each_depth
def test_the_first_page_is_read_and_white_may_be_zero(tmp_path: Path, dtype: Any) -> None:
    pages = noise(2, 9, 7, 3, dtype=dtype)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="rgb")
    reads(tmp_path / "a.tif", pages[0])
    tifffile.imwrite(tmp_path / "a.tif", pages[0, ..., 0], photometric="miniswhite")
    reads(tmp_path / "a.tif", as_rgb(np.iinfo(dtype).max - pages[0, ..., :1]))


def test_colours_multiplied_by_the_alpha_are_divided(tmp_path: Path) -> None:
    samples = np.array([[[100, 200, 300, 400], [0, 0, 0, 0], [9, 9, 9, 65535]]], np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", extrasamples=["assocalpha"])
    read = read_picture(tmp_path / "a.tif")
    assert read.pixels[0].tolist() == [[16384, 32768, 49151], [0, 0, 0], [9, 9, 9]]
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", extrasamples=["unspecified"])
    assert read_picture(tmp_path / "a.tif").alpha is None


def test_other_formats_are_read(tmp_path: Path) -> None:
    image = Image.fromarray(smooth())
    modes = {".bmp": "RGB", ".ppm": "RGB", ".tga": "RGB", ".y.tif": "YCbCr", ".jpg": "CMYK", ".tif": "CMYK"}
    for suffix, mode in modes.items():
        image.convert(mode).save(tmp_path / f"a{suffix}")
        assert apart(read_picture(tmp_path / f"a{suffix}").pixels, smooth()) < 4
    # of a phone with several pictures, the first
    other = Image.new("RGB", (32, 24))
    image.save(tmp_path / "b.jpg", "MPO", save_all=True, append_images=[other], quality=95)
    assert apart(read_picture(tmp_path / "b.jpg").pixels, smooth()) < 3


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", ".png"), ("L", ".tif"), ("CMYK", ".jpg"), ("CMYK", ".tif")]
)
def test_profiles_of_other_colours_are_dropped(tmp_path: Path, mode: str, suffix: str) -> None:
    path, image = tmp_path / f"a{suffix}", Image.fromarray(smooth()).convert(mode)
    image.save(path)
    plain = read_picture(path)
    kind = b"GRAY" if mode == "L" else b"CMYK"  # which cannot be used: the picture is read without it
    image.save(path, icc_profile=SRGB[:16] + kind + SRGB[20:])
    assert reads(path, plain.pixels).icc_profile is None


def test_a_cmyk_profile_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(image: Image.Image, profile: Any, target: Any, outputMode: str) -> Image.Image:
        assert (image.mode, outputMode) == ("CMYK", "RGB")
        return Image.new("RGB", image.size, (1, 2, 3))

    # no profile of CMYK comes with Pillow
    monkeypatch.setattr(ImageCms, "profileToProfile", convert)
    Image.new("CMYK", (4, 3)).save(tmp_path / "a.jpg", icc_profile=SRGB)
    assert read_picture(tmp_path / "a.jpg").pixels[0, 0].tolist() == [1, 2, 3]


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", LOSSLESS)
def test_orientations_of_8_bits(tmp_path: Path, suffix: str, orientation: int) -> None:
    image = Image.fromarray(noise(24, 32, 4))
    image.save(tmp_path / f"a{suffix}", exif=photo_exif(orientation).tobytes(), lossless=True, exact=True)
    read = reads(tmp_path / f"a{suffix}", turned(image, orientation))
    exif = exif_of(read)
    assert 274 not in exif
    assert exif[271] == "Maker"
    folder = exif.get_ifd(34665)
    assert (folder[40962], folder[40963]) == (read.width, read.height)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tiff", "lzw"])
def test_orientations_of_16_bits(tmp_path: Path, kind: str, orientation: int) -> None:
    # two of the levels of 8 bits in the two bytes: what Pillow turns is the reference
    plain, path = noise(24, 32, 3), tmp_path / "a"
    samples = plain.astype(np.uint16) * 257
    if kind == "png":
        path.write_bytes(png(2, samples, (b"eXIf", photo_exif(orientation).tobytes()[6:])))
    elif kind == "tiff":
        tag = (274, 3, 1, orientation, True)
        tifffile.imwrite(path, samples, photometric="rgb", compression="zlib", extratags=[tag])
    else:
        lzw_with_orientation(path, samples, orientation)
    reads(path, turned(Image.fromarray(plain), orientation).astype(np.uint16) * 257)


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
        read = reads(tmp_path / f"a{suffix}", np.rot90(start.pixels, -1))
        assert b"6" not in (read.xmp or b"6")


# What comes with a picture


@each_depth
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pictures_come_back_with_all_that_came_with_them(
    tmp_path: Path, suffix: str, dtype: Any, alpha: bool
) -> None:
    start = picture(dtype, alpha=alpha and suffix != ".jpg")
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    write_picture(first, start)
    is_exact = suffix in (".png", ".tif") or (suffix == ".webp" and dtype == np.uint8)
    read = reads(first, start.stacked()) if is_exact else read_picture(first)
    assert (read.icc_profile, read.xmp) == (start.icc_profile, start.xmp)
    write_picture(second, read)
    assert sorted(tmp_path.iterdir()) == [first, second]
    with Image.open(second) as image:  # Pillow finds it all
        image.load()
        assert (image.info["icc_profile"], image.info["xmp"]) == (SRGB, GPANO)
        exif = image.getexif()
        texts = [exif[tag] for tag in (271, 272, 306, 33432)]
        assert texts == ["Maker", "Modèl", "2020:01:02 03:04:05", "Someone"]
        folder, place = exif.get_ifd(34665), exif.get_ifd(34853)
    assert (folder[36867], float(folder[33434]), folder[37386]) == ("2020:01:01 00:00:00", 0.01, 35)
    assert (place[1], place[2]) == ("N", (1, 2, 3))


def test_big_tiffs_hold_exif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, start = tifffile.imwrite, picture(np.uint16)
    monkeypatch.setattr(tifffile, "imwrite", lambda *args, **settings: plain(*args, bigtiff=True, **settings))
    write_picture(tmp_path / "a.tif", start)
    assert exif_of(reads(tmp_path / "a.tif", start.pixels)).get_ifd(34853)[1] == "N"


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
        reads(tmp_path / "a.webp", smooth())


def test_16_bits_are_rounded_where_8_are_held(tmp_path: Path) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    write_picture(tmp_path / "a.webp", Picture(levels[..., None].repeat(3, axis=2), levels))
    expected = np.rint(levels * (255 / 65535)).astype(np.uint8)
    reads(tmp_path / "a.webp", expected[..., None].repeat(4, axis=2))


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


@each_depth
@pytest.mark.parametrize("suffix", [*SUFFIXES, ".gif", ".plain.tif", ".strips.tif"])
@pytest.mark.parametrize("part", [0.5, 0.95])
def test_files_that_are_cut_off(tmp_path: Path, suffix: str, dtype: Any, part: float) -> None:
    path = tmp_path / f"a{suffix}"
    pixels = noise(64, 64, 3, dtype=dtype)
    if suffix == ".gif":
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    elif suffix in SUFFIXES:
        write_picture(path, Picture(pixels))
    else:
        strips = {"rowsperstrip": 1, "compression": "zlib"} if suffix == ".strips.tif" else {}
        tifffile.imwrite(path, pixels, photometric="rgb", **strips)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert "damaged or cut off" in refused(path)


@each_depth
def test_a_png_whose_pixels_are_damaged(tmp_path: Path, dtype: Any) -> None:
    path = tmp_path / "a.png"
    write_picture(path, Picture(noise(64, 64, 3, dtype=dtype)))
    whole = path.read_bytes()
    for place in (4, 100):  # the head of the stream, and inside of it
        data = bytearray(whole)
        data[whole.index(b"IDAT") + place] ^= 1
        path.write_bytes(data)
        assert "damaged or cut off" in refused(path)


def test_a_lzw_tiff_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    lzw_with_orientation(path, noise(64, 64, 3, dtype=np.uint16), 1)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        lengths = tiff.pages.first.tags[279]
        lengths.overwrite([2**20] * lengths.count)
    assert "end early" in refused(path)


def test_too_many_pixels_are_refused_by_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(2, noise(1, 1, 3), size=(100_000, 100_000)))
    assert "10000000000 pixels, more than the limit of 200000000; raise it with --max-pixels" in refused(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # neither in the way nor lost
    for suffix in SUFFIXES:
        write_picture(tmp_path / f"b{suffix}", Picture(smooth()))
        assert "768 pixels" in refused(tmp_path / f"b{suffix}", max_pixels=767)
        assert Image.MAX_IMAGE_PIXELS == 100
        assert read_picture(tmp_path / f"b{suffix}", max_pixels=768).width == 32
        assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_animations_are_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), (80 * i, 0, 0)) for i in range(3)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    assert "has 3 frames; use csd-edit-video, or save one frame" in refused(tmp_path / f"a{suffix}")


def test_other_channels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for dtype in (np.float32, np.int16, np.uint32):
        tifffile.imwrite(path, np.zeros((4, 4, 3), dtype), photometric="rgb")
        assert "8 or 16 bits per channel" in refused(path)
    tifffile.imwrite(path, noise(4, 4, 4, dtype=np.uint16), photometric="separated")
    assert "grey or RGB in a TIFF of 16 bits" in refused(path)


# Writing


def not_held(name: str, start: Picture) -> str:
    return one_line(check_can_hold, Path(name), start)


def test_what_a_format_cannot_hold() -> None:
    opaque, clear = Picture(smooth(), np.full((24, 32), 255, np.uint8)), picture(alpha=True)
    for suffix in (*SUFFIXES, ".tiff", ".JPEG", ".PNG"):
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
    with pytest.raises(UserError, match="opaque"):
        write_picture(tmp_path / "a.jpg", picture(alpha=True))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# Values


@each_depth
def test_every_level_survives_the_tensor(dtype: Any) -> None:
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)[None, :, None].repeat(3, axis=2)
    tensor = Picture(levels).to_tensor()
    assert tensor.shape == (3, 1, levels.shape[1])
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    np.testing.assert_array_equal(quantise(tensor, dtype), levels)


def test_quantise_rounds_and_stays_in_range() -> None:
    image = torch.tensor([-1.0, 0.4 / 255, 0.6 / 255, 2.0]).expand(3, 1, 4)
    assert quantise(image, np.uint8)[0, :, 0].tolist() == [0, 0, 1, 255]
    assert quantise(image, np.uint16)[0, :, 0].tolist() == [0, 103, 154, 65535]


def test_other_pixels_keep_the_rest() -> None:
    start = picture(alpha=True)
    other = start.with_pixels(255 - start.pixels)
    assert (other.alpha is start.alpha, other.exif) == (True, start.exif)
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
        (GPANO + b'<a GPano:FullPanoWidthPixels="64" GPano:CroppedAreaImageWidthPixels="16"/>', 16, False),
        (GPANO + b'<a GPano:FullPanoWidthPixels="64" GPano:CroppedAreaImageWidthPixels="64"/>', 16, True),
    ],
)
def test_full_spheres(xmp: bytes | None, width: int, expected: bool) -> None:
    assert Picture(noise(8, width, 3), xmp=xmp).is_full_sphere is expected
