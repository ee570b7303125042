"""Pictures and clips that experiments edit: from a folder, or rendered; kept as PNGs."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from csd_core.canvas.video import as_image
from csd_core.errors import expect
from csd_core.image_ops import editor_size, resize
from csd_core.io.files import folder_written_beside
from csd_core.io.images import Picture, quantise, read_picture, write_picture
from csd_core.io.video_sources import is_still_picture
from csd_core.io.videos import read_video

Array = np.ndarray


@dataclass(frozen=True)
class Input:
    """A picture or a clip, as a folder of PNGs.

    Attributes:
        name: without suffix.
        folder: of its frames in order; a picture is one.
        sha256: of size and pixels of all frames.
    """

    name: str
    folder: Path
    sha256: str

    @property
    def frames(self) -> list[Tensor]:
        """(3, H, W) in [0, 1] each."""
        return _read_input(self.folder)


@lru_cache(maxsize=4)  # not stored in the input, which is pickled
def _read_input(folder: Path) -> list[Tensor]:
    return read_frames(folder)


def read_frames(folder: Path) -> list[Tensor]:
    """The PNGs of a folder in the order of their names, (3, H, W) in [0, 1] each."""
    return [read_picture(path).to_tensor() for path in sorted(folder.glob("*.png"))]


def write_frames(folder: Path, frames: Iterable[Tensor]) -> None:
    """Write images (3, H, W) in [0, 1] as 00000.png, 00001.png ...; the folder is created."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, frame in enumerate(frames):
        write_picture(folder / f"{k:05d}.png", Picture(quantise(frame, np.uint8)))


def keep(name: str, frames: Sequence[Array], root: Path) -> Input:
    """Frames (H, W, 3) uint8 as an input under `root`; another process may write the same one meanwhile."""
    whole = hashlib.sha256(repr([frame.shape for frame in frames]).encode())
    for frame in frames:
        whole.update(np.ascontiguousarray(frame).tobytes())
    digest = whole.hexdigest()
    folder = root / f"{name}-{digest[:8]}"
    if not folder.is_dir():
        with folder_written_beside(folder) as beside:
            write_frames(beside, (as_image(frame, torch.device("cpu"))[0] for frame in frames))
    return Input(name, folder, digest)


def read_inputs(
    source: Path,
    root: Path,
    *,
    is_video: bool,
    short_side: int | None,
    num_inputs: int | None,
    num_frames: int,
) -> list[Input]:
    """Inputs from a folder: pictures, or for videos clips (folders of frames, video files).

    Args:
        source: the folder; for videos it may be one clip itself.
        root: where they are kept.
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
    names = [path.stem for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    expect(not twice, "inputs", "names that differ without their suffix", ", ".join(twice))
    inputs = []
    for path in paths[:num_inputs]:
        frames = _clip(path, num_frames) if is_video else [_picture(path)]
        inputs.append(keep(path.stem, [_fitted(frame, short_side) for frame in frames], root))
    return inputs


def render_panoramas(root: Path, count: int, size: tuple[int, int]) -> list[Input]:
    """Ray-cast scenes through a wide lens, `size` (width, height) in pixels. The same every time."""
    width, height = size
    inputs = []
    for k in range(count):
        angle = 2.0 * k
        eye = (3.6 * math.cos(angle), 3.6 * math.sin(angle), 1.3)
        picture = _render((1, k), eye, 0.45, 0.6 * width, width, height)
        inputs.append(keep(f"rendered-{k + 1}", [picture], root))
    return inputs


def render_clips(root: Path, count: int, side: int, num_frames: int) -> list[Input]:
    """Clips of a camera that moves around a ray-cast scene, side x side pixels. The same every time."""
    inputs = []
    for k in range(count):
        angles = [1.0 + 2.0 * k + 0.05 * frame for frame in range(num_frames)]
        eyes = [(3.8 * math.cos(angle), 3.8 * math.sin(angle), 1.6) for angle in angles]
        frames = [_render((2, 2 * k), eye, 0.3, 1.2 * side, side, side) for eye in eyes]
        inputs.append(keep(f"rendered-{k + 1}", frames, root))
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


def _picture(path: Path) -> Array:
    return quantise(read_picture(path).to_tensor(), np.uint8)


def _clip(path: Path, num_frames: int) -> list[Array]:
    return list(read_video(path, frames=slice(0, num_frames)).frames())


def _fitted(frame: Array, short_side: int | None) -> Array:
    if short_side is None:
        return frame
    size = editor_size(frame.shape[0], frame.shape[1], short_side)
    return quantise(resize(as_image(frame, torch.device("cpu")), size)[0], np.uint8)
