"""Pictures and clips that experiments edit: from a folder, or rendered."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from csd_core.canvas.video import as_image
from csd_core.errors import expect
from csd_core.image_ops import editor_size, resize
from csd_core.io.images import Picture, quantise, read_picture, write_picture
from csd_core.io.video_sources import is_still_picture
from csd_core.io.videos import read_video

Array = np.ndarray


@dataclass(frozen=True)
class Input:
    """A picture or a clip."""

    name: str
    """Without suffix."""
    arrays: Sequence[Array]
    """(H, W, 3) uint8 each; a picture is one."""

    @cached_property
    def sha256(self) -> str:
        """Of size and pixels of all frames."""
        whole = hashlib.sha256(repr([frame.shape for frame in self.arrays]).encode())
        for frame in self.arrays:
            whole.update(np.ascontiguousarray(frame).tobytes())
        return whole.hexdigest()

    @property
    def frames(self) -> list[Tensor]:
        """(3, H, W) in [0, 1] each."""
        return [as_image(frame, torch.device("cpu"))[0] for frame in self.arrays]


def read_frames(folder: Path) -> list[Tensor]:
    """The PNGs of a folder in the order of their names, (3, H, W) in [0, 1] each."""
    return [read_picture(path).to_tensor() for path in sorted(folder.glob("*.png"))]


def write_frames(folder: Path, frames: Iterable[Tensor]) -> None:
    """Write images (3, H, W) in [0, 1] as 00000.png, 00001.png ...; the folder is created."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, frame in enumerate(frames):
        write_picture(folder / f"{k:05d}.png", Picture(quantise(frame, np.uint8)))


def read_inputs(
    source: Path, *, is_video: bool, short_side: int | None, num_inputs: int | None, num_frames: int
) -> list[Input]:
    """Inputs from a folder: pictures, or for videos clips (folders of frames, video files).

    Args:
        source: the folder; for videos it may be one clip itself.
        is_video: clips, not pictures.
        short_side: they are resized to it, in pixels. None: their own size.
        num_inputs: only the first, in the order of their names. None: all.
        num_frames: frames from the start of each clip.

    Raises:
        UserError: no such folder, nothing in it, or a file that cannot be read.
    """
    expect(source.is_dir(), "inputs", "a folder", f"{source}, which is none")
    entries = sorted(path for path in source.iterdir() if not path.name.startswith("."))
    stills = [path for path in entries if path.is_file() and is_still_picture(path)]
    paths = stills
    if is_video:
        paths = [source] if stills else entries
    wanted = "videos or folders of frames" if is_video else "pictures"
    expect(len(paths) > 0, "inputs", f"a folder of {wanted}", f"{source}, which has none")
    inputs = []
    for path in paths[:num_inputs]:
        if is_video:
            frames = list(read_video(path, frames=slice(0, num_frames)).frames())
        else:
            frames = [quantise(read_picture(path).to_tensor(), np.uint8)]
        inputs.append(Input(path.stem, [_fitted(frame, short_side) for frame in frames]))
    return inputs


def render_panoramas(count: int, size: tuple[int, int]) -> list[Input]:
    """Ray-cast scenes through a wide lens, `size` (width, height) in pixels. The same every time."""
    width, height = size
    inputs = []
    for k in range(count):
        angle = 2.0 * k
        eye = (3.6 * math.cos(angle), 3.6 * math.sin(angle), 1.3)
        picture = _render((1, k), eye, 0.45, 0.6 * width, width, height)
        inputs.append(Input(f"rendered-{k + 1}", [picture]))
    return inputs


def render_clips(count: int, side: int, num_frames: int) -> list[Input]:
    """Clips of a camera that moves around a ray-cast scene, side x side pixels. The same every time."""
    inputs = []
    for k in range(count):
        angles = [1.0 + 2.0 * k + 0.05 * frame for frame in range(num_frames)]
        eyes = [(3.8 * math.cos(angle), 3.8 * math.sin(angle), 1.6) for angle in angles]
        frames = [_render((2, 2 * k), eye, 0.3, 1.2 * side, side, side) for eye in eyes]
        inputs.append(Input(f"rendered-{k + 1}", frames))
    return inputs


def _render(
    seed: tuple[int, int],
    eye: tuple[float, float, float],
    target_height: float,
    focal: float,
    width: int,
    height: int,
) -> Array:
    from csd_core.mini_editor.raycast import View, look_at, random_scene, render

    scene = random_scene(np.random.default_rng(seed))
    view = View(look_at(eye, (0.0, 0.0, target_height)), focal, focal, width / 2, height / 2, width, height)
    return (render(scene, *view, samples=2).clip(0, 1) * 255).round().astype(np.uint8)


def _fitted(frame: Array, short_side: int | None) -> Array:
    if short_side is None:
        return frame
    size = editor_size(frame.shape[0], frame.shape[1], short_side)
    return quantise(resize(as_image(frame, torch.device("cpu")), size)[0], np.uint8)
