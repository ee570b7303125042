"""Masks of a video: where to edit, as a still picture for all frames or a moving mask.

Moving ones are read as videos.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from csd_core.errors import expect
from csd_core.io.images import MAX_PIXELS, luma, read_mask, sides
from csd_core.io.video_sources import is_still_picture
from csd_core.io.videos import Video, read_video

_MASK_NOISE = 4 / 255  # what encoders add to black and white


class Selected(Protocol):
    """Some of the frames of a whole: a Video, or what has these of it."""

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def indices(self) -> tuple[int, ...]: ...

    @property
    def total(self) -> int: ...

    @property
    def num_frames(self) -> int: ...


class Masks:
    """A mask (H, W) in [0, 1], float32, for each selected frame, from the start at every iteration.

    Attributes:
        still: they are all the same.
    """

    def __init__(self, masks: Callable[[], Iterator[np.ndarray]], *, still: bool) -> None:
        self._masks, self.still = masks, still

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._masks()


def open_masks(path: Path, video: Selected, *, max_pixels: int = MAX_PIXELS) -> Masks:
    """Read a mask for a video: a still picture, or a video or a folder with a mask for each frame.

    A still picture is read by images.read_mask. Moving masks are the brightness of their frames, black where
    transparent; they may have a frame for each of the whole video, or for each selected one. Black and white
    of a lossy video are cleared of the noise of its encoder.

    Raises:
        UserError: as read_video, or size or number of frames do not fit, or all masks are black.
    """
    if path.is_file() and is_still_picture(path):
        mask = read_mask(path, size=video.size, max_pixels=max_pixels)
        return Masks(lambda: iter([mask] * video.num_frames), still=True)
    found = read_video(path, max_frames=sys.maxsize, max_pixels=max_pixels)
    expected, got = f"{sides(video.size)} as the video", sides(found.size)
    expect(found.size == video.size, str(path), expected, f"{got}; draw the masks on the video itself")
    still = found.num_frames == 1
    counts = (1, video.total, video.num_frames)
    expected = (
        f"{video.total} masks, one for each frame of the video, or {video.num_frames} for those selected"
    )
    expect(found.num_frames in counts, str(path), expected, f"{found.num_frames}; leave none out")
    if not still and found.num_frames == video.total:
        found = replace(found, indices=video.indices)
    masks = partial(_moving_masks, found, video.num_frames if still else 1)
    empty = "empty ones; paint it white there"
    expect(any(mask.any() for mask in masks()), str(path), "masks with white where to edit", empty)
    return Masks(masks, still=still)


def _moving_masks(masks: Video, times: int) -> Iterator[np.ndarray]:
    for frame in masks.frames(ground=0):
        mask = luma(frame) / np.float32(255)
        if masks.is_lossy:
            mask[mask <= _MASK_NOISE] = 0
            mask[mask >= 1 - _MASK_NOISE] = 1
        for _ in range(times):
            yield mask
