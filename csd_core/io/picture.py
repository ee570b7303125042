"""A picture in memory: pixels, transparency, and what came with them in its file."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from csd_core.errors import expect

_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright picture and its metadata.

    Attributes:
        pixels: RGB, uint8 or uint16 (H, W, 3).
        alpha: (H, W), same type as the pixels; None if the file has no transparency.
        icc_profile: colour profile of the RGB pixels.
        exif: starts with "Exif" and two zeros; without orientation and thumbnail.
        xmp: an XML packet; describes the projection of a 360-degree picture.
        dpi: pixels per inch, across and down.
        png_colour: chunks of a PNG that say what its colours mean, such as (b"gAMA", data).
        orientation: of the pixels in the file, as in EXIF; 1 is upright, as these pixels are.
        is_lossy: its file came from an encoder that adds noise, such as JPEG.
        notes: what of the file is not in the picture.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    png_colour: tuple[tuple[bytes, bytes], ...] = ()
    orientation: int = 1
    is_lossy: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.pixels.dtype not in (np.uint8, np.uint16) or self.pixels.shape[2:] != (3,):
            raise ValueError(
                f"expected uint8 or uint16 (H, W, 3), got {self.pixels.dtype} {self.pixels.shape}"
            )
        if self.alpha is not None and (self.alpha.dtype, self.alpha.shape) != (self.pixels.dtype, self.size):
            raise ValueError(f"expected alpha as the pixels, got {self.alpha.dtype} {self.alpha.shape}")

    @property
    def height(self) -> int:
        """Rows."""
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        """Columns."""
        return self.pixels.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def depth(self) -> int:
        """Bits of a channel, 8 or 16."""
        return self.pixels.dtype.itemsize * 8

    @property
    def is_opaque(self) -> bool:
        """No pixel is transparent, not even in part."""
        return self.alpha is None or bool((self.alpha == np.iinfo(self.alpha.dtype).max).all())

    @property
    def is_full_sphere(self) -> bool:
        """A whole 360-degree panorama: equirectangular by its XMP, and twice as wide as high."""
        whole, cropped = self._gpano("FullPanoWidthPixels"), self._gpano("CroppedAreaImageWidthPixels")
        is_part = None not in (whole, cropped) and whole != cropped
        is_sphere = self._gpano("ProjectionType") == "equirectangular"
        return is_sphere and not is_part and self.width == 2 * self.height

    def to_tensor(self) -> Tensor:
        """The pixels as float32 (3, H, W) in [0, 1]."""
        scaled = self.pixels.astype(np.float32) / np.float32(np.iinfo(self.pixels.dtype).max)
        return torch.from_numpy(scaled).permute(2, 0, 1).contiguous()

    def stacked(self) -> np.ndarray:
        """RGB, or RGBA if there is alpha: (H, W, 3 or 4)."""
        return self.pixels if self.alpha is None else np.dstack([self.pixels, self.alpha])

    def with_pixels(self, pixels: np.ndarray) -> "Picture":
        """The same metadata with other pixels.

        Raises:
            ValueError: not uint8 or uint16 (H, W, 3), or not of the size and type of the alpha.
        """
        return replace(self, pixels=pixels)

    def _gpano(self, name: str) -> str | None:
        """A property of the panorama, written as an attribute or as an element."""
        pattern = rf"GPano:{name}(?:\s*=\s*[\"']|\s*>)\s*([^\s\"'<]+)"
        found = re.search(pattern.encode(), self.xmp or b"")
        return found[1].decode(errors="replace").lower() if found else None


def is_sideways(orientation: int) -> bool:
    """Whether making it upright swaps height and width; orientation as in EXIF, 1 is upright."""
    return orientation in _SIDEWAYS


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels (H, W, C) made upright; orientation as in EXIF, 1 is upright."""
    if is_sideways(orientation):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def check_pixels(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    """Check that height times width is at most max_pixels.

    Raises:
        UserError: it is more.
    """
    pixels = size[0] * size[1]
    got = f"{sides(size)}, {pixels} pixels, more than the limit of {max_pixels}; raise it with --max-pixels"
    expect(pixels <= max_pixels, str(path), "pictures of a size to edit", got)


def sides(size: tuple[int, int]) -> str:
    """Height and width as users write them: 48x32 is 48 wide."""
    return f"{size[1]}x{size[0]}"
