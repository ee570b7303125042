"""nerfstudio's data parsers with other programs' transforms.json and any photo, and without a question.

nerfstudio opens photos by Pillow to choose a scale, refuses a byte order mark, looks for paths as they are
written, and asks on the terminal whether to make smaller photos.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn
from unittest import mock

from csd_core.errors import UserError
from csd_core.io.image_headers import read_header
from csd_nerf.nerfstudio_compat.transforms import read_transforms


class SmallerPhotosError(UserError):
    """COLMAP's data parser wants a folder of smaller photos that does not exist."""


@contextmanager
def reading_captures() -> Iterator[None]:
    """Inside the block data parsers read captures this way."""
    from nerfstudio.data.dataparsers import colmap_dataparser, nerfstudio_dataparser

    ours = {
        (nerfstudio_dataparser, "load_from_json"): read_transforms,
        (nerfstudio_dataparser, "Image"): SimpleNamespace(open=_Opened),
        (colmap_dataparser, "Image"): SimpleNamespace(open=_Opened),
        (colmap_dataparser, "Confirm"): SimpleNamespace(ask=_refuse),
    }
    with ExitStack() as stack:
        for (module, name), replacement in ours.items():
            stack.enter_context(mock.patch.object(module, name, replacement))
        # whether to convert COLMAP's points, which splats alone use
        stack.enter_context(mock.patch("rich.prompt.Confirm.ask", return_value=False))
        yield


class _Opened:
    """What the parsers use of an opened image."""

    def __init__(self, path: Path) -> None:
        # a photo that is missing is reported with all others
        height, width = read_header(path).size if path.is_file() else (1, 1)
        self.size = width, height


def _refuse(*_: object, **__: object) -> NoReturn:
    raise SmallerPhotosError("expected a folder of smaller photos, found none")
