"""The photos and masks of a capture, of every kind that csd_core.io reads."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image

from csd_core.errors import expect
from csd_core.io.image_headers import read_header
from csd_core.io.images import MAX_PIXELS, eight_bits, mask_levels, read_picture
from csd_core.io.picture import is_sideways, sides, turned

_BACK = {6: 8, 8: 6}  # the other orientations undo themselves


def read_photo(path: Path, camera_size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A photo as uint8 (H, W, 3), or (H, W, 4) with transparency, turned as its camera has it.

    Poses are commonly computed from stored pixels, whatever EXIF says of their orientation. So the photo is
    upright only where that alone fits the camera's (height, width).

    Raises:
        UserError: it cannot be read.
    """
    picture = read_picture(path, max_pixels=max_pixels)
    pixels, turn = eight_bits(picture.stacked()), picture.orientation
    if is_sideways(turn) and _misfit(picture.size, camera_size) < _misfit(picture.size[::-1], camera_size):
        return pixels
    return np.ascontiguousarray(turned(pixels, _BACK.get(turn, turn)))


def read_photo_mask(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The pixels of a photo that are used, bool (H, W): those that are not black in the mask.

    Raises:
        UserError: it cannot be read.
    """
    return mask_levels(read_picture(path, max_pixels=max_pixels)) > 0


def check_mask_size(path: Path, mask: np.ndarray, size: tuple[int, int]) -> None:
    """Raise a UserError unless a mask has the size (H, W) of its photo."""
    got = f"{sides((mask.shape[0], mask.shape[1]))}; draw the mask on the photo itself"
    expect(mask.shape == size, str(path), f"{sides(size)} as its photo", got)


def _misfit(size: tuple[int, ...], camera_size: tuple[int, int]) -> int:
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

    def get_data(self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32") -> dict[str, Any]:
        """nerfstudio's, with a mask (H, W, 1) bool of the pixels that are used, if there are masks.

        Raises:
            UserError: the photo or the mask cannot be read, or they differ in size.
        """
        image = (
            self.get_image_float32(image_idx) if image_type == "float32" else self.get_image_uint8(image_idx)
        )
        data: dict[str, Any] = {"image_idx": image_idx, "image": image}
        if masks := self._dataparser_outputs.mask_filenames:
            used = self._scaled(read_photo_mask(masks[image_idx], self._max_pixels), Image.Resampling.NEAREST)
            check_mask_size(masks[image_idx], used, (image.shape[0], image.shape[1]))
            data["mask"] = torch.from_numpy(used)[..., None]
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
