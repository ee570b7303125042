"""transforms.json of a capture, as programs of many kinds write it: checked, with paths that exist here."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from csd_core.errors import UserError, expect

_FILES = ("file_path", "mask_path", "depth_file_path")
_POSITIVE, _FINITE = ("fl_x", "fl_y", "w", "h"), ("cx", "cy")
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_SPLITS = ("train_filenames", "val_filenames", "test_filenames")
_FLATTEST = 1e-4  # smallest by largest singular value of a pose that can be inverted in float32
_AGAIN = "make it again with ns-process-data"


def frame_paths(data: Path) -> list[Path]:
    """The photos that a capture lists; `data`: its folder, or a .json in nerfstudio's format.

    Raises:
        UserError: there is no such list, or it is damaged.
    """
    path = data if data.suffix == ".json" else data / "transforms.json"
    return [path.parent / frame["file_path"] for frame in read_transforms(path)["frames"]]


def read_transforms(path: Path) -> dict[str, Any]:
    """The content of a transforms.json, in which every path is one that nerfstudio finds.

    A path may have backslashes, lack its suffix, or be of the machine where the capture was made, if one file
    in the folder of transforms.json is what it means.

    Raises:
        UserError: there is no such file, or a frame lacks its photo's path, its pose or its intrinsics, or
            their numbers are not finite.
    """
    content = _load(path)
    files = _Files(path.parent)
    _expect_all_or_none(path, content["frames"], "mask_path")
    _expect_all_or_none(path, content["frames"], "depth_file_path")
    for number, frame in enumerate(content["frames"]):
        name = f"{path}, frame {number} ({frame['file_path']})"
        _check_pose(name, frame.get("transform_matrix"))
        _check_numbers(name, content, frame)
        frame |= {key: files.find(name, frame[key]) for key in _FILES if key in frame}
    for split in _SPLITS:
        if split in content:
            content[split] = [files.find(f"{path}, {split}", str(written)) for written in content[split]]
    return content


def first_line(error: BaseException) -> str:
    """The message of an error, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(
            f"--data {path.parent}: expected a capture with {path.name}, found none; make one with "
            "ns-process-data, or (ns-train) name another data parser at the end of the command"
        )
    try:
        content = json.loads(path.read_bytes())  # bytes: it also reads UTF-16, and a byte order mark
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected JSON, got damage ({first_line(error)}); {_AGAIN}") from error
    frames = content.get("frames") if isinstance(content, dict) else None
    good = isinstance(frames, list) and all(isinstance(frame, dict) for frame in frames)
    expect(good and bool(frames), str(path), "a list of frames", f"none; {_AGAIN}")
    for number, frame in enumerate(content["frames"]):
        for key in _FILES:
            written = frame.get(key, "" if key == "file_path" else "none")
            good = isinstance(written, str) and bool(written)
            expect(good, f"{path}, frame {number}", f"a file name as {key}", f"{written!r}; {_AGAIN}")
    return content


def _expect_all_or_none(path: Path, frames: list[dict[str, Any]], key: str) -> None:
    count = sum(key in frame for frame in frames)
    got = f"it in {count} of {len(frames)}; add it to the others, or remove it"
    expect(count in (0, len(frames)), str(path), f"{key} in every frame or in none", got)


def _check_pose(name: str, value: Any) -> None:
    expected = "a transform_matrix of 4 x 4 finite numbers"
    mend = "remove the frame, or compute the poses again"
    try:
        pose = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name}: expected {expected}, got something else; {mend}") from None
    expect(pose.shape == (4, 4), name, expected, f"{'none' if value is None else pose.shape}; {mend}")
    with np.errstate(over="ignore"):
        wrong = pose[~np.isfinite(pose.astype(np.float32))]  # nerfstudio's precision
    expect(not wrong.size, name, expected, f"{wrong[:1].sum():g}; {mend}")
    sizes = np.linalg.svd(pose[:3, :3], compute_uv=False)
    expect(
        sizes[2] > _FLATTEST * sizes[0], name, "a rotation in its transform_matrix", f"a singular one; {mend}"
    )


def _check_numbers(name: str, content: dict[str, Any], frame: dict[str, Any]) -> None:
    """Intrinsics hold for all frames, or are those of each frame."""
    for key in (*_POSITIVE, *_FINITE, *_DISTORTION):
        value = content.get(key, frame.get(key))
        if value is None and key in _DISTORTION:
            continue
        number = _as_number(value)
        expected = "a positive number" if key in _POSITIVE else "a finite number"
        good = number is not None and (number > 0 or key not in _POSITIVE)
        got = "none" if value is None else f"{value!r}"
        mend = "add instant-ngp-data at the end of the command" if "camera_angle_x" in content else _AGAIN
        expect(good, name, f"{expected} as {key}", f"{got}; {mend}")


def _as_number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


class _Files:
    """Finds the files that paths mean which were written on another machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listed: dict[Path, list[str]] = {}

    def find(self, name: str, written: str) -> str:
        """The path of the one file that `written` can mean; `written` itself where there is none."""
        if (self._folder / written).is_file():
            return written
        for folder, last in self._places(written):
            found = self._called(self._folder / folder, last)
            got = f"{' and '.join(found)}; write its suffix"
            expect(len(found) < 2, name, f"one file called {last}", got)
            if found:
                return (folder / found[0]).as_posix()
        return written

    def _places(self, written: str) -> Iterator[tuple[PurePath, str]]:
        """Folder and name; of an absolute path also those of its ends."""
        *folders, last = [part for part in re.split(r"[\\/]+", written) if part not in ("", ".")] or [written]
        is_absolute = re.match(r"[\\/]|[A-Za-z]:", written) is not None
        for start in range(len(folders) + 1 if is_absolute else 1):
            yield PurePath(*folders[start:]), last

    def _called(self, folder: Path, name: str) -> list[str]:
        """Of a folder the files of a name: as written, else in other case, else of any suffix of pictures."""
        if folder not in self._listed:
            listed = folder.iterdir() if folder.is_dir() else ()
            self._listed[folder] = [entry.name for entry in listed]
        names = self._listed[folder]
        suffixes = Image.registered_extensions()
        for found in (
            [entry for entry in names if entry == name],
            [entry for entry in names if entry.casefold() == name.casefold()],
            [n for n in names if PurePath(n).stem == name and PurePath(n).suffix.lower() in suffixes],
        ):
            if found:
                return sorted(found)
        return []
