"""Profiles, texts, resolution and XMP: read whatever their size, kept, or dropped with a note."""

import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from csd_core.io import image_metadata
from csd_core.io.image_metadata import photo_xmp
from csd_core.io.images import Picture, check_can_hold, read_picture, write_picture
from csd_core.io.videos import read_video
from tests.csd_core.io.clips import one_line

RGB = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
MIB = 2**20
LOSSLESS = (".png", ".webp", ".tif")
SUFFIXES = (*LOSSLESS, ".jpg")


def profile(size: int, colours: bytes = b"RGB ") -> bytes:
    """So many bytes that do not compress, and pass for a profile."""
    data = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8).tobytes()
    return struct.pack(">I", size) + data[4:16] + colours + data[20:]


def png_with(path: Path, *chunks: tuple[bytes, bytes], pixels: np.ndarray = RGB) -> Path:
    """A PNG with more chunks after its header."""
    write_picture(path, Picture(pixels))
    data = path.read_bytes()
    for name, content in chunks:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        data = data[:33] + struct.pack(">I", len(content)) + name + content + checksum + data[33:]
    path.write_bytes(data)
    return path


# Large profiles and texts.


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_large_metadata_come_back(tmp_path: Path, suffix: str, dtype: Any) -> None:
    icc, xmp = profile(3 * MIB), b"<x>" + b"y" * (60_000 if suffix == ".jpg" else 3 * MIB) + b"</x>"
    start = Picture(RGB.astype(dtype) * (257 if dtype == np.uint16 else 1), icc_profile=icc, xmp=xmp)
    write_picture(tmp_path / f"a{suffix}", start)
    read = read_picture(tmp_path / f"a{suffix}")
    assert (read.icc_profile, read.xmp, read.notes) == (icc, xmp, ())
    if suffix in (".png", ".tif"):
        np.testing.assert_array_equal(read.pixels, start.pixels)


def test_the_longest_metadata_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = image_metadata.LONGEST
    start = Picture(RGB, icc_profile=profile(longest), xmp=bytes([120]) * longest)
    write_picture(tmp_path / "a.png", start)
    read = read_picture(tmp_path / "a.png")
    assert (read.icc_profile, read.xmp) == (start.icc_profile, start.xmp)
    monkeypatch.setattr(image_metadata, "LONGEST", 8 * MIB)
    read = read_picture(tmp_path / "a.png")
    assert (read.icc_profile, read.xmp) == (None, None)
    assert read.notes == (
        f"{tmp_path / 'a.png'}: the output does not have its XMP, which is longer than 8 MiB",
        f"{tmp_path / 'a.png'}: the output does not have its colour profile, which is longer than 8 MiB",
    )
    assert "a colour profile of 16575000 bytes in a JPEG" in one_line(
        check_can_hold, Path("a.jpg"), replace(start, xmp=None)
    )


def test_texts_of_a_png(tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    for name in ("Comment", "Description"):
        texts.add_text(name, "long " * MIB, zip=True)
        texts.add_itxt(name, "lóng " * MIB, zip=False)
    Image.fromarray(RGB).save(tmp_path / "a.png", pnginfo=texts)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").pixels, RGB)
    assert PngImagePlugin.MAX_TEXT_CHUNK == MIB


def test_texts_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (32, 24), (80 * k, 0, 0)) for k in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    data, content = (tmp_path / "a.png").read_bytes(), b"zTXta\0\0" + zlib.compress(bytes(3 * MIB))
    text = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    for place in (33, len(data) - 12):  # before the frames, and after them
        (tmp_path / "a.png").write_bytes(data[:place] + text + data[place:])
        assert read_video(tmp_path / "a.png").num_frames == 3


@pytest.mark.parametrize("name", [b"iCCP", b"zTXt", b"iTXt"])
def test_compressed_bombs_are_refused(tmp_path: Path, name: bytes) -> None:
    head = b"a\0\0" if name != b"iTXt" else b"a\0\1\0\0\0"
    path = png_with(tmp_path / "a.png", (name, head + zlib.compress(bytes(100 * MIB))))
    assert path.stat().st_size < MIB
    message = one_line(read_picture, path)
    assert "expected profiles and texts of at most 64 MiB in a PNG, got more; save it without" in message


def test_many_texts_are_refused(tmp_path: Path) -> None:
    bomb = b"zTXt", b"a\0\0" + zlib.compress(bytes(40 * MIB))
    assert "at most 64 MiB" in one_line(read_picture, png_with(tmp_path / "a.png", bomb, bomb))


# Resolution and colour.


@pytest.mark.parametrize("first", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_resolution_stays(tmp_path: Path, first: str, dtype: Any) -> None:
    start = Picture(RGB.astype(dtype), dpi=(300.0, 150.0))
    write_picture(tmp_path / f"a{first}", start)
    for second in SUFFIXES:
        write_picture(tmp_path / f"b{second}", read_picture(tmp_path / f"a{first}"))
        dpi = read_picture(tmp_path / f"b{second}").dpi
        assert dpi == pytest.approx((300, 150), abs=0.02)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_the_resolution_turns_with_the_picture(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(RGB).save(tmp_path / f"a{suffix}", dpi=(300, 150), exif=exif)
    assert read_picture(tmp_path / f"a{suffix}").dpi == pytest.approx((150, 300), abs=0.02)


def test_other_units_and_nonsense(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[282], exif[283], exif[296] = 100.0, 50.0, 3
    Image.fromarray(RGB).save(tmp_path / "a.webp", exif=exif)
    assert read_picture(tmp_path / "a.webp").dpi == pytest.approx((254, 127))
    for chunk in (struct.pack(">IIB", 2, 1, 0), struct.pack(">IIB", 0, 0, 1)):  # an aspect; no size
        assert read_picture(png_with(tmp_path / "a.png", (b"pHYs", chunk))).dpi is None


SRGB_CHUNKS = (
    (b"gAMA", struct.pack(">I", 45455)),
    (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
)


@pytest.mark.parametrize(
    ("chunks", "names"),
    [
        ((), ""),
        (SRGB_CHUNKS, ""),
        (((b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45455))), ""),
        (((b"cICP", bytes([1, 13, 0, 1])),), ""),
        (((b"cICP", bytes([9, 16, 0, 1])), (b"cLLI", bytes(8))), "cLLI cICP"),
        (((b"gAMA", struct.pack(">I", 100000)),), "gAMA"),
        ((SRGB_CHUNKS[0], (b"cHRM", struct.pack(">8I", *range(8)))), "cHRM gAMA"),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_colours_mean_stays_in_a_png(
    tmp_path: Path, chunks: tuple[tuple[bytes, bytes], ...], names: str, dtype: Any
) -> None:
    path = png_with(tmp_path / "a.png", *chunks, pixels=RGB.astype(dtype))
    read = read_picture(path)
    assert dict(read.png_colour) == dict(chunks)
    write_picture(tmp_path / "b.png", read)
    assert read_picture(tmp_path / "b.png").png_colour == read.png_colour
    assert check_can_hold(Path("b.png"), read) == []
    for suffix in (".jpg", ".tif", ".webp"):
        (*_, note) = ["", *check_can_hold(Path(f"b{suffix}"), read)]
        lacks = f"{suffix} cannot hold the colour coding of the input ({names})"
        expected = f"b{suffix}: {lacks}: colours may look different; .png can"
        assert note == expected if names else "colours" not in note
    with_profile = replace(read, icc_profile=profile(200))
    assert not any("colours" in note for note in check_can_hold(Path("b.tif"), with_profile))


def test_what_a_format_reduces_is_noted(tmp_path: Path) -> None:
    deep = Picture(RGB.astype(np.uint16))
    assert [bool(check_can_hold(Path(f"b{suffix}"), deep)) for suffix in SUFFIXES] == [
        False,
        True,
        False,
        True,
    ]
    assert check_can_hold(Path("b.jpg"), deep) == [
        "b.jpg: .jpg holds 8 bits per channel, not the 16 of the input; .png or .tif does"
    ]
    grey = Image.fromarray(RGB[..., 0])
    grey.save(tmp_path / "a.png", icc_profile=profile(200, b"GRAY"))
    assert "its colour profile, which is one for grey" in read_picture(tmp_path / "a.png").notes[0]
    pages = [Image.fromarray(RGB)] * 2
    for name, how in (("a.tif", "TIFF"), ("a.jpg", "MPO")):
        pages[0].save(tmp_path / name, how, save_all=True, append_images=pages[1:])
        (note,) = read_picture(tmp_path / name).notes
        assert note.startswith(f"{tmp_path / name}: the output does not have its further p")


# What XMP says of the rest of the file.

CAMERA = "http://ns.google.com/photos/1.0/camera/"
CONTAINER = "http://ns.google.com/photos/1.0/container/"
GAIN_MAP = "http://ns.adobe.com/hdr-gain-map/1.0/"
LIST = (
    "<c:Directory><rdf:Seq><rdf:li rdf:parseType='Resource'>"
    "<c:Item i:Semantic='GainMap' i:Mime='image/jpeg'/></rdf:li></rdf:Seq></c:Directory>"
)


def packet(attributes: str = "", inside: str = "", **spaces: str) -> bytes:
    """XMP with a title and a sphere, as cameras write it."""
    names = " ".join(f"xmlns:{name}='{uri}'" for name, uri in spaces.items())
    return (
        "<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?><x:xmpmeta xmlns:x='adobe:ns:meta/'>"
        "<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><rdf:Description rdf:about='' "
        f"xmlns:dc='http://purl.org/dc/elements/1.1/' {names} "
        "xmlns:GPano='http://ns.google.com/photos/1.0/panorama/' "
        f"GPano:ProjectionType='equirectangular' {attributes}><dc:title>Über &amp; äh</dc:title>{inside}"
        "</rdf:Description></rdf:RDF></x:xmpmeta>\n   <?xpacket end='w'?>"
    ).encode()


@pytest.mark.parametrize(
    ("xmp", "parts"),
    [
        (packet("hdrgm:Version='1.0' hdrgm:GainMapMax='2'", hdrgm=GAIN_MAP), ["the gain map (HDR)"]),
        (
            packet("g:Version='1.0'", LIST, g=GAIN_MAP, c=CONTAINER, i=f"{CONTAINER}item/"),
            ["the gain map (HDR)"],
        ),
        (packet("", LIST, c=CONTAINER, i=f"{CONTAINER}item/"), ["further pictures or a video"]),
        (
            packet("GCamera:MotionPhoto='1' GCamera:MotionPhotoVersion='1'", GCamera=CAMERA),
            ["the video of the motion photo"],
        ),
        (
            packet(
                "",
                "<Cam:MicroVideo>1</Cam:MicroVideo><Cam:MicroVideoOffset>9</Cam:MicroVideoOffset>",
                Cam=CAMERA,
            ),
            ["the video of the motion photo"],
        ),
        (packet("GCamera:MotionPhoto='0'", GCamera=CAMERA), []),
        (
            packet("n:HasExtendedXMP='AB12'", n="http://ns.adobe.com/xmp/note/"),
            ["the second part of its XMP"],
        ),
        (
            packet("d:Data='AAAA' d:Format='RangeLinear'", d="http://ns.google.com/photos/1.0/depthmap/"),
            ["the depth map"],
        ),
    ],
)
def test_what_is_elsewhere_in_the_file_is_not_promised(tmp_path: Path, xmp: bytes, parts: list[str]) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(path, xmp=xmp)
    read = read_picture(path)
    assert read.notes == tuple(f"{path}: the output does not have {part}" for part in parts)
    kept = (read.xmp or b"").decode()
    for word in ("Version", "GainMapMax", "Directory", "MotionPhoto", "MicroVideo", "Extended", "Data"):
        assert word not in kept
    assert "Über &amp; äh" in kept
    assert kept.startswith("<?xpacket begin")
    assert kept.endswith("<?xpacket end='w'?>")
    assert read.is_full_sphere
    write_picture(tmp_path / "b.jpg", read)
    again = read_picture(tmp_path / "b.jpg")
    assert (again.xmp, again.notes) == (read.xmp, ())


def test_other_xmp_stays_as_it_is() -> None:
    for xmp in (packet(), packet("GCamera:BurstID='7'", GCamera=CAMERA), b"<x", b""):
        kept, parts = photo_xmp(xmp)
        assert parts == []
        assert (kept or b"").startswith(xmp[:30])
        assert b"GCamera:BurstID" not in xmp or b"BurstID" in (kept or b"")


def test_xmp_that_cannot_be_cut_is_left_out() -> None:
    broken = packet("g:Version='1'", g=GAIN_MAP)[:-60]
    bomb = b"<!DOCTYPE x [<!ENTITY a '" + b"a" * 99 + b"'>]>" + packet("g:Version='1'", g=GAIN_MAP)
    long = packet("g:Version='1'", "<a/>" * MIB, g=GAIN_MAP)
    for xmp in (broken, long):
        assert photo_xmp(xmp) == (None, ["its XMP, which is damaged or too long"])
    assert b"Version" not in (photo_xmp(bomb)[0] or b"").split(b"]>")[-1]
