"""A capture on disk, read without nerfstudio: transforms.json and the images that it lists."""

import json
from pathlib import Path

from PIL import Image

from csd_core.errors import UserError


def frame_paths(data: Path) -> list[Path]:
    """The images that a capture lists; `data`: its folder, or a .json in nerfstudio's format.

    Raises:
        UserError: there is no such list, or it is empty.
    """
    path = data if data.suffix == ".json" else data / "transforms.json"
    if not path.is_file():
        raise UserError(
            f"--data {data}: expected a capture with transforms.json, found none; make one with "
            "ns-process-data, or (ns-train) name another data parser at the end of the command"
        )
    try:
        names = [path.parent / frame["file_path"] for frame in json.loads(path.read_text())["frames"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: damaged ({first_line(error)}); make it again with ns-process-data"
        ) from error
    if not names:
        raise UserError(f"{path}: expected frames, found none; make it again with ns-process-data")
    return names


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image, which is decoded.

    Raises:
        UserError: it is missing or damaged.
    """
    fix = "put it back, or remove its frame from transforms.json"
    if not path.is_file():
        raise UserError(f"{path}: no such image; {fix}")
    try:
        with Image.open(path) as image:
            image.load()
            return image.size
    except Exception as error:  # PIL raises OSError, SyntaxError, struct.error ... for damaged files
        raise UserError(f"{path}: a damaged image ({first_line(error)}); {fix}") from error


def first_line(error: BaseException) -> str:
    """The message of an error, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
