"""How much to measure, and where. Imports nothing heavy: the options of csd-bench are made from it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from csd_core.errors import expect

if TYPE_CHECKING:
    import torch

ModelName = Literal["mini", "sd15"]
"""The shipped editor; a UNet of Stable Diffusion 1.5's size with random weights."""

Size = tuple[int, int]
"""Width and height in pixels."""

LEAST_SIDE = 128
"""Pixels: a window of the shipped editor."""


@dataclass(frozen=True)
class BenchConfig:
    """Amounts of everything."""

    device: "torch.device"
    rounds: int = 3
    """In each of which every contender is timed once."""
    particles: int = 8
    """Of the short edit, all of them in every step."""
    steps: int = 16
    """Of the short edit."""
    timed_steps: int = 3
    """Of an edit that is too long to be timed whole."""
    sizes: tuple[Size, ...] = ((1920, 640), (3968, 4352), (8192, 4096))
    """Of panoramas."""
    frames: tuple[int, ...] = (24, 240, 2400)
    """Of videos."""
    quick: bool = False
    """Leave out torch.compile; a small scene."""

    @property
    def models(self) -> tuple[ModelName, ...]:
        """Those that do the short edit."""
        return ("mini", "sd15") if self.device.type == "cuda" else ("mini",)

    def check(self) -> None:
        """Raise a UserError that names the first amount out of range."""
        for name in ("rounds", "particles"):
            expect(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        expect(min(self.frames, default=0) >= 1, "frames", "numbers of frames, at least 1", self.frames)


QUICK: dict[str, Any] = {
    "rounds": 1,
    "particles": 2,
    "steps": 2,
    "timed_steps": 1,
    "sizes": ((256, 192),),
    "frames": (2, 4),
    "quick": True,
}
"""Little of everything: to see that it works, not what it costs."""


def parse_size(text: str) -> Size:
    """'1920x640' as (1920, 640).

    Raises:
        UserError: not of this form, or a side is shorter than LEAST_SIDE pixels.
    """
    width, _, height = text.lower().partition("x")
    valid = all(side.isascii() and side.isdigit() and int(side) >= LEAST_SIDE for side in (width, height))
    expect(valid, "sizes", f"WIDTHxHEIGHT in pixels, each at least {LEAST_SIDE}", repr(text))
    return int(width), int(height)
