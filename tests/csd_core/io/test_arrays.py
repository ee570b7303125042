from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from csd_core.errors import UserError
from csd_core.io.arrays import as_clip, as_image_tensor, as_mask_tensor, as_masks

COUNT, HEIGHT, WIDTH = 4, 6, 9
FRAMES = np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), np.uint8)
TENSOR = torch.from_numpy(FRAMES).permute(0, 3, 1, 2)
IMAGE = FRAMES[0]
MASKS = FRAMES[..., 0]


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(IMAGE),
        Image.fromarray(np.dstack([IMAGE, np.full((HEIGHT, WIDTH), 255, np.uint8)])),
        IMAGE,
        IMAGE.astype(np.float64) / 255,
        IMAGE.astype(np.uint16) * 257,
        np.asfortranarray(IMAGE),
        TENSOR[0],
        TENSOR[0] / 255,
        TENSOR[:1].double() / 255,
    ],
    ids=["PIL", "RGBA", "uint8", "float64", "uint16", "Fortran", "uint8 tensor", "tensor", "batch of one"],
)
def test_images_of_all_types_agree(image: Any) -> None:
    tensor = as_image_tensor(image)
    assert tensor.dtype == torch.float32
    torch.testing.assert_close(tensor, TENSOR[:1] / 255)


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_grey_and_palette_are_images_too(mode: str) -> None:
    assert as_image_tensor(Image.fromarray(IMAGE).convert(mode)).shape == (1, 3, HEIGHT, WIDTH)


def test_masks_of_all_types_agree() -> None:
    levels = MASKS[0]
    expected = torch.from_numpy(levels) / 255
    for mask in (levels, levels / 255, Image.fromarray(levels), torch.from_numpy(levels), expected):
        torch.testing.assert_close(as_mask_tensor(mask), expected)
    for mask in (levels > 99, torch.from_numpy(levels) > 99):
        assert torch.equal(as_mask_tensor(mask), (torch.from_numpy(levels) > 99).float())


def folder(path: Path) -> Path:
    for k, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(path / f"{k}.png")
    return path


FORMS: dict[str, Callable[[Path], Any]] = {
    "array": lambda _: FRAMES,
    "list of arrays": lambda _: list(FRAMES / 255),
    "PIL": lambda _: tuple(Image.fromarray(frame) for frame in FRAMES),
    "tensor": lambda _: TENSOR / 255,
    "list of tensors": lambda _: [frame[None] for frame in TENSOR],
    "folder": folder,
    "name": lambda path: str(folder(path)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("part", [slice(None), slice(1, None, 2)])
def test_videos_of_all_types_agree(form: str, part: slice, tmp_path: Path) -> None:
    clip = as_clip(FORMS[form](tmp_path), part)
    assert (clip.num_frames, clip.size) == (len(FRAMES[part]), (HEIGHT, WIDTH))
    for _ in range(2):  # from the beginning every time
        frames = list(clip.frames())
        assert all(frame.dtype == np.uint8 for frame in frames)
        np.testing.assert_array_equal(np.stack(frames), FRAMES[part])


@pytest.mark.parametrize(
    "masks",
    [MASKS, list(MASKS / 255), [Image.fromarray(mask) for mask in MASKS], tuple(torch.from_numpy(MASKS))],
    ids=["array", "list of floats", "PIL", "tuple of tensors"],
)
def test_masks_of_a_video_of_all_types_agree(masks: Any) -> None:
    made = as_masks(masks, as_clip(FRAMES, slice(None)))
    assert all(mask.dtype == np.float32 for mask in made)
    np.testing.assert_allclose(np.stack(made), MASKS / 255, atol=1e-6)


@pytest.mark.parametrize("kind", [np.asarray, Image.fromarray, torch.from_numpy])
def test_one_mask_is_for_all_frames(kind: Callable[[np.ndarray], Any]) -> None:
    made = as_masks(kind(MASKS[0]), as_clip(FRAMES, slice(None)))
    np.testing.assert_allclose(np.stack(made), np.stack([MASKS[0]] * COUNT) / 255, atol=1e-6)


def refused(message: str, read: Callable[[], Any]) -> None:
    with pytest.raises(UserError, match=rf"^{message}.*: expected ") as raised:
        read()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "image",
    [
        IMAGE[..., :2],
        MASKS[0],
        IMAGE[None],
        IMAGE.astype(np.float32),
        IMAGE.astype(np.int64),
        IMAGE[:0],
        np.full((HEIGHT, WIDTH, 3), np.nan),
        TENSOR[:2],
        TENSOR[0].permute(1, 2, 0),
        TENSOR[0, 0],
        torch.full((3, HEIGHT, WIDTH), 1.1),
        "in.png",
    ],
)
def test_what_is_no_image_is_one_line(image: Any) -> None:
    refused("image", lambda: as_image_tensor(image))
    refused("(image|video)", lambda: as_clip([image], slice(None)))


@pytest.mark.parametrize(
    "mask", [np.full((HEIGHT, WIDTH), 2.0), np.ones((HEIGHT, WIDTH, 1)), np.ones((0, 0)), [[1]], "mask.png"]
)
def test_what_is_no_mask_is_one_line(mask: Any) -> None:
    refused("mask", lambda: as_mask_tensor(mask))


@pytest.mark.parametrize(
    ("video", "frames", "name"),
    [
        (FRAMES[:0], slice(None), "video"),
        ([], slice(None), "video"),
        (3, slice(None), "video"),
        ({}, slice(None), "video"),
        (Image.fromarray(IMAGE), slice(None), "video"),
        (iter(FRAMES), slice(None), "video"),
        ([IMAGE, IMAGE[:3]], slice(None), "video"),
        ("/no/such/video.mp4", slice(None), "/no/such/video.mp4"),
        (FRAMES, slice(9, None), "video"),
        (FRAMES, slice(None, None, -1), "frames"),
        (TENSOR, slice(None, None, -1), "frames"),
        (FRAMES, slice(None, None, 0), "frames"),
    ],
)
def test_what_is_no_video_is_one_line(video: Any, frames: slice, name: str) -> None:
    refused(name, lambda: as_clip(video, frames))


@pytest.mark.parametrize(
    "masks",
    [
        np.ones((HEIGHT, WIDTH - 1)),
        np.zeros((HEIGHT, WIDTH)),
        np.ones((COUNT - 1, HEIGHT, WIDTH)),
        [np.ones((HEIGHT, WIDTH))] * (COUNT + 1),
        [],
        3,
        "mask.png",
        np.ones(WIDTH),
        torch.ones(()),
    ],
)
def test_what_are_no_masks_of_a_video_is_one_line(masks: Any) -> None:
    clip = as_clip(FRAMES, slice(None))
    refused("mask", lambda: as_masks(masks, clip))
