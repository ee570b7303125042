"""Both editing commands as the tests call them: in a folder of their own, with a tiny model."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from csd_core.cli.panorama import PanoramaOptions, edit_panorama
from csd_core.cli.video import VideoOptions, edit_video
from csd_core.cli.watch import Watch
from csd_core.command import run_command
from csd_core.io.images import Picture, read_picture, write_picture
from tests.csd_core.io.clips import clip, decoded, folder

SIZE = (45, 61)
"""Height and width of the input."""


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> np.ndarray:
    """Blurred noise (H, W, 3); with four channels it is not blurred."""
    levels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)
    return levels if shape[2] == 4 else cv2.blur(levels, (3, 3))


def moving(count: int = 4, size: tuple[int, int] = SIZE, seed: int = 0) -> np.ndarray:
    """Frames (count, H, W, 3) cut from noise, each 3 pixels to the right of the one before."""
    height, width = size
    wide = noise(height, width + 3 * count, 3, seed=seed)
    return np.stack([wide[:, 3 * k : 3 * k + width] for k in range(count)])


class Command:
    """A command; out and err are what its last call printed."""

    kind: str
    options: Any
    edit: Callable[[Any], None]
    source_option: str
    output_name: str
    names: dict[str, str]
    """Of the files beside the output."""
    baseline: str
    """A method that samples."""
    extra: tuple[object, ...] = ()

    def __init__(self, folder_: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.model, self._capsys = folder_, model, capsys
        self.output = folder_ / "out" / self.output_name
        self.out = self.err = ""
        self.input = folder_
        self.source = self.use()

    def use(self, pixels: np.ndarray | None = None, name: str = "", **how: Any) -> np.ndarray:
        """Make pixels the input; returns them."""
        raise NotImplementedError

    def pixels(self, size: tuple[int, int] = SIZE) -> np.ndarray:
        """An input of a size."""
        raise NotImplementedError

    def read(self, path: Path) -> np.ndarray:
        """The pixels of an output."""
        raise NotImplementedError

    def args(self, *options: object, prompt: str | None = "make it red", steps: int | None = 3) -> list[str]:
        args = [self.source_option, self.input, "--output", self.output, "--model", self.model, *self.extra]
        args += ["--device", "cpu"]
        args += [] if prompt is None else ["--prompt", prompt]
        args += [] if steps is None else ["--num-steps", steps]
        return [str(arg) for arg in (*args, *options)]

    def __call__(self, *options: object, **rest: Any) -> int:
        code = run_command(self.options, self.edit, self.args(*options, **rest))
        self.out, self.err = self._capsys.readouterr()
        return code

    def edited(self, *options: object, **rest: Any) -> np.ndarray:
        assert self(*options, **rest) == 0, self.err
        return self.read(self.output)

    def refused(self, *options: object, **rest: Any) -> str:
        """The message of a call that ends with 2: one line, and nothing was written."""
        before = sorted(self.folder.rglob("*"))
        assert self(*options, **rest) == 2, self.err
        (line,) = (line for line in self.err.splitlines() if not line.startswith("note: "))
        assert line.startswith("error: ")
        assert self.out == ""
        assert sorted(self.folder.rglob("*")) == before
        return line

    def stop(self, *options: object, after: int = 1, **rest: Any) -> None:
        """Run it, and press Ctrl-C after so many steps."""

        def press(watch: Watch) -> None:
            if watch.steps_done == after:
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.MonkeyPatch.context() as patch:
            watched(patch, press)
            assert self(*options, **rest) == 130

    def beside(self, name: str, *parts: object) -> Path:
        return self.output.with_name(self.names[name].format(*parts))

    def manifest(self) -> dict[str, Any]:
        return json.loads(self.output.with_name(self.names["manifest"]).read_text())

    def written(self) -> list[str]:
        return sorted(path.name for path in self.output.parent.iterdir())

    @property
    def finished(self) -> list[str]:
        """What an edit writes."""
        return [self.output_name, self.names["manifest"]]

    def mask(self, levels: np.ndarray, name: str = "mask.png") -> tuple[str, Path]:
        write_picture(self.folder / name, Picture(np.dstack([levels] * 3)))
        return "--mask", self.folder / name


class PanoramaCommand(Command):
    """csd-edit-panorama; the image is noise of 45 x 61 pixels, in 20 windows."""

    kind, options, source_option = "panorama", PanoramaOptions, "--image"
    edit = staticmethod(edit_panorama)
    output_name = "edited.png"
    names = {  # noqa: RUF012
        "manifest": "edited.png.json",
        "checkpoint": "edited.png.unfinished.safetensors",
        "partly": "edited.step-{}.png",
        "preview": "edited.preview.png",
    }
    baseline, extra = "ip2p-patch", ("--stride", 4)

    def use(self, pixels: np.ndarray | None = None, name: str = "in.png", **how: Any) -> np.ndarray:
        self.source = self.pixels() if pixels is None else pixels
        self.input = self.folder / name
        if self.source.dtype == np.uint16:
            assert cv2.imwrite(str(self.input), self.source[..., ::-1])
        else:
            Image.fromarray(self.source).save(self.input, **how)
        return self.source

    def pixels(self, size: tuple[int, int] = SIZE) -> np.ndarray:
        return noise(*size, 3)

    def read(self, path: Path) -> np.ndarray:
        return read_picture(path).pixels


class VideoCommand(Command):
    """csd-edit-video; 4 frames of 45 x 61 pixels, folder to folder."""

    kind, options, source_option = "video", VideoOptions, "--video"
    edit = staticmethod(edit_video)
    output_name = "edited"
    names = {  # noqa: RUF012
        "manifest": "edited.json",
        "checkpoint": "edited.unfinished.safetensors",
        "partly": "edited-step-{}",
        "preview": "edited-preview.png",
    }
    baseline = "ip2p-frame"

    def use(self, pixels: np.ndarray | None = None, name: str = "in", **how: Any) -> np.ndarray:
        self.source = self.pixels() if pixels is None else pixels
        self.input = self.folder / name
        if self.input.suffix:
            clip(self.input, list(self.source), **how)
        else:
            self.frames(self.source, name)
        return self.source

    def frames(self, frames: np.ndarray, name: str) -> Path:
        """A folder of pictures, in place of one of this name."""
        path = self.folder / name
        for old in path.glob("*"):
            old.unlink()
        if path.is_dir():
            path.rmdir()
        return folder(path, list(frames))

    def pixels(self, size: tuple[int, int] = SIZE) -> np.ndarray:
        return moving(size=size)

    def read(self, path: Path) -> np.ndarray:
        if path.is_dir():
            return np.stack([read_picture(file).pixels for file in sorted(path.iterdir())])
        return np.stack(decoded(path))


def contents(path: Path) -> list[bytes]:
    """Bytes of a file or of all files of a folder."""
    return [file.read_bytes() for file in (sorted(path.iterdir()) if path.is_dir() else [path])]


def watched(patch: pytest.MonkeyPatch, look: Callable[[Watch], object]) -> None:
    """Call `look` after every step."""
    done = Watch.__call__

    def call(self: Watch, step: int, canvas: Tensor) -> bool:
        end = done(self, step, canvas)
        look(self)
        return end

    patch.setattr(Watch, "__call__", call)


def soft_mask() -> np.ndarray:
    """(45, 61): black, but for a white and a grey box."""
    mask = np.zeros(SIZE, np.uint8)
    mask[10:30, 20:40], mask[10:30, 40:45] = 255, 128
    return mask
