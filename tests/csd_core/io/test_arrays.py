from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from csd_core.io.arrays import as_clip, as_image_tensor, as_mask_tensor, as_masks
from tests.csd_core.io.clips import folder, one_line

COUNT, HEIGHT, WIDTH = 4, 6, 9
FRAMES = np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), np.uint8)
TENSOR = torch.from_numpy(FRAMES).permute(0, 3, 1, 2)
IMAGE = FRAMES[0]
MASKS = FRAMES[..., 0]
ALL = slice(None)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.dstack([IMAGE, np.full((HEIGHT, WIDTH), 255, np.uint8)])),
        IMAGE,
        IMAGE.astype(np.float64) / 255,
        IMAGE.astype(np.uint16) * 257,
        TENSOR[0],
        TENSOR[:1].double() / 255,
    ],
    ids=["RGBA", "uint8", "float64", "uint16", "uint8 tensor", "batch of one"],
)
def test_images_of_all_types_agree(image: Any) -> None:
    tensor = as_image_tensor(image)
    assert tensor.dtype == torch.float32
    torch.testing.assert_close(tensor, TENSOR[:1] / 255)


def test_deep_and_real_pil_images() -> None:
    levels = MASKS[0].astype(np.uint16) * 257
    grey = torch.from_numpy(MASKS[0]) / 255
    torch.testing.assert_close(as_image_tensor(Image.fromarray(levels)), grey.expand(1, 3, HEIGHT, WIDTH))
    torch.testing.assert_close(as_mask_tensor(Image.fromarray(levels)), grey)
    for deep in (levels.astype(np.int32), grey.numpy()):
        for convert in (as_image_tensor, as_mask_tensor):
            assert "expected 8 or 16 bits per channel, got mode" in one_line(convert, Image.fromarray(deep))


def test_masks_of_all_types_agree() -> None:
    levels = MASKS[0]
    expected = torch.from_numpy(levels) / 255
    for mask in (levels, levels / 255, Image.fromarray(levels), torch.from_numpy(levels), expected):
        torch.testing.assert_close(as_mask_tensor(mask), expected)
    for mask in (levels > 99, torch.from_numpy(levels) > 99):
        assert torch.equal(as_mask_tensor(mask), (torch.from_numpy(levels) > 99).float())


FORMS: dict[str, Callable[[Path], Any]] = {
    "array": lambda _: FRAMES,
    "list of arrays": lambda _: list(FRAMES / 255),
    "PIL": lambda _: tuple(Image.fromarray(frame) for frame in FRAMES),
    "tensor": lambda _: TENSOR / 255,
    "list of tensors": lambda _: [frame[None] for frame in TENSOR],
    "folder": lambda path: folder(path / "in", FRAMES),
    "name": lambda path: str(folder(path / "in", FRAMES)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("part", [ALL, slice(1, None, 2)])
def test_videos_of_all_types_agree(form: str, part: slice, tmp_path: Path) -> None:
    clip = as_clip(FORMS[form](tmp_path), part)
    assert (clip.num_frames, clip.size) == (len(FRAMES[part]), (HEIGHT, WIDTH))
    for _ in range(2):  # from the beginning every time
        frames = list(clip.frames())
        assert all(frame.dtype == np.uint8 for frame in frames)
        np.testing.assert_array_equal(np.stack(frames), FRAMES[part])


@pytest.mark.parametrize(
    ("masks", "is_one"),
    [
        (MASKS, False),
        ([Image.fromarray(mask) for mask in MASKS], False),
        (tuple(torch.from_numpy(MASKS)), False),
        (MASKS[0], True),
        (Image.fromarray(MASKS[0]), True),
        (torch.from_numpy(MASKS[0]), True),
    ],
)
def test_each_frame_has_a_mask_or_all_have_one(masks: Any, is_one: bool) -> None:
    made = as_masks(masks, as_clip(FRAMES, ALL))
    assert all(mask.dtype == np.float32 for mask in made)
    np.testing.assert_allclose(made, (MASKS[[0] * COUNT] if is_one else MASKS) / 255, atol=1e-6)


@pytest.mark.parametrize(
    "image",
    [
        IMAGE[..., :2],
        MASKS[0],
        IMAGE.astype(np.float32),
        IMAGE.astype(np.int64),
        IMAGE[:0],
        np.full((HEIGHT, WIDTH, 3), np.nan),
        TENSOR[:2],
        TENSOR[0].permute(1, 2, 0),
        torch.full((3, HEIGHT, WIDTH), 1.1),
        "in.png",
    ],
)
def test_what_is_no_image_is_one_line(image: Any) -> None:
    assert one_line(as_image_tensor, image).startswith("image")
    assert one_line(as_clip, [image], ALL).startswith(("image", "video"))


@pytest.mark.parametrize(
    "mask", [np.full((HEIGHT, WIDTH), 2.0), np.ones((HEIGHT, WIDTH, 1)), np.ones((0, 0)), [[1]], "mask.png"]
)
def test_what_is_no_mask_is_one_line(mask: Any) -> None:
    assert one_line(as_mask_tensor, mask).startswith("mask")


@pytest.mark.parametrize(
    ("video", "frames", "name"),
    [
        ([], ALL, "video"),
        (3, ALL, "video"),
        (Image.fromarray(IMAGE), ALL, "video"),
        (iter(FRAMES), ALL, "video"),
        ([IMAGE, IMAGE[:3]], ALL, "video"),
        ("/no/such/video.mp4", ALL, "/no/such/video.mp4"),
        (FRAMES, slice(9, None), "video"),
        (TENSOR, slice(None, None, -1), "frames"),
        (FRAMES, slice(None, None, 0), "frames"),
    ],
)
def test_what_is_no_video_is_one_line(video: Any, frames: slice, name: str) -> None:
    assert one_line(as_clip, video, frames).startswith(name)


@pytest.mark.parametrize(
    "masks",
    [
        np.ones((HEIGHT, WIDTH - 1)),
        np.zeros((HEIGHT, WIDTH)),
        np.ones((COUNT - 1, HEIGHT, WIDTH)),
        [],
        "mask.png",
        np.ones(WIDTH),
        torch.ones(()),
    ],
)
def test_what_are_no_masks_of_a_video_is_one_line(masks: Any) -> None:
    assert one_line(as_masks, masks, as_clip(FRAMES, ALL)).startswith("mask")
