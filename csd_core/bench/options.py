"""What to measure, and how much of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from csd_core.bench.workloads import ModelName, Speedup
from csd_core.errors import expect

Size = tuple[int, int]
"""Width and height in pixels."""

LEAST_SIDE = 128
"""Pixels: a window of the shipped editor."""


@dataclass(frozen=True)
class Amounts:
    """How much of each thing, where nothing else is asked for."""

    rounds: int = 3
    particles: int = 8
    steps: int | None = None
    timed_steps: int = 3
    speedups: tuple[Speedup, ...] = get_args(Speedup)
    sizes: tuple[str, ...] = ("1920x640", "3968x4352", "8192x4096")
    compare_sizes: tuple[str, ...] = ("1920x640", "3968x4352")
    frames: tuple[int, ...] = (24, 240, 2400)


FULL = Amounts()
QUICK = Amounts(
    rounds=1,
    particles=2,
    steps=2,
    timed_steps=1,
    speedups=("reuse", "channels-last", "precision"),
    sizes=("256x192",),
    compare_sizes=("192x128",),
    frames=(2, 4),
)


@dataclass
class BenchOptions:
    """What to measure."""

    parts: tuple[str, ...] = ()
    """Which parts, by name. Default: all."""
    quick: bool = False
    """Little of everything, in less than a minute: to see that it works, not what it costs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where. auto takes CUDA where there is one."""
    models: tuple[ModelName, ...] | None = None
    """overhead, published, speedups: mini, the shipped editor; sd15, a UNet of Stable Diffusion 1.5's size
    with random weights. Default: mini, on CUDA both."""
    max_batch: int = 16
    """Evaluations at a time, of all contenders but the published scheme."""
    rounds: int | None = None
    """Rounds, in each of which every contender is timed once, and of which the median counts. Default: 3."""
    particles: int | None = None
    """Particles of the short edit, all in every step. Default: 8."""
    steps: int | None = None
    """Steps of the short edit. Default: as many as the preset has for a short video."""
    timed_steps: int | None = None
    """Steps to time of a panorama or a video, of which the median counts. Default: 3."""
    speedups: tuple[Speedup, ...] | None = None
    """Which of them, each alone and all together. Default: all; with --quick all but compile."""
    sizes: tuple[str, ...] | None = None
    """Panoramas: width x height of each. Default: 1920x640 3968x4352 8192x4096."""
    compare_sizes: tuple[str, ...] | None = None
    """Panoramas: sizes at which csd is set against ip2p-overlap. Default: 1920x640 3968x4352."""
    frames: tuple[int, ...] | None = None
    """Videos: numbers of frames. Default: 24 240 2400."""
    json: Path | None = None
    """Also write the figures here."""

    def settled(self) -> "BenchConfig":
        """What is left open, set.

        Raises:
            UserError: an option out of range; an absent device.
        """
        from csd_core.denoisers.loading import resolve_device

        amounts = QUICK if self.quick else FULL
        device = resolve_device(None if self.device == "auto" else self.device)
        on_cuda = device.type == "cuda"

        def given(name: str) -> Any:
            value = getattr(self, name)
            return getattr(amounts, name) if value is None else value

        models = self.models if self.models is not None else ("mini", "sd15") if on_cuda else ("mini",)
        config = BenchConfig(
            device=device,
            models=models,
            max_batch=self.max_batch,
            rounds=given("rounds"),
            particles=given("particles"),
            steps=given("steps"),
            timed_steps=given("timed_steps"),
            speedups=given("speedups"),
            sizes=[parse_size("sizes", text) for text in given("sizes")],
            compare_sizes=[parse_size("compare_sizes", text) for text in given("compare_sizes")],
            frames=given("frames"),
            quick=self.quick,
        )
        config.check()
        return config


@dataclass(frozen=True)
class BenchConfig:
    """BenchOptions with nothing left open."""

    device: torch.device
    models: tuple[ModelName, ...]
    max_batch: int
    rounds: int
    particles: int
    steps: int | None
    """None: the preset's."""
    timed_steps: int
    speedups: tuple[Speedup, ...]
    sizes: list[Size]
    compare_sizes: list[Size]
    frames: tuple[int, ...]
    quick: bool

    def check(self) -> None:
        """Raise a UserError that names the first option out of range."""
        for name in ("max_batch", "rounds", "particles", "timed_steps"):
            expect(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        expect(self.steps is None or self.steps >= 2, "steps", "at least 2", self.steps)
        expect(min(self.frames, default=0) >= 1, "frames", "numbers of frames, at least 1", self.frames)


def parse_size(name: str, text: str) -> Size:
    """'1920x640' as (1920, 640).

    Raises:
        UserError: it is none, or a side is shorter than LEAST_SIDE pixels.
    """
    least = LEAST_SIDE
    sides = text.lower().split("x")
    good = len(sides) == 2 and all(side.isascii() and side.isdigit() and int(side) >= least for side in sides)
    expect(good, name, f"WIDTHxHEIGHT in pixels, each at least {least}", repr(text))
    return int(sides[0]), int(sides[1])
