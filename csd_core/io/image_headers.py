"""What the header of an image file states, read without its pixels."""

from pathlib import Path
from typing import NamedTuple

from PIL import Image

from csd_core.io.decoders import reading
from csd_core.io.images import decoding
from csd_core.io.tiff import TIFF_MAGIC

_CMYK = 5


class Header(NamedTuple):
    """What a file states about its picture."""

    size: tuple[int, int]
    """Height and width; of a picture that is stored turned, in either order."""
    has_alpha: bool
    """It may have transparent pixels."""


def read_header(path: Path) -> Header:
    """The header of any image that images.read_picture reads.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    with decoding(path, "image"), path.open("rb") as file, reading():
        if file.read(4) in TIFF_MAGIC:  # of 16 bits Pillow does not open every kind
            import tifffile

            with tifffile.TiffFile(path) as tiff:
                page = tiff.pages.first
                return Header(
                    (page.imagelength, page.imagewidth),
                    page.samplesperpixel in (2, 4) and page.photometric != _CMYK,
                )
        with Image.open(file) as image:
            return Header((image.height, image.width), image.has_transparency_data)
