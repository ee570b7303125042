from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from csd_core.io.video_masks import open_masks
from csd_core.io.videos import Video, read_video
from tests.csd_core.io.clips import clip, folder, levels, one_line, pictures


def lossy_masks(path: Path, video: Video) -> Iterable[np.ndarray]:
    """Opened with the warning that noise is cleared."""
    with pytest.warns(UserWarning, match="is lossy, which adds noise"):
        return open_masks(path, video)


def test_a_still_mask_repeats(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "a.mp4"), frames=slice(3, 8))
    for name in ("mask.png", "mask.gif", "mask.webp"):
        Image.fromarray(levels()[0]).save(tmp_path / name, lossless=True)
        masks = open_masks(tmp_path / name, video)
        for _ in range(2):
            np.testing.assert_array_equal(list(masks), [levels()[0][..., 0] / np.float32(255)] * 5)
        assert next(iter(masks)).dtype == np.float32


def test_moving_masks(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "a.mp4"), frames=slice(3, 9, 2))
    expected = np.array([mask[..., 0] for mask in levels()[3:9:2]]) / np.float32(255)
    whole = [
        folder(tmp_path / "whole", levels()),
        clip(tmp_path / "whole.mkv", levels(), codec="ffv1", pixels="bgr0"),
    ]
    part = [folder(tmp_path / "part", levels()[3:9:2]), clip(tmp_path / "part.mp4", levels()[3:9:2])]
    for path in (*whole, *part):
        masks = lossy_masks(path, video) if path.suffix == ".mp4" else open_masks(path, video)
        for found in (np.array(list(masks)), np.array(list(masks))):
            assert found.dtype == np.float32
            if path.suffix != ".mp4":
                np.testing.assert_array_equal(found, expected)
            else:
                assert np.abs(found - expected).mean() < 0.02
                assert (found[:, :, 40:] == 0).all()  # free of noise
                assert (found <= 1).all()


def test_masks_of_a_lossy_video_are_cleared_of_noise(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "a.mp4", pictures(2)))
    noisy = [np.where(mask == 255, 240, 15).astype(np.uint8) for mask in levels(2)]
    noisy[0][:4], noisy[0][4:8] = 127, 128
    path = clip(tmp_path / "b.mp4", noisy, codec="libx264rgb", pixels="rgb24", options={"crf": "0"})
    first, second = lossy_masks(path, video)
    np.testing.assert_allclose(first[[0, 4], 0], [0.5 - 0.5 / 215, 0.5 + 0.5 / 215], atol=1e-6)
    np.testing.assert_array_equal(second, levels(2)[1][..., 0] / 255)
    exact = clip(tmp_path / "c.mkv", noisy, codec="ffv1", pixels="bgr0")
    assert next(iter(open_masks(exact, video))).max() == np.float32(240) / np.float32(255)


def test_masks_in_a_folder_of_jpegs_are_cleared_of_noise(tmp_path: Path) -> None:
    video, masks = read_video(clip(tmp_path / "a.mp4", pictures(2))), tmp_path / "masks"
    masks.mkdir()
    for k, mask in enumerate(levels(2)):
        Image.fromarray(mask).save(masks / f"{k}.jpg", quality=85, subsampling=0)
    for found, mask in zip(lossy_masks(masks, video), levels(2), strict=True):
        np.testing.assert_array_equal(found, mask[..., 0] / 255)


def test_a_mask_of_one_frame_may_be_black(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "a.mp4", pictures(3)))
    path = folder(tmp_path / "masks", [np.zeros((32, 48, 3), np.uint8), *levels(2)])
    assert not next(iter(open_masks(path, video))).any()
    clear = np.dstack([np.full((32, 48, 3), 255, np.uint8), levels(1)[0][..., 0]])
    Image.fromarray(clear).save(path / "f0.png")
    np.testing.assert_array_equal(next(iter(open_masks(path, video))), levels(1)[0][..., 0] / 255)


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    video, no_masks = read_video(clip(tmp_path / "a.mp4"), frames=slice(0, 4)), partial(one_line, open_masks)
    path = clip(tmp_path / "b.mp4", pictures(12, 16, 16))
    assert "expected 48x32 as the video, got 16x16" in no_masks(path, video)
    Image.fromarray(levels()[0][:20]).save(tmp_path / "c.png")
    assert "expected 48x32" in no_masks(tmp_path / "c.png", video)
    for count in (5, 13):
        message = no_masks(folder(tmp_path / f"masks{count}", levels(count)), video)
        assert f"12 masks, one for each frame of the video, or 4 for those selected, got {count}" in message
    path = folder(tmp_path / "black", [np.zeros((32, 48, 3), np.uint8)] * 4)
    assert "white where to edit" in no_masks(path, video)
    assert "no such file" in no_masks(tmp_path / "none.png", video)
    assert "--max-pixels" in no_masks(path, video, max_pixels=9)
