"""Videos as callers read them: what a file or a folder of pictures holds, and its frames.

Frames are decoded one after the other on request; none is kept. Times are exact fractions of
seconds. Pixels are upright RGB of 8 bits, as the colour tags of the video state; HDR keeps its curve. What is
transparent becomes white, colour profiles of pictures are not applied.

video_sources and video_decoder decode, video_times finds the times, video_writer writes, video_masks reads
masks.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from csd_core.errors import UserError, expect
from csd_core.io.images import MAX_PIXELS, sides
from csd_core.io.video_colours import Colours, untagged_colours
from csd_core.io.video_decoder import damaged
from csd_core.io.video_frames import Chapter, Frame, Source
from csd_core.io.video_sources import open_source
from csd_core.io.video_times import timeline

MAX_FRAMES = 3000
"""Default limit of selected frames."""


@dataclass(frozen=True)
class Video:
    """Frames of a file or folder, to be decoded one after the other.

    Attributes:
        path: the file or folder.
        height: rows of the upright picture.
        width: its columns.
        times: when each selected frame is shown, in seconds from the first of them on; strictly increasing.
        end: when the last one ends.
        indices: which frames of the file they are.
        total: frames in the file, as decoded.
        rate: of the selected frames per second, exactly; None where it varies. Pictures have DEFAULT_RATE.
        has_sound: the file has sound of a known codec.
        start: time in the file when the first selected frame is shown, as written.
        sound_from: time in the file where a selection cuts the sound; None if it does not.
        sound_to: where it ends likewise.
        shifts: by how much each part of a joined file is moved to follow the one before it; 0 for the first.
        aspect: width of a pixel by its height.
        metadata: title and the like.
        chapters: those of the selection, in seconds from the first selected frame on.
        plays: how often an animation is played, 0 for endlessly; None for what is no animation.
        notes: what a user should know about the input.
        colours: how the file codes them; as an untagged video where it does not.
    """

    path: Path
    height: int
    width: int
    times: tuple[Fraction, ...]
    end: Fraction
    indices: tuple[int, ...]
    total: int
    rate: Fraction | None
    has_sound: bool
    start: Fraction
    sound_from: Fraction | None
    sound_to: Fraction | None
    shifts: tuple[Fraction, ...]
    aspect: Fraction
    metadata: dict[str, str]
    chapters: tuple[Chapter, ...]
    plays: int | None
    notes: tuple[str, ...]
    colours: Colours = field(repr=False)
    _source: Source = field(repr=False, compare=False)

    @property
    def num_frames(self) -> int:
        """Selected frames."""
        return len(self.indices)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def is_lossy(self) -> bool:
        """The codec changes pixels."""
        return self._source.is_lossy

    def frames(self, ground: int = 255) -> Iterator[np.ndarray]:
        """The selected frames in order, (H, W, 3) uint8, decoded one by one, from the start at every call.

        Args:
            ground: level under what is transparent.

        Raises:
            UserError: the file has changed meanwhile.
        """
        remaining = iter(self.indices)
        wanted = next(remaining)
        with closing(iter(self._source)) as stream:
            for k, frame in enumerate(stream):
                if k < wanted:
                    continue
                got = f"{sides(frame.size)}; keep the file as it is during an edit"
                expect(frame.size == self.size, f"{self.path}, {frame.name}", sides(self.size), got)
                yield _over(frame.pixels(), ground)
                wanted = next(remaining, None)
                if wanted is None:
                    return
        got = "fewer; keep the file as it is during an edit"
        raise UserError(f"{self.path}: expected {self.total} frames as before, got {got}")


def read_video(
    path: Path,
    *,
    frames: slice = slice(None),
    max_frames: int = MAX_FRAMES,
    max_pixels: int = MAX_PIXELS,
    frame_rate: Fraction | None = None,
    allow_corrupt: bool = False,
) -> Video:
    """Decode a whole video once, so that damage is found now, and return what is in it.

    A folder is read as the pictures in it, in the natural order of their names (2 before 10); hidden and
    other files are left out. A still picture is a video of one frame.

    Args:
        path: a file or a folder.
        frames: the frames to select, in the order of the file.
        max_frames: how many may be selected.
        max_pixels: how many a frame may have.
        frame_rate: frames per second of what has no times, such as a folder. Default: DEFAULT_RATE.
        allow_corrupt: accept damaged frames, as far as they can be decoded.

    Raises:
        UserError: there is no such file, no video in it, it is damaged or cut off, its frames differ in size,
            none or too many are selected, they are too large, or frame_rate is given for what has times.
    """
    expect(frames.step is None or frames.step > 0, "--frames", "a step of at least 1", frames.step)
    source = open_source(path, max_pixels, allow_corrupt)
    found = _scan(path, source, frames, max_frames, allow_corrupt)
    indices = range(len(found.stamps))[frames]
    got = f"{_written(frames)} of {len(found.stamps)} frames; choose another part with --frames"
    expect(len(indices) > 0, str(path), "a selection that holds a frame", got)
    line = timeline(found.stamps, found.last.length, source, frame_rate)
    after = indices[-1] + indices.step
    cut, whole = indices[0] > 0, after >= len(line.times)
    start, end = line.times[indices[0]], line.end if whole else line.times[after]
    return Video(
        path=path,
        height=found.first.size[0],
        width=found.first.size[1],
        times=tuple(line.times[k] - start for k in indices),
        end=end - start,
        indices=tuple(indices),
        total=len(found.stamps),
        rate=line.rate / indices.step if line.rate else None,
        has_sound=source.has_sound,
        start=start,
        sound_from=start if cut else None,
        sound_to=None if whole else end,
        shifts=line.shifts,
        aspect=found.first.aspect,
        metadata=source.metadata,
        chapters=_cut(source.chapters, start, end),
        plays=source.plays,
        notes=(*source.notes, *line.notes),
        colours=found.first.colours or untagged_colours(found.first.size[0]),
        _source=source,
    )


class _Found(NamedTuple):
    """What was found by decoding all frames."""

    first: Frame
    last: Frame
    stamps: list[Fraction | None]


def _scan(path: Path, source: Source, frames: slice, max_frames: int, allow_corrupt: bool) -> _Found:
    first = last = None
    stamps: list[Fraction | None] = []
    clear, bad = False, list[str]()
    counts = frames.start is None or frames.start >= 0  # otherwise the number selected may shrink again
    with closing(iter(source)) as stream:
        for frame in stream:
            first, last = first or frame, frame
            _check_size(path, frame, first)
            if frame.is_damaged:
                bad += [_where(frame, first)]
                if not allow_corrupt:
                    raise damaged(path, bad[0])
            stamps.append(frame.time)
            if counts:
                _check_count(path, len(range(len(stamps))[frames]), max_frames)
            if frame.may_be_clear and not clear and _is_clear(frame.pixels()):
                clear = True
                source.note("what is transparent becomes white")
    if bad:
        source.note(f"damaged frames are edited as they are: {len(bad)}, the first {bad[0]}")
    if first is None or last is None:
        raise UserError(f"{path}: expected a video, got one without a frame; copy or save it again")
    _check_count(path, len(range(len(stamps))[frames]), max_frames)
    return _Found(first, last, stamps)


def _where(frame: Frame, first: Frame) -> str:
    if frame.time is None or first.time is None:
        return f"at {frame.name}"
    return f"at {float(frame.time - first.time):.2f} s ({frame.name})"


def _cut(chapters: tuple[Chapter, ...], start: Fraction, end: Fraction) -> tuple[Chapter, ...]:
    """Those of a selection, in its time."""
    parts = (Chapter(max(c.start, start) - start, min(c.end, end) - start, c.metadata) for c in chapters)
    return tuple(part for part in parts if part.start < part.end)


def _check_size(path: Path, frame: Frame, first: Frame) -> None:
    got = f"{sides(first.size)} in {first.name} and {sides(frame.size)} in {frame.name}; scale them alike"
    expect(frame.size == first.size, str(path), "frames of one size", got)


def _check_count(path: Path, selected: int, max_frames: int) -> None:
    got = "more; choose a part with --frames START:STOP, or raise --max-frames"
    expect(selected <= max_frames, str(path), f"at most {max_frames} frames", got)


def _written(frames: slice) -> str:
    """As --frames has it."""
    parts = [frames.start, frames.stop, *([frames.step] if frames.step else [])]
    return ":".join("" if part is None else str(part) for part in parts)


def _is_clear(pixels: np.ndarray) -> bool:
    return pixels.shape[2] == 4 and bool((pixels[..., 3] < 255).any())


def _over(pixels: np.ndarray, ground: int) -> np.ndarray:
    """RGB of RGB or RGBA on a ground, rounded."""
    if not _is_clear(pixels):
        return np.ascontiguousarray(pixels[..., :3])
    alpha = pixels[..., 3:].astype(np.uint32)
    mixed = pixels[..., :3] * alpha + ground * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)
