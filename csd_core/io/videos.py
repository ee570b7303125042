"""Videos as callers read them: what a file or a folder of pictures holds, and its frames.

Frames are decoded one after the other on request; none is kept. Times are exact fractions of
seconds. Pixels are upright RGB of 8 bits, as the colour tags of the video state; HDR keeps its curve. What is
transparent becomes white, colour profiles of pictures are not applied.

video_sources decodes, video_writer writes, video_masks reads masks.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from csd_core.errors import UserError, expect
from csd_core.io.images import MAX_PIXELS, sides
from csd_core.io.video_colours import Colours, untagged_colours
from csd_core.io.video_sources import DEFAULT_RATE, Frame, Source, open_source

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
        has_sound: the file has sound.
        start: time in the file when the first selected frame is shown, as written.
        sound_from: time in the file where a selection cuts the sound; None if it does not.
        sound_to: where it ends likewise.
        aspect: width of a pixel by its height.
        metadata: title and the like.
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
    aspect: Fraction
    metadata: dict[str, str]
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
) -> Video:
    """Decode a whole video once, so that damage is found now, and return what is in it.

    A folder is read as the pictures in it, in the natural order of their names (2 before 10), at
    DEFAULT_RATE; hidden and other files are left out. A still picture is a video of one frame.

    Args:
        path: a file or a folder.
        frames: the frames to select, in the order of the file.
        max_frames: how many may be selected.
        max_pixels: how many a frame may have.

    Raises:
        UserError: there is no such file, no video in it, it is damaged or cut off, its frames differ in size,
            none or too many are selected, or they are too large.
    """
    expect(frames.step is None or frames.step > 0, "--frames", "a step of at least 1", frames.step)
    source = open_source(path, max_pixels)
    found = _scan(path, source, frames, max_frames)
    indices = range(len(found.stamps))[frames]
    got = f"{_written(frames)} of {len(found.stamps)} frames; choose another part with --frames"
    expect(len(indices) > 0, str(path), "a selection that holds a frame", got)
    line = _timeline(found.stamps, found.last.length, source)
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
        aspect=found.first.aspect,
        metadata=source.metadata,
        notes=(*source.notes, *line.notes, *found.notes),
        colours=found.first.colours or untagged_colours(found.first.size[0]),
        _source=source,
    )


class _Found(NamedTuple):
    """What was found by decoding all frames."""

    first: Frame
    last: Frame
    stamps: list[Fraction | None]
    notes: tuple[str, ...]


def _scan(path: Path, source: Source, frames: slice, max_frames: int) -> _Found:
    first = last = None
    stamps: list[Fraction | None] = []
    clear = False
    counts = frames.start is None or frames.start >= 0  # otherwise the number selected may shrink again
    with closing(iter(source)) as stream:
        for frame in stream:
            first, last = first or frame, frame
            _check_size(path, frame, first)
            stamps.append(frame.time)
            if counts:
                _check_count(path, len(range(len(stamps))[frames]), max_frames)
            clear = clear or (frame.may_be_clear and _is_clear(frame.pixels()))
    if first is None or last is None:
        raise UserError(f"{path}: expected a video, got one without a frame; copy or save it again")
    _check_count(path, len(range(len(stamps))[frames]), max_frames)
    notes = ("what is transparent becomes white",) if clear else ()
    if first.colours and first.colours.is_hdr:
        notes += ("the video is HDR: frames are edited and written with 8 bits, on its own curve",)
    return _Found(first, last, stamps, notes)


def _check_size(path: Path, frame: Frame, first: Frame) -> None:
    got = f"{sides(first.size)} in {first.name} and {sides(frame.size)} in {frame.name}; scale them alike"
    expect(frame.size == first.size, str(path), "frames of one size", got)


def _check_count(path: Path, selected: int, max_frames: int) -> None:
    got = "more; choose a part with --frames START:STOP, or raise --max-frames"
    expect(selected <= max_frames, str(path), f"at most {max_frames} frames", got)


class _Timeline(NamedTuple):
    """When frames are shown, in the time of the file."""

    times: list[Fraction]
    end: Fraction
    rate: Fraction | None
    notes: tuple[str, ...] = ()


def _timeline(stamps: list[Fraction | None], last_length: Fraction, source: Source) -> _Timeline:
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) < len(stamps) or any(after <= before for before, after in pairwise(known)):
        rate, first = next(iter(source.rates), DEFAULT_RATE), min(known, default=Fraction(0))
        times = [first + k / rate for k in range(len(stamps))]
        note = f"the video does not state when each frame is shown: {rate} frames per second are assumed"
        return _Timeline(times, times[-1] + 1 / rate, rate, (note,))
    rate = _rate(known, last_length, source)
    times = [known[0] + k / rate for k in range(len(known))] if rate else known
    usual = 1 / rate if rate else (known[-1] - known[-2] if len(known) > 1 else 1 / DEFAULT_RATE)
    length = source.stated_length
    end = source.stated_end or (known[0] + length if length else known[-1] + last_length)
    slack = max(source.tick, Fraction(1, 1000))  # an mp4 may round the end to milliseconds
    if end <= times[-1] or (rate and abs(end - times[-1] - usual) <= slack <= usual / 4):
        end = times[-1] + usual
    return _Timeline(times, end, rate)


def _rate(times: list[Fraction], last_length: Fraction, source: Source) -> Fraction | None:
    """Frames per second that explain the times up to their rounding to ticks; None if they vary."""
    steps = {after - before for before, after in pairwise(times)} or {last_length} - {0}
    even = [1 / step for step in steps] if len(steps) == 1 else []
    for rate in (*_likely(source.rates), *even):
        # rounding is assumed only where ticks are fine, and of rates that there are
        rounded = source.tick <= min(Fraction(1, 500), 1 / rate / 4) and rate.denominator in (1, 1001)
        slack = source.tick if rounded else 0
        if all(abs(time - times[0] - k / rate) <= slack for k, time in enumerate(times)):
            return rate
    return None


def _likely(rates: Iterable[Fraction]) -> Iterator[Fraction]:
    """What a file states, and what it may have been before it was rounded."""
    for rate in rates:
        yield rate
        if whole := round(rate):
            yield Fraction(whole)
            yield Fraction(whole * 1000, 1001)


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
