"""What the header of an image file states, read without its pixels."""

from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image

from csd_core.io.images import decoding, pillow_limit
from csd_core.io.tiff import TIFF_MAGIC, opened_tiff


class Header(NamedTuple):
    """What a file states about its picture."""

    size: tuple[int, int]
    """Height and width; of a picture that is stored turned, in either order."""
    has_alpha: bool
    """It may have transparent pixels."""
    orientation: int
    """As in EXIF, 1 to 8: how the stored pixels are turned; 1 is upright."""


def read_header(path: Path) -> Header:
    """The header of any image that images.read_picture reads.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    with decoding(path, "image"), path.open("rb") as file, pillow_limit(None):
        if file.read(4) in TIFF_MAGIC:  # of 16 bits Pillow does not open every kind
            return _of_tiff(path)
        with Image.open(file) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1)
            return Header((image.height, image.width), image.has_transparency_data, _known(turned))


def _of_tiff(path: Path) -> Header:
    with opened_tiff(path) as tiff:
        page = tiff.pages.first
        has_alpha = bool(page.extrasamples) and int(page.extrasamples[0]) in (1, 2)
        turned = page.tags.valueof(int(ExifTags.Base.Orientation), default=1)
        return Header((page.imagelength, page.imagewidth), has_alpha, _known(turned))


def _known(orientation: object) -> int:
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
