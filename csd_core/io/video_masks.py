"""Masks of a video: where to edit, as one picture for all frames or as a video of masks."""

import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from csd_core.errors import expect
from csd_core.io.images import MAX_PIXELS, luma, noise_note, read_mask, read_picture, without_noise
from csd_core.io.picture import sides
from csd_core.io.video_sources import is_still_picture, pictures_in
from csd_core.io.videos import Video, read_video


class Selected(Protocol):
    """A selection of frames: a Video, or what has these attributes of it."""

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def indices(self) -> tuple[int, ...]: ...

    @property
    def total(self) -> int: ...

    @property
    def num_frames(self) -> int: ...


def open_masks(
    path: Path, video: Selected, *, max_pixels: int = MAX_PIXELS, allow_corrupt: bool = False
) -> Iterable[np.ndarray]:
    """Read a mask for a video: a still picture, or a video or a folder with a mask for each frame.

    A still picture is read by images.read_mask. Moving masks are the brightness of their frames, black where
    transparent; there is one for each frame of the whole video, or for each selected one. The noise of a
    lossy encoder is cleared as there, with a warning.

    Returns:
        A mask (H, W) in [0, 1], float32, for each selected frame, from the start at every iteration.

    Raises:
        UserError: as read_video, or size or number of frames do not fit, or all masks are black.
    """
    if path.is_file() and is_still_picture(path):
        return [read_mask(path, size=video.size, max_pixels=max_pixels)] * video.num_frames
    found = read_video(path, max_frames=sys.maxsize, max_pixels=max_pixels, allow_corrupt=allow_corrupt)
    expected, got = f"{sides(video.size)} as the video", sides(found.size)
    expect(found.size == video.size, str(path), expected, f"{got}; draw the masks on the video itself")
    expected = (
        f"{video.total} masks, one for each frame of the video, or {video.num_frames} for those selected"
    )
    fits = found.num_frames in (1, video.total, video.num_frames)
    expect(fits, str(path), expected, f"{found.num_frames}; leave none out")
    if found.num_frames == video.total > 1:
        found = replace(found, indices=video.indices)
    first = pictures_in(path)[0] if path.is_dir() else None
    is_lossy = found.is_lossy if first is None else read_picture(first, max_pixels=max_pixels).is_lossy
    if is_lossy:
        warnings.warn(noise_note(path), stacklevel=2)
    masks = _MovingMasks(found, is_lossy)
    got = "empty ones; paint it white there"
    expect(any(mask.any() for mask in masks), str(path), "masks with white where to edit", got)
    return list(masks) * video.num_frames if found.num_frames == 1 else masks


@dataclass(frozen=True)
class _MovingMasks:
    video: Video
    is_lossy: bool

    def __iter__(self) -> Iterator[np.ndarray]:
        for frame in self.video.frames(ground=0):
            mask = luma(frame) / np.float32(255)
            yield without_noise(mask) if self.is_lossy else mask
