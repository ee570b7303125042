"""Pictures that no model here was trained on, and how they are cut to the size of a model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from csd_core.errors import expect
from csd_core.io.images import quantise, read_picture
from csd_core.mini_editor.training.sources import HELD_OUT_PHOTOGRAPHS, photograph

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def held_out_pictures() -> dict[str, Image.Image]:
    """Name -> scikit-image's photographs that are kept out of training, RGB of any size."""
    return {
        Path(name).stem: Image.fromarray((photograph(name) * 255).round().astype(np.uint8))
        for name in HELD_OUT_PHOTOGRAPHS
    }


def read_pictures(paths: Sequence[Path], per_folder: int | None = None) -> dict[str, Image.Image]:
    """Name -> picture, RGB of any size.

    Args:
        paths: files and folders.
        per_folder: how many files of a folder, evenly spaced. Default: all.

    Raises:
        UserError: a path does not exist, is not a picture, or is a folder without pictures.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
            expect(
                len(inside) > 0, "pictures", f"a folder with {', '.join(SUFFIXES)}", f"{path}, without any"
            )
            files += [inside[k] for k in spread(len(inside), per_folder or len(inside))]
        else:
            files.append(path)
    found: dict[str, Image.Image] = {}
    for file in files:
        name = file.stem if file.stem not in found else f"{file.parent.name}/{file.name}"
        found[name] = Image.fromarray(quantise(read_picture(file).to_tensor(), np.uint8))
    return found


def spread(total: int, count: int) -> list[int]:
    """`count` indices of 0 .. total - 1, evenly spaced; all of them if there are no more."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()


def squares(picture: Image.Image, size: int) -> list[Image.Image]:
    """The central square, resized to `size` pixels; of a panorama (2:1 or longer) several, side by side.

    1920 x 650 gives three squares of 640 pixels, 1920 x 480 four of 480.
    """
    long, short = max(picture.size), min(picture.size)
    count = round(long / short) if long >= 2 * short else 1
    side = min(short, long // count)
    across = (short - side) / 2
    found = []
    for k in range(count):
        along = (k + 0.5) * long / count - side / 2
        left, top = (along, across) if picture.width >= picture.height else (across, along)
        box = (left, top, left + side, top + side)
        found.append(picture.resize((size, size), Image.Resampling.LANCZOS, box=box))
    return found


def to_tensor(picture: Image.Image) -> Tensor:
    """An RGB picture as (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)
