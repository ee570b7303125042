"""Pictures and clips that experiments edit: a folder's, or drawn. Kept beside the results as PNGs."""

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


@lru_cache(maxsize=4)  # not kept in the input: that is sent to other processes
def _read_input(folder: Path) -> list[Tensor]:
    return read_frames(folder)


def read_frames(folder: Path) -> list[Tensor]:
    """The PNGs of a folder in the order of their names, (3, H, W) in [0, 1] each."""
    return [read_picture(path).to_tensor() for path in sorted(folder.glob("*.png"))]


def write_frames(folder: Path, frames: Iterable[Tensor]) -> None:
    """Images (3, H, W) in [0, 1] as 00000.png, 00001.png ... in a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, frame in enumerate(frames):
        write_picture(folder / f"{k:05d}.png", Picture(quantise(frame, np.uint8)))


def keep(name: str, frames: Sequence[Array], root: Path) -> Input:
    """Frames (H, W, 3) uint8 as an input under `root`, where another process may be writing the same."""
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
        short_side: they are resized to it, in pixels. None: as they are.
        num_inputs: so many, in the order of their names. None: all.
        num_frames: so many from the beginning of each clip.

    Raises:
        UserError: no such folder, nothing in it, or a file that cannot be read.
    """
    expect(source.is_dir(), "inputs", "a folder", f"{source}, which is none")
    entries = sorted(path for path in source.iterdir() if not path.name.startswith("."))
    if is_video:
        stills = [path for path in entries if path.is_file() and is_still_picture(path)]
        paths = [source] if stills else [p for p in entries if p.is_dir() or not is_still_picture(p)]
    else:
        paths = [path for path in entries if path.is_file() and is_still_picture(path)]
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


def draw_panoramas(root: Path, count: int, size: tuple[int, int]) -> list[Input]:
    """Ray-cast scenes seen through a wide lens, `size` (width, height) in pixels. The same every time."""
    return [keep(f"drawn-{k + 1}", [_draw_wide(k, size)], root) for k in range(count)]


def draw_clips(root: Path, count: int, side: int, num_frames: int) -> list[Input]:
    """Clips of a camera that moves round a ray-cast scene, side x side pixels. The same every time."""
    return [keep(f"drawn-{k + 1}", _draw_clip(k, side, num_frames), root) for k in range(count)]


def _draw_wide(number: int, size: tuple[int, int]) -> Array:
    from csd_core.mini_editor.raycast import View, look_at, random_scene, render

    width, height = size
    scene, focal = random_scene(np.random.default_rng((1, number))), 0.6 * width
    angle = 2.0 * number
    eye = (3.6 * math.cos(angle), 3.6 * math.sin(angle), 1.3)
    view = View(look_at(eye, (0.0, 0.0, 0.45)), focal, focal, width / 2, height / 2, width, height)
    return _to_bytes(render(scene, *view, samples=2))


def _draw_clip(number: int, side: int, num_frames: int) -> list[Array]:
    from csd_core.mini_editor.raycast import View, look_at, random_scene, render

    scene, frames = random_scene(np.random.default_rng((2, 2 * number))), []
    for k in range(num_frames):
        angle = 1.0 + 2.0 * number + 0.05 * k
        eye = (3.8 * math.cos(angle), 3.8 * math.sin(angle), 1.6)
        view = View(look_at(eye, (0.0, 0.0, 0.3)), 1.2 * side, 1.2 * side, side / 2, side / 2, side, side)
        frames.append(_to_bytes(render(scene, *view, samples=2)))
    return frames


def _to_bytes(image: Array) -> Array:
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def _picture(path: Path) -> Array:
    return quantise(read_picture(path).to_tensor(), np.uint8)


def _clip(path: Path, num_frames: int) -> list[Array]:
    return list(read_video(path, frames=slice(0, num_frames)).frames())


def _fitted(frame: Array, short_side: int | None) -> Array:
    if short_side is None:
        return frame
    size = editor_size(frame.shape[0], frame.shape[1], short_side)
    return quantise(resize(as_image(frame, torch.device("cpu")), size)[0], np.uint8)
