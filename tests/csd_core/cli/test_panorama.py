"""What csd-edit-panorama alone does: any image, regions, spheres, its baselines. The rest is in test_both."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from torch import Tensor

from csd_core.canvas.panorama import Panorama
from csd_core.io.images import read_picture
from tests.csd_core.cli.commands import SIZE, PanoramaCommand, noise, soft_mask

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


# Any image, in and out.


@pytest.mark.parametrize("size", [(20, 27), (27, 20), (1, 1)])
def test_any_ring_comes_back_in_its_size(panorama: PanoramaCommand, size: tuple[int, int]) -> None:
    source = panorama.use(noise(*size, 3))
    assert panorama.edited("--wrap", steps=2).shape == source.shape
    assert "note" not in panorama.err


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif"])
def test_other_formats_are_written(panorama: PanoramaCommand, suffix: str) -> None:
    panorama.output = panorama.folder / f"edited{suffix}"
    assert panorama.edited(steps=1).shape == (*SIZE, 3)


def test_a_turned_photo_is_edited_upright_and_keeps_its_metadata(panorama: PanoramaCommand) -> None:
    exif, mask = Image.Exif(), np.zeros((61, 45), np.uint8)
    exif[271], exif[274], mask[:8] = "Maker", 6, 255  # 6: to be turned by 90 degrees clockwise
    stored = panorama.use(noise(*SIZE, 3), exif=exif, icc_profile=SRGB)
    edited = panorama.edited(*panorama.mask(mask), steps=2)
    upright = np.rot90(stored, -1)
    np.testing.assert_array_equal(edited[8:], upright[8:])
    assert (edited[:8] != upright[:8]).any()
    written = read_picture(panorama.output)
    assert written.icc_profile == SRGB
    assert written.exif is not None
    assert b"Maker" in written.exif


def test_transparency_stays(panorama: PanoramaCommand) -> None:
    source = panorama.use(noise(*SIZE, 4))
    panorama.edited(steps=1)
    alpha = read_picture(panorama.output).alpha
    assert alpha is not None
    np.testing.assert_array_equal(alpha, source[..., 3])


def test_16_bits_stay_16_bits(panorama: PanoramaCommand) -> None:
    source, mask = panorama.use(noise(*SIZE, 3, dtype=np.uint16)), soft_mask()
    edited = panorama.edited(*panorama.mask(mask))
    assert edited.dtype == np.uint16
    np.testing.assert_array_equal(edited[mask == 0], source[mask == 0])
    assert len(np.unique(edited[mask == 255])) > 256


def test_a_grey_mask_mixes(panorama: PanoramaCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = np.full(SIZE, 64, np.uint8)
    seen: list[Tensor] = []
    decode = Panorama.decode

    def seeing(self: Panorama, canvas: Tensor) -> Tensor:
        seen.append(decode(self, canvas))
        return seen[-1]

    monkeypatch.setattr(Panorama, "decode", seeing)
    edited, source = panorama.edited(*panorama.mask(grey)), panorama.source / 255
    decoded = seen[-1][0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(edited / 255, source + 64 / 255 * (decoded - source), atol=0.51 / 255)


@pytest.mark.parametrize("option", [("--stride", 8), ("--wrap",)])
def test_the_layout_changes_the_result(panorama: PanoramaCommand, option: Sequence[object]) -> None:
    assert (panorama.edited(steps=2) != panorama.edited(*option, steps=2)).any()


def test_a_preview_keeps_what_the_mask_keeps(panorama: PanoramaCommand) -> None:
    option, mask = panorama.mask(soft_mask())
    panorama.stop("--preview-every", 1, option, mask)
    black, preview = soft_mask() == 0, panorama.read(panorama.beside("preview"))
    np.testing.assert_array_equal(preview[black], panorama.source[black])


def test_a_sphere_without_wrap_gets_a_note(panorama: PanoramaCommand) -> None:
    gpano = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d GPano:ProjectionType="equirectangular"/></x:xmpmeta>'
    panorama.use(noise(32, 64, 3), "in.webp", xmp=gpano)
    panorama.edited(steps=1)
    assert "note: this is a 360-degree image; with --wrap" in panorama.err
    panorama.edited("--wrap", steps=1)
    assert "note" not in panorama.err


def test_a_mask_and_a_jpeg_get_a_note(panorama: PanoramaCommand) -> None:
    panorama.output = panorama.folder / "edited.jpg"
    panorama.edited(*panorama.mask(soft_mask()), steps=1)
    assert "note: JPEG is lossy" in panorama.err


GAIN_MAP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><d xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"
hdrgm:Version="1.0"/></x:xmpmeta>"""


def test_what_the_output_does_not_keep_gets_a_note(panorama: PanoramaCommand) -> None:
    panorama.use(noise(*SIZE, 3), "in.jpg", xmp=GAIN_MAP, dpi=(300, 300))
    panorama.edited(steps=1)
    notes = [line for line in panorama.err.splitlines() if line.startswith("note: ")]
    assert notes == [f"note: {panorama.input}: the output does not have the gain map (HDR)"]
    written = read_picture(panorama.output)
    assert b"hdrgm:Version" not in (written.xmp or b"")
    assert written.dpi == pytest.approx((300, 300), abs=0.02)
    panorama.use(noise(*SIZE, 3, dtype=np.uint16))
    panorama.output = panorama.folder / "edited.jpg"
    panorama.edited(steps=1)
    assert f"note: {panorama.output}: .jpg holds 8 bits per channel, not the 16" in panorama.err


@pytest.mark.filterwarnings("default")
def test_black_of_a_jpeg_mask_stays(panorama: PanoramaCommand) -> None:
    mask, drawn = panorama.folder / "mask.jpg", np.zeros(SIZE, np.uint8)
    drawn[10:30, 20:40] = 255
    Image.fromarray(drawn).save(mask, quality=90)
    edited = panorama.edited("--mask", mask)
    np.testing.assert_array_equal(edited[drawn == 0], panorama.source[drawn == 0])
    assert (edited[drawn == 255] != panorama.source[drawn == 255]).mean() > 0.9
    assert panorama.err.count(f"note: {mask} is lossy, which adds noise to black and white") == 1


def test_a_folder_in_the_place_of_an_unfinished_edit_is_one_line(panorama: PanoramaCommand) -> None:
    panorama.beside("checkpoint").mkdir(parents=True)
    assert "expected a file to write, got a folder" in panorama.refused()


def test_names_that_are_too_long_are_one_line(panorama: PanoramaCommand) -> None:
    panorama.output = panorama.folder / "out" / f"{'a' * 240}.png"
    assert "a.png.unfinished.safetensors: expected a name that its folder takes" in panorama.refused()
    panorama.output = panorama.folder / f"{'a' * 240}.png" / "b.png"
    panorama.input = panorama.folder / f"{'a' * 300}.png"
    assert f"{panorama.input}: expected the path of a file, got one that is too long" in panorama.refused()


# The baselines.


@pytest.mark.parametrize(
    ("method", "windows"), [("ip2p-resize", 1), ("ip2p-patch", 4), ("ip2p-overlap", 2 * 3)]
)
def test_baselines_count_their_evaluations(panorama: PanoramaCommand, method: str, windows: int) -> None:
    edited = panorama.edited("--method", method)
    manifest = panorama.manifest()
    assert manifest["evaluations"] == 3 * windows * 3
    assert manifest["sampling"]["num_inference_steps"] == 3
    assert panorama.written() == panorama.finished
    assert (edited != panorama.edited("--method", method, "--seed", 1)).any()


@pytest.mark.parametrize("option", [("--regions", "r.json"), ("--wrap",)])
def test_baselines_know_neither_regions_nor_wrap(panorama: PanoramaCommand, option: Sequence[object]) -> None:
    name = str(option[0]).removeprefix("--")
    refused = panorama.refused("--method", "ip2p-patch", *option)
    assert f"{name}: expected a method that optimises, such as csd, got ip2p-patch" in refused


# Regions.


def regions(panorama: PanoramaCommand, *entries: dict[str, Any]) -> tuple[str, Path]:
    path = panorama.folder / "regions.json"
    path.write_text(json.dumps(entries))
    return "--regions", path


def test_without_an_instruction_for_the_rest_it_stays(panorama: PanoramaCommand) -> None:
    source = panorama.source
    boxes = {"prompt": "red", "box": [4, 5, 30, 20]}, {"prompt": "blue", "strip": [40, 50]}
    edited = panorama.edited(*regions(panorama, *boxes), prompt=None)
    inside = np.zeros(SIZE, bool)
    inside[5:20, 4:30] = inside[:, 40:50] = True
    np.testing.assert_array_equal(edited[~inside], source[~inside])
    assert (edited[inside] != source[inside]).mean() > 0.9
    rest = panorama.edited(*regions(panorama, *boxes))
    assert (rest[~inside] != source[~inside]).mean() > 0.9


def test_regions_with_one_instruction_are_one_edit(panorama: PanoramaCommand) -> None:
    whole = panorama.edited().astype(int)
    halves = {"prompt": "make it red", "strip": [0, 20]}, {"prompt": "make it red", "strip": [20, 61]}
    same = panorama.edited(*regions(panorama, *halves), prompt=None)
    assert np.abs(same - whole).max() <= 1
    assert (panorama.edited(*regions(panorama, halves[0], {**halves[1], "prompt": "blue"})) != whole).any()


def test_a_region_around_the_seam(panorama: PanoramaCommand) -> None:
    source = panorama.use(noise(32, 64, 3))
    edited = panorama.edited(*regions(panorama, {"prompt": "a", "strip": [56, 8]}), "--wrap", prompt=None)
    np.testing.assert_array_equal(edited[:, 8:56], source[:, 8:56])
    assert (edited[:, :8] != source[:, :8]).mean() > 0.9
    assert (edited[:, 56:] != source[:, 56:]).mean() > 0.9


@pytest.mark.parametrize("changed", ["regions.json", "area.png"])
def test_resuming_with_other_regions_is_refused(panorama: PanoramaCommand, changed: str) -> None:
    panorama.mask(np.full(SIZE, 255, np.uint8), "area.png")
    options = regions(panorama, {"prompt": "red", "mask": "area.png"})
    panorama.stop(*options)
    if changed == "area.png":
        panorama.mask(soft_mask(), changed)
    else:
        regions(panorama, {"prompt": "blue", "mask": "area.png"})
    assert f"contents of {panorama.folder / changed} " in panorama.refused("--resume", *options)


def test_bad_regions_are_one_line(panorama: PanoramaCommand) -> None:
    assert "inside the image" in panorama.refused(*regions(panorama, {"prompt": "a", "strip": [30, 99]}))
    assert "none.png" in panorama.refused(*regions(panorama, {"prompt": "a", "mask": "none.png"}))
    options = (*regions(panorama, {"prompt": "a", "strip": [0, 9]}), *panorama.mask(soft_mask()))
    assert "mask" in panorama.refused(*options, prompt=None)  # they do not meet
    option, path = regions(panorama)
    assert "list" in panorama.refused(option, path)
    assert "the input itself" in panorama.refused(option, path, "--output", path)


@pytest.mark.parametrize("stride", [0, 9])
def test_a_stride_out_of_range_is_one_line(panorama: PanoramaCommand, stride: int) -> None:
    assert "stride: expected 1 " in panorama.refused("--stride", stride)
