"""Training sees the photos and masks as csd_core.io reads them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from csd_core.errors import UserError
from csd_core.io.images import read_picture
from csd_nerf.csd_dataset import CaptureDataset
from csd_nerf.nerfstudio_compat.captures import reading_captures
from tests.csd_nerf.conftest import add_masks, change_transforms, left_half, write_capture

SIZE = (16, 12)
Save = Callable[[Image.Image, Path], Any]


def dataset(data: Path, scale: float = 1.0) -> CaptureDataset:
    with reading_captures():
        parser = NerfstudioDataParserConfig(data=data, eval_mode="all").setup()
        return CaptureDataset(parser.get_dataparser_outputs(split="train"), scale)


def capture(folder: Path, save: Save, suffix: str, size: tuple[int, int] = SIZE) -> Path:
    """A capture whose photos are saved in another way."""
    write_capture(folder, [size] * 3)
    for path in sorted((folder / "images").glob("*.png")):
        with Image.open(path) as image:
            image.load()
        path.unlink()
        save(image, path.with_suffix(suffix))

    def rename(content: dict) -> None:
        for frame in content["frames"]:
            frame["file_path"] = str(Path(frame["file_path"]).with_suffix(suffix))

    change_transforms(folder, rename)
    return folder


def as_mode(mode: str) -> Save:
    return lambda image, path: image.convert(mode).save(path)


def sixteen(image: Image.Image, path: Path) -> None:
    grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(path)


def tiff(channels: int, dtype: type, **how) -> Save:
    def save(image: Image.Image, path: Path) -> None:
        pixels = np.asarray(image.convert("RGBA")).astype(dtype)[..., :channels]
        tifffile.imwrite(path, pixels * (257 if dtype is np.uint16 else 1), photometric="rgb", **how)

    return save


KINDS: dict[str, tuple[Save, str]] = {
    **{mode: (as_mode(mode), ".png") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")},
    "palette": (lambda image, path: image.quantize(32).save(path), ".png"),
    "CMYK": (as_mode("CMYK"), ".jpg"),
    "CMYK tiff": (as_mode("CMYK"), ".tif"),
    "I;16": (sixteen, ".png"),
    "I;16 tiff": (sixteen, ".tif"),
    "RGB 16 tiff": (tiff(3, np.uint16), ".tif"),
    "RGBA 16 tiff": (tiff(4, np.uint16, extrasamples=["unassalpha"]), ".tif"),
    "webp": (as_mode("RGB"), ".webp"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_training_sees_what_io_reads(tmp_path: Path, kind: str) -> None:
    data = dataset(capture(tmp_path / "scene", *KINDS[kind]))
    for index, path in enumerate(data.image_filenames):
        picture = read_picture(path)
        wanted = picture.to_tensor().permute(1, 2, 0)
        seen = data.get_data(index)["image"]
        assert seen.dtype == torch.float32
        assert (seen[..., :3] - wanted).abs().max() <= 0.5 / 255 + 1e-6
        assert seen.shape[2] == (3 if picture.alpha is None else 4)
        if picture.alpha is not None:
            assert np.abs(seen[..., 3].numpy() * 255 - picture.alpha / (picture.alpha.max() / 255)).max() <= 1
        # photos are smooth colours: the reader above is not black or white all over by mistake
        assert wanted.std() > 0.1


def test_where_one_photo_is_transparent_all_have_four_channels(tmp_path: Path) -> None:
    def save(image: Image.Image, path: Path) -> None:
        if path.stem == "001":
            image.putalpha(128)
        image.save(path)

    data = dataset(capture(tmp_path / "scene", save, ".png"))
    assert [data.get_data(k)["image"][0, 0, 3].item() for k in range(3)] == [1, pytest.approx(128 / 255), 1]


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
@pytest.mark.parametrize("calibrated_on", ["stored", "upright"])
def test_a_turned_photo_is_as_its_camera_has_it(tmp_path: Path, turn: int, calibrated_on: str) -> None:
    """Poses come from stored pixels, unless the size of the camera is that of the upright photo alone."""

    def save(image: Image.Image, path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = turn
        image.save(path, exif=exif)

    folder = capture(tmp_path / "scene", save, ".png")
    sideways = turn in (6, 8) and calibrated_on == "upright"
    if sideways:
        for frame in ("w", "h"):
            value = SIZE[1] if frame == "w" else SIZE[0]
            change_transforms(folder, lambda c, k=frame, v=value: [f.update({k: v}) for f in c["frames"]])
    seen = dataset(folder).get_numpy_image(1)
    with Image.open(folder / "images" / "001.png") as image:
        stored = np.asarray(image)
    upright = np.rot90(stored, -1 if turn == 6 else 1)
    assert np.array_equal(seen, upright if sideways else stored)


def test_photos_and_masks_are_scaled_as_by_nerfstudio(tmp_path: Path) -> None:
    from nerfstudio.data.datasets.base_dataset import InputDataset

    folder = write_capture(tmp_path / "scene", [(33, 21)] * 3, channels=4)
    add_masks(folder, left_half)
    ours = dataset(folder, 0.5)
    theirs = InputDataset(ours._dataparser_outputs, 0.5)
    for index in range(3):
        seen, wanted = ours.get_data(index), theirs.get_data(index)
        assert torch.equal(seen["image"], wanted["image"])
        assert torch.equal(seen["mask"], wanted["mask"])


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "0 and 1", "noise"])
def test_masks_of_every_kind_mean_the_same(tmp_path: Path, mode: str) -> None:
    def mask(_: int, size: tuple[int, int]) -> Image.Image:
        plain = left_half(0, size)
        if mode == "0 and 1":
            return Image.fromarray(np.asarray(plain) // 255)
        return plain if mode == "noise" else plain.convert(mode)

    folder = write_capture(tmp_path / "scene", [(32, 16)] * 3)
    suffix = {"CMYK": ".tif", "noise": ".jpg"}.get(mode, ".png")
    add_masks(folder, mask, suffix)
    found = dataset(folder).get_data(0)["mask"]
    assert (found.shape, found.dtype) == ((16, 32, 1), torch.bool)
    assert found[:, :15].all()
    assert not found[:, 17:].any()


def test_a_mask_colour_fills_what_is_masked(tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "scene", [SIZE] * 3)
    add_masks(folder, left_half)
    with reading_captures():
        config = NerfstudioDataParserConfig(data=folder, eval_mode="all", mask_color=(0.0, 1.0, 0.0))
        data = CaptureDataset(config.setup().get_dataparser_outputs(split="train"))
    image, mask = (data.get_data(0)[key] for key in ("image", "mask"))
    assert torch.equal(image[~mask[..., 0]], torch.tensor([0.0, 1.0, 0.0]).expand(SIZE[0] * SIZE[1] // 2, 3))
    assert image[mask[..., 0]].std() > 0.1


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    real = np.random.default_rng(0).random((SIZE[1], SIZE[0], 3), np.float32)
    folder = capture(
        tmp_path / "scene", lambda _, path: tifffile.imwrite(path, real, photometric="rgb"), ".tif"
    )
    with pytest.raises(UserError, match=r"000.tif: expected 8 or 16 bits per channel, got 32 bits of"):
        dataset(folder).get_data(0)
