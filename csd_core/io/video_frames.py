"""What a source of frames is: a file or a folder whose frames are decoded one after the other."""

from collections.abc import Callable, Generator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from csd_core.io.video_colours import Colours

DEFAULT_RATE = Fraction(24)
"""Frames per second where a file has no times, such as a folder of pictures."""


class Frame(NamedTuple):
    """A decoded frame."""

    name: str
    time: Fraction | None
    """When it is shown, in seconds of the file."""
    length: Fraction
    """How long it is shown according to the file; 0 if unknown."""
    size: tuple[int, int]
    colours: Colours | None
    aspect: Fraction
    may_be_clear: bool
    is_damaged: bool
    """Its decoder has replaced what it could not read."""
    pixels: Callable[[], np.ndarray]
    """RGB or, where it may be transparent, RGBA: (H, W, 3 or 4) uint8."""


class Chapter(NamedTuple):
    """A chapter, from start to end in seconds."""

    start: Fraction
    end: Fraction
    metadata: dict[str, str]


class Source:
    """Yields frames, from the beginning at every iteration. Can be pickled: rank 0 sends it to the others.

    Attributes:
        has_sound: the file has sound of a known codec.
        notes: what a user should know; some is found by decoding all frames.
        metadata: title and the like.
        chapters: of the whole file.
        plays: how often an animation is played, 0 for endlessly; None for what is no animation.
        timeless: says that there are no times; empty where they do not matter.
        tick: times are rounded to multiples of this.
        rates: frame rates that the file states.
        is_lossy: the codec changes pixels.
        stated_end: when the last frame ends, in seconds of the file, if it states that.
        stated_length: how long all frames last, if it states that.
    """

    has_sound = False
    chapters: tuple[Chapter, ...] = ()
    plays: int | None = None
    timeless = "the video does not state when each frame is shown"
    tick = Fraction(1, 1000)
    rates: tuple[Fraction, ...] = ()
    is_lossy = False
    stated_end: Fraction | None = None
    stated_length: Fraction | None = None

    def __init__(self, path: Path, max_pixels: int) -> None:
        self.path, self.max_pixels = path, max_pixels
        self.metadata: dict[str, str] = {}
        self.notes: list[str] = []

    def __iter__(self) -> Generator[Frame]:
        raise NotImplementedError

    def note(self, text: str) -> None:
        """Add a note, unless it is there."""
        if text not in self.notes:
            self.notes.append(text)
