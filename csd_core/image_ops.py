"""Sizes of images: from any size to one that an editor likes, and back. Images are (3, H, W) in [0, 1]."""

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness (ITU-R BT.601)."""


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Image (3, H, W) or (n, 3, H, W) in [0, 1] to size (height, width), bicubic, antialiased, in [0, 1]."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    batch = image if image.ndim == 4 else image[None]
    out = F.interpolate(batch, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    return out if image.ndim == 4 else out[0]


def editor_size(height: int, width: int, native_size: int) -> tuple[int, int]:
    """Height and width after the short side became native_size; the aspect is kept to the pixel."""
    scale = native_size / min(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def fit_to_editor(image: Tensor, native_size: int) -> Tensor:
    """Image (3, H, W) in [0, 1], any size -> short side native_size pixels, as trained."""
    return resize(image, editor_size(image.shape[-2], image.shape[-1], native_size))


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Images (n, 3, H, W) mirrored at the lower and right edge until H and W are multiples of multiple."""
    height, width = images.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    # a mirror is at most one pixel shorter than the image; smaller images repeat their last row or column
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(images, (0, right, 0, bottom), mode=mode) if bottom or right else images


def blend(source: Tensor, edited: Tensor, mask: Tensor | None) -> Tensor:
    """edited where the mask is 1, exactly source where it is 0, in between a mixture.

    source, edited: (n, 3, H, W); mask: (H, W) in [0, 1], or None for 1 everywhere.
    """
    return edited if mask is None else torch.lerp(source, edited, mask.expand_as(source))
