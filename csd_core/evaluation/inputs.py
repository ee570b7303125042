"""Sources and edits in files: panoramas in pairs, frames in order.

An image in a folder that cannot be read is left out and reported; a file that was named itself is refused.
Transparent pixels are composed on white. Images are read again at every iteration.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from csd_core.errors import UserError, expect
from csd_core.evaluation.measuring import Borders, PanoramaPair, Reiterable
from csd_core.io.images import MAX_PIXELS, Picture, read_mask, read_picture, sides
from csd_core.io.video_masks import open_masks
from csd_core.io.video_sources import pictures_in
from csd_core.io.videos import MAX_FRAMES, read_video


@dataclass(frozen=True)
class Frames:
    """Selected frames of a video or of a folder.

    Attributes:
        path: the file or folder.
        size: height and width of all.
        names: of the selected frames.
        indices: of the selected frames in the whole.
        total: number of frames of the whole.
        broken: number among the selected frames -> error message of a file that cannot be read.
        read: decodes the frames of some indices, (3, H, W) in [0, 1] each.
    """

    path: Path
    size: tuple[int, int]
    names: tuple[str, ...]
    indices: tuple[int, ...]
    total: int
    broken: dict[int, str]
    read: Callable[[Sequence[int]], Iterator[Tensor]] = field(repr=False)

    @property
    def num_frames(self) -> int:
        """The number of selected frames."""
        return len(self.indices)

    def images(self, numbers: Sequence[int]) -> Iterable[Tensor]:
        """Some of the selected frames, by increasing numbers among them; can be iterated several times."""
        wanted = [self.indices[k] for k in numbers]
        return Reiterable(lambda: self.read(wanted))

    def only(self, numbers: Sequence[int]) -> "Frames":
        """Some of the selected frames."""
        broken = {k: self.broken[n] for k, n in enumerate(numbers) if n in self.broken}
        names, indices = (tuple(several[n] for n in numbers) for several in (self.names, self.indices))
        return replace(self, names=names, indices=indices, broken=broken)


@dataclass(frozen=True)
class FramePairs:
    """Frames of a source and of its edit.

    Attributes:
        selected: the selected frames of the source.
        sources: those that are intact in both, (3, H, W) in [0, 1] each; can be iterated several times.
        edited: as many.
        positions: of these pairs among the selected frames.
        names: of the sources.
        broken: an error message for each file that cannot be read.
    """

    selected: Frames
    sources: Iterable[Tensor]
    edited: Iterable[Tensor]
    positions: tuple[int, ...]
    names: list[str]
    broken: tuple[str, ...]

    def masks(self, path: Path, max_pixels: int = MAX_PIXELS) -> Iterable[Tensor]:
        """A mask (H, W) for each pair; see open_masks."""
        masks, wanted = open_masks(path, self.selected, max_pixels=max_pixels), set(self.positions)
        return Reiterable(lambda: (torch.from_numpy(mask) for k, mask in enumerate(masks) if k in wanted))


def read_frame_pairs(
    source: Path,
    edited: Path,
    *,
    selection: slice = slice(None),
    max_frames: int = MAX_FRAMES,
    max_pixels: int = MAX_PIXELS,
) -> FramePairs:
    """Read the frames of a video and of its edit once, so that damage is found now.

    Args:
        source: a video, a folder of frames or an image.
        edited: likewise, with all frames of the source or with the selected ones.
        selection: which frames of the source.
        max_frames: limit of selected frames.
        max_pixels: limit of pixels of a frame.

    Raises:
        UserError: one of them cannot be read, or they differ in number or size of the frames.
    """
    before = _read_frames(source, selection, max_frames, max_pixels)
    after = _read_frames(edited, slice(None), sys.maxsize, max_pixels)
    got = f"{after.num_frames}; name the edit of {source}, with --frames where a part of it was edited"
    counts = f"{before.total} frames as {source}"
    if before.total != before.num_frames:
        counts += f", or {before.num_frames} as are selected of it"
    expect(after.num_frames in (before.total, before.num_frames), str(edited), counts, got)
    if after.num_frames != before.num_frames:
        after = after.only(before.indices)
    got = f"{sides(after.size)}; scale them alike"
    expect(after.size == before.size, str(edited), f"{sides(before.size)} as {source}", got)
    lines = (*before.broken.values(), *after.broken.values())
    whole = [k for k in range(before.num_frames) if k not in before.broken and k not in after.broken]
    expect(bool(whole), str(edited), "a frame that can be read in both", "none")
    names = [before.names[k] for k in whole]
    return FramePairs(before, before.images(whole), after.images(whole), tuple(whole), names, lines)


def _read_frames(path: Path, selection: slice, max_frames: int, max_pixels: int) -> Frames:
    if path.is_dir():
        return _read_folder(path, selection, max_frames, max_pixels)
    video = read_video(path, frames=selection, max_frames=max_frames, max_pixels=max_pixels)
    names = tuple(f"frame {k}" for k in video.indices)

    def read(wanted: Sequence[int]) -> Iterator[Tensor]:
        return (Picture(frame).to_tensor() for frame in replace(video, indices=tuple(wanted)).frames())

    return Frames(path, video.size, names, video.indices, video.total, {}, read)


def _read_folder(path: Path, selection: slice, max_frames: int, max_pixels: int) -> Frames:
    files = pictures_in(path)
    indices = tuple(range(len(files))[selection])
    got = f"none of {len(files)} frames; choose another part with --frames"
    expect(bool(indices), str(path), "a selection with a frame", got)
    got = f"{len(indices)}; choose a part with --frames START:STOP, or raise --max-frames"
    expect(len(indices) <= max_frames, str(path), f"at most {max_frames} frames", got)
    names, sizes, broken = tuple(files[k].name for k in indices), {}, {}
    for number, k in enumerate(indices):
        try:
            sizes[read_picture(files[k], max_pixels=max_pixels).size] = files[k].name
        except UserError as error:
            broken[number] = str(error)
    expect(bool(sizes), str(path), "images that can be read", f"none: {next(iter(broken.values()), '')}")
    several = " and ".join(f"{sides(size)} in {name}" for size, name in list(sizes.items())[:2])
    expect(len(sizes) == 1, str(path), "frames of one size", f"{several}; scale them alike")

    def read(wanted: Sequence[int]) -> Iterator[Tensor]:
        return (on_white(read_picture(files[k], max_pixels=max_pixels)) for k in wanted)

    return Frames(path, next(iter(sizes)), names, indices, len(files), broken, read)


def on_white(picture: Picture) -> Tensor:
    """An image composed on white, (3, H, W) in [0, 1]."""
    colours = picture.to_tensor()
    if picture.alpha is None:
        return colours
    top = np.float32(np.iinfo(picture.alpha.dtype).max)
    return torch.lerp(torch.ones(()), colours, torch.from_numpy(picture.alpha.astype(np.float32) / top))


class PanoramaFiles(NamedTuple):
    """A panorama and its edit, as files of one size (H, W)."""

    size: tuple[int, int]
    source: Path
    edited: Path
    mask: Path | None

    @property
    def name(self) -> str:
        """Of the source, without its folder."""
        return self.source.name


@lru_cache(maxsize=1)  # every measure iterates again: a single panorama is decoded once
def read_pair(files: PanoramaFiles, borders: Borders | None, max_pixels: int = MAX_PIXELS) -> PanoramaPair:
    """The two images and their mask."""
    paths = (files.source, files.edited)
    source, edited = (on_white(read_picture(path, max_pixels=max_pixels)) for path in paths)
    mask = files.mask and torch.from_numpy(read_mask(files.mask, size=files.size, max_pixels=max_pixels))
    return PanoramaPair(source, edited, mask, borders)


def read_panorama_files(
    source: Path, edited: Path, mask: Path | None = None, *, max_pixels: int = MAX_PIXELS
) -> tuple[list[PanoramaFiles], list[str]]:
    """Pairs of panoramas: two files, or two folders with the same names except for the suffix.

    Args:
        source: an image or a folder of images.
        edited: likewise.
        mask: an image for all, or a folder with the same names.
        max_pixels: limit of pixels of an image.

    Returns:
        The pairs that can be read, in natural order of names, and an error message for each other pair.

    Raises:
        UserError: a file that was named is missing or broken, the folders differ in names, or a pair or its
            mask differs in size.
    """
    for path in (source, edited, *([mask] if mask else [])):
        expect(path.exists(), str(path), "an image or a folder of images", "no such file; check the path")
    got = "a folder and a file; name two files, or two folders"
    expect(source.is_dir() == edited.is_dir(), f"{source} and {edited}", "both of one kind", got)
    one = not source.is_dir()
    trios = [(source, edited, mask)] if one else _matched(source, edited, mask)
    pairs, broken = [], []
    for before, after, over in trios:
        try:
            size, other = (read_picture(path, max_pixels=max_pixels).size for path in (before, after))
        except UserError as error:
            if one:
                raise
            broken.append(str(error))
            continue
        expect(size == other, str(after), f"{sides(size)} as {before}", f"{sides(other)}; scale them alike")
        if over:
            read_mask(over, size=size, max_pixels=max_pixels)
        pairs.append(PanoramaFiles(size, before, after, over))
    expect(bool(pairs), str(edited), "a panorama that can be read in both", f"none: {' '.join(broken[:1])}")
    return pairs, broken


def _matched(source: Path, edited: Path, mask: Path | None) -> list[tuple[Path, Path, Path | None]]:
    """Files of two folders, and masks, matched by their names without suffix."""
    befores, afters = _by_stem(source), _by_stem(edited)
    masks = _by_stem(mask) if mask and mask.is_dir() else None
    for there, others in ((edited, (befores, afters)), (source, (afters, befores))):
        alone = next((others[0][stem] for stem in others[0] if stem not in others[1]), None)
        expect(alone is None, str(there), f"an image named as {alone}", "none; use the same names")
    unmasked = next((befores[stem] for stem in befores if masks is not None and stem not in masks), None)
    expect(unmasked is None, str(mask), f"a mask named as {unmasked}", "none; use the same names")
    return [(path, afters[stem], masks[stem] if masks else mask) for stem, path in befores.items()]


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in pictures_in(folder):
        got = f"{path.name} and {found[path.stem].name}; rename one" if path.stem in found else ""
        expect(path.stem not in found, str(folder), "names that differ in more than the suffix", got)
        found[path.stem] = path
    return found
