"""Every mode and depth that Pillow or tifffile opens: read right, or refused by name."""

import os
import struct
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from csd_core.io.images import read_picture
from tests.csd_core.io.clips import apart, one_line

Y, X = np.mgrid[:48, :64]
RGB = np.stack([X * 4, Y * 5, (X * 3 + Y * 5) % 256], axis=2).astype(np.uint8)
GREY, ALPHA = RGB[..., 2], (255 - Y * 5).astype(np.uint8)
RGBA, LA = np.dstack([RGB, ALPHA]), np.dstack([GREY, ALPHA])
DEEP = RGB.astype(np.uint16) * 257 + np.array([0, 100, 200], np.uint16) * (RGB < 200)
LOSSLESS: dict[str, Any] = {"lossless": True, "exact": True}


def as_rgb(samples: np.ndarray) -> np.ndarray:
    """RGB or RGBA (H, W, 3 or 4) of grey (H, W), of grey and alpha, RGB or RGBA."""
    grey = samples[..., None] if samples.ndim == 2 else samples
    return grey if grey.shape[2] >= 3 else grey[..., [0, 0, 0, 1][: grey.shape[2] + 2]]


def check(path: Path, expected: np.ndarray, tolerance: int = 0) -> None:
    """The pixels of a file, to a number of levels."""
    read = read_picture(path).stacked()
    assert (read.dtype, read.shape) == (expected.dtype, expected.shape)
    assert np.abs(read.astype(int) - expected.astype(int)).max() <= tolerance


def saved(path: Path, image: Image.Image, **how: Any) -> Path:
    image.save(path, **how)
    return path


def palette_image(colours: int = 64) -> tuple[Image.Image, np.ndarray]:
    """An image with a palette, and its RGB by looking up each number."""
    image = Image.fromarray(RGB).quantize(colours)
    table = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    return image, table[np.asarray(image)]


# By Pillow.


@pytest.mark.parametrize(
    ("mode", "samples", "suffixes"),
    [
        ("L", GREY, "png tif bmp pgm gif jp2 tga sgi pcx webp"),
        ("LA", LA, "png tif tga webp jp2"),
        ("RGB", RGB, "png tif bmp ppm tga jp2 webp sgi pcx qoi dib"),
        ("RGBA", RGBA, "png tif tga webp jp2 sgi qoi"),
    ],
)
def test_grey_and_colours(tmp_path: Path, mode: str, samples: np.ndarray, suffixes: str) -> None:
    for suffix in suffixes.split():
        how = LOSSLESS if suffix == "webp" else {}
        check(saved(tmp_path / f"a.{suffix}", Image.fromarray(samples, mode), **how), as_rgb(samples))


def test_black_and_white(tmp_path: Path) -> None:
    bits = GREY > 99
    for suffix in ("png", "tif", "bmp", "pbm", "gif"):
        check(saved(tmp_path / f"a.{suffix}", Image.fromarray(bits)), as_rgb(bits.astype(np.uint8) * 255))


def test_palettes(tmp_path: Path) -> None:
    image, expected = palette_image()
    for suffix in ("png", "tif", "bmp", "gif", "tga", "pcx"):
        check(saved(tmp_path / f"a.{suffix}", image), expected)
    for bits in (1, 2, 4):
        small, colours = palette_image(2**bits)
        check(saved(tmp_path / "a.png", small, bits=bits), colours)
    numbers = np.asarray(image)
    one = np.where(numbers == 3, 0, 255).astype(np.uint8)
    for suffix in ("png", "gif"):
        check(saved(tmp_path / f"b.{suffix}", image, transparency=3), np.dstack([expected, one]))
    each = saved(tmp_path / "c.png", image, transparency=bytes(range(64)))
    check(each, np.dstack([expected, numbers]))


def test_colour_models(tmp_path: Path) -> None:
    image = Image.fromarray(RGB)
    ink = np.dstack([255 - RGB, np.zeros((48, 64), np.uint8)])
    check(saved(tmp_path / "ink.tif", Image.fromarray(ink, "CMYK")), RGB, 1)
    # Adobe's JPEGs hold it inverted, which Pillow writes too
    smooth = np.stack([X * 3, Y * 4, 99 + 0 * X, 0 * X], axis=2).astype(np.uint8)
    check(saved(tmp_path / "ink.jpg", Image.fromarray(smooth, "CMYK"), quality=100), 255 - smooth[..., :3], 5)
    for suffix, how in (("tif", {}), ("jpg", {"quality": 100, "subsampling": 0})):
        check(saved(tmp_path / f"y.{suffix}", image.convert("YCbCr"), **how), RGB, 8)
    to_lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(image, *to_lab, outputMode="LAB")
    assert lab is not None
    assert apart(read_picture(saved(tmp_path / "lab.tif", lab)).pixels, RGB) < 1.5


def test_other_programs(tmp_path: Path) -> None:
    ink = np.dstack([RGB, np.full((48, 64), 255, np.uint8)])  # in a PSD, 255 is none
    for mode, samples in ((1, GREY[..., None]), (3, RGB), (3, RGBA), (4, ink)):
        channels = samples.shape[2]
        head = b"8BPS" + struct.pack(">H6xHIIHH", 1, channels, 48, 64, 8, mode) + bytes(12 + 2)
        (tmp_path / "a.psd").write_bytes(head + samples.transpose(2, 0, 1).tobytes())
        check(tmp_path / "a.psd", RGB if mode == 4 else as_rgb(samples))
    check(saved(tmp_path / "a.ico", Image.fromarray(RGBA), sizes=[(64, 48)]), RGBA)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    assert "got HEIC; save it as JPEG" in one_line(read_picture, tmp_path / "a.heic")
    (tmp_path / "a.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # is no picture
    assert "got something else" in one_line(read_picture, tmp_path / "a.eps")


# 16 bits.


@pytest.mark.parametrize(("kind", "top"), [("P6", 65535), ("P3", 65535), ("P6", 1023), ("P3", 300)])
@pytest.mark.parametrize("channels", [1, 3])
def test_portable_maps_of_16_bits(tmp_path: Path, kind: str, top: int, channels: int) -> None:
    samples = np.rint(DEEP[..., :channels] * (top / 65535)).astype(np.uint16)
    name = kind if channels == 3 else {"P6": "P5", "P3": "P2"}[kind]
    text = " ".join(str(level) for level in samples.flat).encode()
    body = text if kind == "P3" else samples.astype(">u2").tobytes()
    (tmp_path / "a.ppm").write_bytes(f"{name}\n64 48\n{top}\n".encode() + body)
    check(tmp_path / "a.ppm", as_rgb(np.rint(samples * (65535 / top)).astype(np.uint16)), 1)


def test_16_bits_of_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    grey = DEEP[..., 1]
    check(saved(tmp_path / "grey.png", Image.fromarray(grey)), as_rgb(grey))
    check(saved(tmp_path / "grey.jp2", Image.fromarray(grey)), as_rgb(grey))
    white = np.full((48, 64, 3), 65535, np.uint16)  # Pillow reads black
    wide = (np.tile(samples, (2, 2, 1)) for samples in (DEEP, np.dstack([DEEP, grey]), white))
    for samples in wide:
        order = [2, 1, 0, 3][: samples.shape[2]]
        lossless = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
        assert cv2.imwrite(str(tmp_path / "a.jp2"), samples[..., order], lossless)
        check(tmp_path / "a.jp2", samples)
    data = (tmp_path / "a.jp2").read_bytes()
    place = data.index(b"\xff\x4f\xff\x51") + 42
    (tmp_path / "b.jp2").write_bytes(data[:place] + bytes([11, 1, 1] * 3) + data[place + 9 :])
    assert "got 12 in JPEG 2000; save it as PNG or TIFF" in one_line(read_picture, tmp_path / "b.jp2")
    saved(tmp_path / "a.sgi", Image.fromarray(RGB), bpc=2)
    assert "expected 8 bits per channel in SGI, got 16" in one_line(read_picture, tmp_path / "a.sgi")


def test_more_than_8_bits_of_avif_are_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.avif"
    os.environ.setdefault("SVT_LOG", "0")  # the encoder reads it once in a process
    with av.open(str(path), "w", format="avif") as container:
        stream = container.add_stream("libsvtav1", rate=1, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        levels = np.repeat(X[:1, :, None] * 4, 64, axis=0).repeat(3, axis=2).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(levels, "rgb24").reformat(format="yuv420p10le")
        container.mux([*stream.encode(frame), *stream.encode()])
    capfd.readouterr()  # the encoder talks
    read = read_picture(path)
    assert apart(read.pixels, levels) < 4
    assert read.notes == (f"{path}: the output does not have more than 8 bits per channel",)
    shallow = read_picture(saved(tmp_path / "b.avif", Image.fromarray(RGB), quality=100))
    assert apart(shallow.pixels, RGB) < 4
    assert shallow.notes == ()


# TIFF.


@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("samples", [GREY, LA, RGB, RGBA])
def test_tiff_of_8_bits(tmp_path: Path, samples: np.ndarray, compression: Any, planes: Any) -> None:
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    stored = samples.transpose(2, 0, 1) if planes == "separate" and channels > 1 else samples
    for order in "<>":
        tifffile.imwrite(
            tmp_path / "a.tif",
            stored,
            byteorder=order,  # pyright: ignore[reportArgumentType]
            photometric="rgb" if channels >= 3 else "minisblack",
            planarconfig=planes if channels > 1 else None,
            extrasamples=["unassalpha"] if channels in (2, 4) else None,
            compression=compression,
        )
        check(tmp_path / "a.tif", as_rgb(samples))


@pytest.mark.parametrize("samples", [LA, RGBA])
def test_alpha_of_a_tiff_of_8_bits(tmp_path: Path, samples: np.ndarray) -> None:
    kind: Any = "rgb" if samples.shape[2] == 4 else "minisblack"
    seen = samples[:40]  # little is left of colours that were multiplied by less
    colours = np.rint(seen[..., :-1] * (seen[..., -1:] / 255)).astype(np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.dstack([colours, seen[..., -1]]),
        photometric=kind,
        extrasamples=["assocalpha"],
        planarconfig="contig",
    )
    check(tmp_path / "a.tif", as_rgb(seen), 3)
    tifffile.imwrite(
        tmp_path / "b.tif", samples, photometric=kind, extrasamples=["unspecified"], planarconfig="contig"
    )
    check(tmp_path / "b.tif", as_rgb(samples)[..., :3])


def test_other_kinds_of_tiff(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.tile(RGB, (3, 3, 1)), photometric="rgb", tile=(32, 32))
    check(path, np.tile(RGB, (3, 3, 1)))
    tifffile.imwrite(path, GREY, photometric="miniswhite")
    check(path, as_rgb(255 - GREY))
    tifffile.imwrite(path, GREY > 99, photometric="minisblack")
    check(path, as_rgb((GREY > 99).astype(np.uint8) * 255))
    table = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16)
    tifffile.imwrite(path, GREY, photometric="palette", colormap=table * 257)
    check(path, table[:, GREY].transpose(1, 2, 0).astype(np.uint8))


@pytest.mark.parametrize("place", [7, 5000, 8, 2573])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_damaged_second_page_does_not_stop_the_first(
    tmp_path: Path, place: int, dtype: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB.astype(dtype), photometric="rgb")
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<I", data, start + 2 + 12 * count, place)  # of the next page
    path.write_bytes(data)
    check(path, RGB.astype(dtype))
    assert caplog.records == []  # which would be printed


def packed(samples: np.ndarray, bits: int) -> bytes:
    """A grey TIFF of so many bits."""
    text = ("".join(format(level, f"0{bits}b") for level in row) for row in samples.tolist())
    data = b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in text)
    height, width = samples.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (279, len(data))])
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", 9) + entries + bytes(4)


def test_what_cannot_be_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"

    def refused() -> str:
        return one_line(read_picture, path)

    for bits in (10, 12):
        path.write_bytes(packed(GREY.astype(int), bits))
        assert f"got {bits} bits of unsigned numbers; save it with 8 or 16 bits" in refused()
    for dtype in (np.float16, np.float32, np.int8, np.int32, np.uint32):
        tifffile.imwrite(path, np.zeros((4, 4), dtype), photometric="minisblack")
        assert "expected 8 or 16 bits per channel" in refused()
    tifffile.imwrite(path, DEEP[..., [0, 1, 2, 0]], photometric="separated")
    assert "got SEPARATED; convert it to RGB" in refused()
    (tmp_path / "a.pfm").write_bytes(b"Pf\n4 4\n-1.0\n" + bytes(64))
    assert "mode F; save it with 8 or 16 bits" in one_line(read_picture, tmp_path / "a.pfm")


def test_raw_files_of_cameras_are_refused(tmp_path: Path) -> None:
    # what stands first in them is a thumbnail
    path, version = tmp_path / "a.dng", (50706, 1, 4, b"\1\4\0\0", True)
    tifffile.imwrite(path, RGB, photometric="rgb", extratags=[version])
    assert "got a camera's raw file or a thumbnail; develop it" in one_line(read_picture, path)
    tifffile.imwrite(path, RGB, photometric="rgb", subfiletype=1)
    assert "develop it" in one_line(read_picture, path)
    saved(tmp_path / "b.tif", Image.fromarray(RGB))
    data = (tmp_path / "b.tif").read_bytes()
    (start,) = struct.unpack_from("<I", data, 4)
    moved = data[:4] + struct.pack("<I", len(data)) + b"CR\2\0" + data[12:] + data[start:]
    path.write_bytes(moved)
    assert "develop it" in one_line(read_picture, path)
