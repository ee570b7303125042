"""Images, videos and masks as users hold them in Python: PIL, numpy, torch or a path."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from csd_core.errors import UserError, expect
from csd_core.io.images import luma, quantise, rgb_pixels
from csd_core.io.videos import read_video

ImageLike = Image.Image | np.ndarray | Tensor
VideoLike = str | Path | Sequence[ImageLike] | np.ndarray | Tensor


class Clip(Protocol):
    """What a video has to be; io.videos.Video is one."""

    @property
    def num_frames(self) -> int:
        """N."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """H, W."""
        ...

    def frames(self) -> Iterator[np.ndarray]:
        """The frames in order, (H, W, 3) uint8, from the beginning at every call."""
        ...


@dataclass(frozen=True)
class ArrayClip:
    """A video that is in memory."""

    arrays: Sequence[np.ndarray]
    """(H, W, 3) uint8 each, all of one size."""

    @property
    def num_frames(self) -> int:
        """N."""
        return len(self.arrays)

    @property
    def size(self) -> tuple[int, int]:
        """H, W."""
        height, width = self.arrays[0].shape[:2]
        return height, width

    def frames(self) -> Iterator[np.ndarray]:
        """See Clip."""
        return iter(self.arrays)


def as_image_tensor(image: ImageLike) -> Tensor:
    """An image of any accepted kind as (1, 3, H, W) float32 in [0, 1] on the CPU.

    Raises:
        UserError: another type, shape or range.
    """
    if isinstance(image, Image.Image):
        image = rgb_pixels("image", image)[..., :3]  # convert("RGB") takes 16 bits for white
    if isinstance(image, np.ndarray):
        expect(image.ndim == 3 and image.shape[-1] == 3, "image", "an array (H, W, 3)", image.shape)
        tensor = torch.from_numpy(_unit("image", image)).permute(2, 0, 1)[None]
    elif isinstance(image, Tensor):
        tensor = _unit_tensor(image if image.ndim == 4 else image[None])
    else:
        raise UserError(f"image: expected PIL, numpy or torch, got {type(image).__name__}")
    shape = tuple(tensor.shape)
    expect(len(shape) == 4 and shape[:2] == (1, 3) and min(shape) > 0, "image", "a tensor (3, H, W)", shape)
    _expect_unit("image", tensor)
    return tensor


def as_mask_tensor(mask: ImageLike) -> Tensor:
    """A mask of any accepted kind as (H, W) float32 in [0, 1] on the CPU.

    Raises:
        UserError: another type, shape or range.
    """
    if isinstance(mask, Image.Image):
        pixels = rgb_pixels("mask", mask)
        mask = luma(pixels).astype(pixels.dtype)
    if isinstance(mask, np.ndarray):
        tensor = torch.from_numpy(_unit("mask", mask))
    elif isinstance(mask, Tensor):
        tensor = _unit_tensor(mask)
    else:
        raise UserError(f"mask: expected PIL, numpy or torch, got {type(mask).__name__}")
    shape = tuple(tensor.shape)
    expect(len(shape) == 2 and min(shape) > 0, "mask", "an array (H, W)", shape)
    _expect_unit("mask", tensor)
    return tensor


def as_clip(video: VideoLike, frames: slice) -> Clip:
    """A video of any accepted kind, cut to some of its frames.

    Raises:
        UserError: it cannot be read, is empty, or its frames are of another kind or of several sizes.
    """
    if isinstance(video, str | Path):
        return read_video(Path(video), frames=frames)
    known = isinstance(video, Sequence | np.ndarray | Tensor)
    expect(known, "video", "a path, or frames in a sequence", type(video).__name__)
    expect(frames.step is None or frames.step > 0, "frames", "a step of at least 1", frames.step)
    arrays = [_as_frame(frame) for frame in video[frames]]
    expect(len(arrays) > 0, "video", "at least one frame", "none")
    sizes = sorted({array.shape[:2] for array in arrays})
    expect(len(sizes) == 1, "video", "frames of one size", sizes)
    return ArrayClip(arrays)


def as_masks(mask: ImageLike | Sequence[ImageLike], clip: Clip) -> list[np.ndarray]:
    """One mask (H, W) in [0, 1] for each frame.

    Raises:
        UserError: it is of another kind or size, or there are neither one nor as many as frames.
    """
    known = isinstance(mask, Image.Image | Sequence | np.ndarray | Tensor)
    expect(known, "mask", "PIL, numpy or torch, or several of them", type(mask).__name__)
    single = isinstance(mask, Image.Image) or (not isinstance(mask, Sequence) and mask.ndim < 3)
    masks = [as_mask_tensor(part).numpy() for part in ([mask] if single else mask)]  # pyright: ignore
    wanted = f"one, or one for each of {clip.num_frames} frames"
    expect(single or len(masks) == clip.num_frames, "mask", wanted, len(masks))
    for part in masks:
        expect(part.shape == clip.size, "mask", f"the frames' size {clip.size}", part.shape)
    expect(any(part.any() for part in masks), "mask", "pixels that may change", "none")
    return masks * clip.num_frames if single else masks


def _as_frame(frame: ImageLike) -> np.ndarray:
    return quantise(as_image_tensor(frame)[0], np.uint8)


def _unit(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype in (np.uint8, np.uint16):
        return array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    real = array.dtype == np.bool_ or np.issubdtype(array.dtype, np.floating)
    expect(real, name, "floats in [0, 1], or uint8", array.dtype)
    return array.astype(np.float32)


def _unit_tensor(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor.float()


def _expect_unit(name: str, tensor: Tensor) -> None:
    low, high = float(tensor.min()), float(tensor.max())
    expect(0 <= low <= high <= 1, name, "values in [0, 1], or uint8", f"{low:g} to {high:g}")
