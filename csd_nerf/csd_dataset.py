"""The photos and masks of a capture, of every kind that csd_core.io reads."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image
from torch import Tensor

from csd_core.errors import expect
from csd_core.io.image_headers import read_header
from csd_core.io.images import MAX_PIXELS, eight_bits, mask_levels, read_picture
from csd_core.io.picture import sides, turned

_SIDEWAYS = (5, 6, 7, 8)
_BACK = {6: 8, 8: 6}  # the other orientations undo themselves


def read_photo(path: Path, camera_size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A photo as uint8 (H, W, 3), or (H, W, 4) with transparency, turned as its camera has it.

    Poses are commonly computed from stored pixels, whatever EXIF says of their orientation. So the photo is
    upright only where that alone fits the camera's (height, width).

    Raises:
        UserError: it cannot be read.
    """
    pixels = eight_bits(read_picture(path, max_pixels=max_pixels).stacked())
    orientation = read_header(path).orientation
    height, width = pixels.shape[:2]
    if orientation in _SIDEWAYS and _misfit((height, width), camera_size) < _misfit(
        (width, height), camera_size
    ):
        return pixels
    return np.ascontiguousarray(turned(pixels, _BACK.get(orientation, orientation)))


def read_photo_mask(path: Path, size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The pixels of a photo of size (H, W) that are used, bool (H, W): those that are not black in the mask.

    Raises:
        UserError: it cannot be read, or is of another size.
    """
    picture = read_picture(path, max_pixels=max_pixels)
    got = f"{sides(picture.size)}; draw the mask on the photo itself"
    expect(picture.size == size, str(path), f"{sides(size)} as its photo", got)
    return mask_levels(picture) > 0


def photo_size(path: Path, camera_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of what read_photo returns, by the file's header.

    Raises:
        UserError: it cannot be read.
    """
    (height, width), _, orientation = read_header(path)
    turns = [(width, height)] if orientation in _SIDEWAYS else []
    return min([(height, width), *turns], key=lambda size: _misfit(size, camera_size))


def _misfit(size: tuple[int, int], camera_size: tuple[int, int]) -> int:
    return abs(size[0] - camera_size[0]) + abs(size[1] - camera_size[1])


class CaptureDataset(InputDataset):
    """nerfstudio's dataset with the readers of csd_core.io.

    Args:
        dataparser_outputs: paths and cameras.
        scale_factor: of the photos' sides.
        max_pixels: larger photos and masks are refused.
    """

    def __init__(
        self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0, max_pixels: int = MAX_PIXELS
    ) -> None:
        super().__init__(dataparser_outputs, scale_factor)
        self._max_pixels = max_pixels

    @cached_property
    def has_alpha(self) -> bool:
        """One of the photos may be transparent: all have four channels, since they are trained together."""
        return any(read_header(path).has_alpha for path in self.image_filenames)

    def get_numpy_image(self, image_idx: int) -> np.ndarray:
        """The photo at training size as uint8 (H, W, 3), or (H, W, 4) if has_alpha.

        Raises:
            UserError: it cannot be read.
        """
        photo = read_photo(self.image_filenames[image_idx], self._camera_size(image_idx), self._max_pixels)
        pixels = self._scaled(photo, Image.Resampling.BILINEAR)
        if self.has_alpha and pixels.shape[2] == 3:
            return np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
        return pixels

    def get_mask(self, image_idx: int) -> Tensor:
        """(H, W, 1) bool at training size: the pixels that are used, which are not black in the mask.

        Raises:
            UserError: it cannot be read, or is of another size than its photo.
        """
        path = (self._dataparser_outputs.mask_filenames or [])[image_idx]
        size = photo_size(self.image_filenames[image_idx], self._camera_size(image_idx))
        mask = read_photo_mask(path, size, self._max_pixels)
        return torch.from_numpy(self._scaled(mask, Image.Resampling.NEAREST))[..., None]

    def get_data(self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32") -> dict[str, Any]:
        """nerfstudio's, with the masks of get_mask."""
        image = (
            self.get_image_float32(image_idx) if image_type == "float32" else self.get_image_uint8(image_idx)
        )
        data: dict[str, Any] = {"image_idx": image_idx, "image": image}
        if self._dataparser_outputs.mask_filenames is not None:
            data["mask"] = self.get_mask(image_idx)
            if self.mask_color:
                colour = torch.ones_like(image) * torch.tensor(self.mask_color)
                data["image"] = torch.where(data["mask"], image, colour)
        return data | self.get_metadata(data)

    def _camera_size(self, image_idx: int) -> tuple[int, int]:
        cameras = self._dataparser_outputs.cameras
        return int(cameras.height[image_idx]), int(cameras.width[image_idx])

    def _scaled(self, pixels: np.ndarray, how: Image.Resampling) -> np.ndarray:
        if self.scale_factor == 1:
            return pixels
        height, width = (int(side * self.scale_factor) for side in pixels.shape[:2])
        return np.array(Image.fromarray(pixels).resize((width, height), how))
