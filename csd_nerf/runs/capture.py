"""Checks of what a data parser has read: photos, masks and cameras."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from csd_core.errors import UserError, expect
from csd_core.io.picture import sides
from csd_nerf.console import CONSOLE
from csd_nerf.csd_dataset import check_mask_size, read_photo, read_photo_mask

_SIZE_TOLERANCE = 2  # pixels of difference from rounding, where a folder of smaller images is used
_FAR = 30  # times the usual distance from the middle of the cameras; captures have 2 to 5


def check_views(outputs: DataparserOutputs, max_pixels: int, *, sizes_known: bool) -> None:
    """Decode every photo and mask, and look at every camera.

    Args:
        outputs: of a data parser.
        max_pixels: more are refused.
        sizes_known: cameras have the size of their photos; not with every data parser.

    Raises:
        UserError: one of them is missing, damaged or does not fit the others.
    """
    photos, masks = outputs.image_filenames, outputs.mask_filenames
    for path in (*photos, *(masks or ())):
        _check_there(path)
    _check_cameras(outputs.cameras, photos)
    camera_sizes = _sizes(outputs.cameras)
    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(partial(_size_of_photo, max_pixels=max_pixels), photos, camera_sizes))
        if sizes_known:
            _check_sizes(photos, sizes, camera_sizes)
        if masks:
            white = list(pool.map(partial(_has_white, max_pixels=max_pixels), masks, sizes))
            _check_masks(masks, sizes, white)


def print_warnings(train: DataparserOutputs, held_out: DataparserOutputs) -> None:
    """What a user may have overlooked in a capture that can be used."""
    photos = [*train.image_filenames, *held_out.image_filenames]
    doubled = [path for path, count in Counter(train.image_filenames).items() if count > 1]
    if doubled:
        _warn(f"{doubled[0]} is the photo of several frames ({len(doubled)} such photos): keep one of them")
    _warn_of_far_cameras(
        photos, torch.cat([train.cameras.camera_to_worlds, held_out.cameras.camera_to_worlds])
    )
    if not held_out.image_filenames:
        CONSOLE.print(
            f"note: none of the {len(photos)} photos is held out, so that the base scene is not measured; "
            "nerfstudio-data --train-split-fraction 0.8 at the end holds out a fifth."
        )


def _warn_of_far_cameras(photos: Sequence[Path], poses: Tensor) -> None:
    places = poses[:, :, 3].double()
    distances = (places - places.median(dim=0).values).norm(dim=1)
    usual = max(float(distances.median()), torch.finfo(torch.float32).tiny)
    for index in torch.nonzero(distances > _FAR * usual)[:3, 0].tolist():
        times = f"{float(distances[index]) / usual:.2g} times as far from the middle as the usual one"
        _warn(
            f"{photos[index]}: its camera is {times}; the scene is scaled to hold it, which leaves little of "
            "the rest: remove its frame if the pose is wrong"
        )


def _check_there(path: Path) -> None:
    if path.is_file():
        return
    folder, mend = path.parent, "put it back, or remove its frame"
    if folder.is_dir():
        there = ", ".join(sorted(entry.name for entry in folder.iterdir())[:3]) or "nothing"
        raise UserError(f"{path}: expected a file, got none ({folder.name} holds {there} ...); {mend}")
    there = ", ".join(sorted(entry.name for entry in folder.parent.glob("*/"))[:5]) or "none"
    if re.fullmatch(r".*_[0-9]+", folder.name):
        mend = "make it with ns-process-data, or leave --downscale-factor out"
    raise UserError(f"{path}: expected a folder {folder.name}, got none (there are {there}); {mend}")


def _check_cameras(cameras: Cameras, photos: Sequence[Path]) -> None:
    focal, centre = (torch.cat(pair, dim=-1) for pair in ((cameras.fx, cameras.fy), (cameras.cx, cameras.cy)))
    for expected, good in (
        ("a pose of finite numbers", torch.isfinite(cameras.camera_to_worlds).flatten(1)),
        ("focal lengths above 0", torch.isfinite(focal) & (focal > 0)),
        ("a finite image centre", torch.isfinite(centre)),
    ):
        for index in torch.nonzero(~good.all(dim=1))[:, 0].tolist():
            got = "others; remove its frame, or compute the cameras again"
            raise UserError(f"{photos[index]}: expected {expected}, got {got}")


def _sizes(cameras: Cameras) -> list[tuple[int, int]]:
    return [(int(height), int(width)) for height, width in zip(cameras.height, cameras.width, strict=True)]


def _size_of_photo(path: Path, camera_size: tuple[int, int], *, max_pixels: int) -> tuple[int, int]:
    with _naming_our_option():
        height, width = read_photo(path, camera_size, max_pixels).shape[:2]
    return height, width


def _check_sizes(
    photos: Sequence[Path], sizes: Sequence[tuple[int, int]], camera_sizes: Sequence[tuple[int, int]]
) -> None:
    for path, size, expected in zip(photos, sizes, camera_sizes, strict=True):
        fits = all(abs(a - b) <= _SIZE_TOLERANCE for a, b in zip(size, expected, strict=True))
        got = f"{sides(size)}; fix the size there (w and h of transforms.json), or the photo"
        expect(fits, str(path), f"{sides(expected)} pixels as its camera has", got)


def _has_white(path: Path, size: tuple[int, int], *, max_pixels: int) -> bool:
    with _naming_our_option():
        mask = read_photo_mask(path, max_pixels)
    check_mask_size(path, mask, size)
    return bool(mask.any())


def _check_masks(masks: Sequence[Path], sizes: Sequence[tuple[int, int]], white: Sequence[bool]) -> None:
    black = [path for path, has_white in zip(masks, white, strict=True) if not has_white]
    if not black:
        return
    mend = f"paint it white there, or remove its frame ({len(black)} of {len(masks)} are black)"
    # nerfstudio samples photos of one size together, and of several sizes each on its own
    together = len(set(sizes)) == 1 and len(black) < len(masks)
    expect(together, str(black[0]), "a mask with white where its photo counts", f"a black one; {mend}")
    _warn(f"{black[0]} is a black mask, so that nothing of its photo is used: {mend}")


@contextmanager
def _naming_our_option() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        option = "--pipeline.datamanager.max-pixels"
        raise UserError(str(error).replace("--max-pixels", option)) from error


def _warn(text: str) -> None:
    CONSOLE.print(f"warning: {text}", style="yellow")
