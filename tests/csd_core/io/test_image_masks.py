"""Masks: brightness or opacity, and the noise of lossy files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from csd_core.errors import UserError
from csd_core.io.images import read_mask, read_picture
from tests.csd_core.io.test_images import noise, photo_exif


def mask_of(path: Path, pixels: np.ndarray, **settings: Any) -> np.ndarray:
    """Through a file."""
    Image.fromarray(pixels).save(path, **settings)
    return read_mask(path, size=(9, 7))


def unit(levels: np.ndarray) -> np.ndarray:
    return levels.astype(np.float32) / np.float32(255)


def test_a_mask_is_the_brightness(tmp_path: Path) -> None:
    grey, colours = noise(9, 7), noise(9, 7, 3)
    mask = mask_of(tmp_path / "a.png", grey)
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(mask, unit(grey))
    luma = colours @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(mask_of(tmp_path / "a.png", colours), luma, atol=0.5 / 255 + 1e-6)
    assert mask_of(tmp_path / "a.png", noise(9, 7, dtype=np.uint16)).max() == pytest.approx(1, abs=0.1)
    assert mask_of(tmp_path / "a.png", np.full((9, 7), 255, np.uint8)).min() == 1
    lying = noise(7, 9)
    mask = mask_of(tmp_path / "a.png", lying, exif=photo_exif(6))
    np.testing.assert_array_equal(mask, unit(np.rot90(lying, -1)))


def test_a_mask_of_one_colour_is_its_opacity(tmp_path: Path) -> None:
    alpha = noise(9, 7)
    alpha[0, 0] = 0
    for colour in ((0, 0, 0), (200, 10, 10)):
        pixels = np.dstack([np.full((9, 7, 3), colour, np.uint8), alpha])
        pixels[0, 0, :3] = 90  # behind nothing
        np.testing.assert_array_equal(mask_of(tmp_path / "a.png", pixels), unit(alpha))
    opaque = np.dstack([np.full((9, 7, 3), 51, np.uint8), np.full((9, 7), 255, np.uint8)])
    assert mask_of(tmp_path / "a.png", opaque).max() == np.float32(0.2)
    colours = np.dstack([alpha[..., None].repeat(3, axis=2), noise(9, 7, seed=3) | 1])
    np.testing.assert_array_equal(mask_of(tmp_path / "a.png", colours), unit(alpha))


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif"])
@pytest.mark.parametrize("quality", [85, 95])
def test_the_noise_of_a_lossy_mask_is_cleared(tmp_path: Path, suffix: str, quality: int) -> None:
    drawn = np.zeros((96, 128), np.uint8)
    drawn[30:61, 40:90], drawn[5:9, 3:120] = 255, 255
    path, size = tmp_path / f"a{suffix}", (96, 128)
    Image.fromarray(drawn).save(path, quality=quality)
    assert suffix == ".avif" or (read_picture(path).pixels[..., 0] != drawn).any()  # there is noise
    with pytest.warns(UserWarning, match="levels up to 20 of 255 count as black, from 235 as white"):
        mask = read_mask(path, size=size)
    assert (mask != drawn / 255).mean() <= (1e-3 if quality == 85 else 0)
    grey = np.linspace(0, 255, 128).astype(np.uint8)[None].repeat(96, axis=0)
    Image.fromarray(grey).save(path, quality=95)
    with pytest.warns(UserWarning, match="lossy"):
        soft = read_mask(path, size=size)[48]
    assert np.abs(soft - np.clip((grey[48] - 20.0) / 215, 0, 1)).max() < 4 / 255
    assert np.abs(np.diff(soft)).max() < 6 / 255  # without a jump at either end


def test_the_noise_of_an_exact_mask_is_kept(tmp_path: Path) -> None:
    grey = np.arange(63, dtype=np.uint8).reshape(9, 7)
    for name, how in (("a.png", {}), ("a.tif", {}), ("a.bmp", {}), ("a.webp", {"lossless": True})):
        np.testing.assert_array_equal(mask_of(tmp_path / name, grey, **how), unit(grey))
    with pytest.warns(UserWarning, match="lossy"), pytest.raises(UserError, match="empty"):
        mask_of(tmp_path / "a.jpg", np.full((9, 7), 12, np.uint8))


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected 7x9 as the image, got 9x7"):
        mask_of(tmp_path / "a.png", noise(7, 9))
    clear = np.dstack([noise(9, 7, 3), np.zeros((9, 7), np.uint8)])
    for empty in (np.zeros((9, 7), np.uint8), clear):
        with pytest.raises(UserError, match="empty"):
            mask_of(tmp_path / "a.png", empty)
    with pytest.raises(UserError, match="more than the limit of 5"):
        read_mask(tmp_path / "a.png", size=(9, 7), max_pixels=5)
