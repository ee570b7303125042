"""What a figure was measured on, and the memory it took."""

import math
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

PACKAGES = ("csd-nerf2nerf", "torch", "diffusers", "transformers", "safetensors", "numpy", "pillow")


def describe_machine() -> dict[str, str]:
    """What the figures were taken on."""
    cpuinfo = Path("/proc/cpuinfo")
    names = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    model = next((line.split(":")[1].strip() for line in names if line.startswith("model name")), "")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "cores": str(psutil.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "gpu": gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def versions(*more: str) -> dict[str, str]:
    """Package -> version, of those that a result depends on, and of more."""
    found = {}
    for package in (*PACKAGES, *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a folder that was never installed
            found[package] = "not installed"
    return found


class CpuTimes(NamedTuple):
    """Seconds since some moment."""

    wall: float
    own: float
    """That this process computed, over all cores."""
    all: float
    """That anybody computed on the cores that this process may use."""
    cores: int
    """How many these are."""

    @classmethod
    def now(cls) -> "CpuTimes":
        """Read the clocks."""
        cores = psutil.cpu_times(percpu=True)
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(cores))
        mine = [core for number, core in enumerate(cores) if number in allowed]
        own = psutil.Process().cpu_times()
        busy = sum(core.user + core.nice + core.system for core in mine)
        return cls(time.monotonic(), own.user + own.system, busy, len(mine))


class FreeCores:
    """Keeps torch off the cores that other processes use.

    Threads of one operation wait for each other: with two threads on two cores and one other busy process, a
    training step of a small scene took four to seven times as long, with one thread 1.5 times as long.

    Args:
        clock: gives the times; for tests.
        set_threads: takes the new number.
        most: threads to use where no other process computes. Default: torch's number now.
    """

    SECONDS = 1.0
    """Between two looks."""

    def __init__(
        self,
        clock: Callable[[], CpuTimes] = CpuTimes.now,
        set_threads: Callable[[int], None] = torch.set_num_threads,
        most: int | None = None,
    ) -> None:
        self._clock, self._set = clock, set_threads
        self._most = self._threads = torch.get_num_threads() if most is None else most
        self._last = clock()
        # a number that was asked for stays
        self._fixed = self._most == 1 or "OMP_NUM_THREADS" in os.environ

    def look(self) -> None:
        """Fit torch's threads to what was free since the last look. Call it often, from the main thread."""
        if self._fixed or time.monotonic() - self._last.wall < self.SECONDS:
            return
        now, before = self._clock(), self._last
        self._last = now
        wall = now.wall - before.wall
        others = ((now.all - before.all) - (now.own - before.own)) / wall
        wanted = min(self._most, max(1, math.floor(now.cores - others + 0.5)))
        if wanted != self._threads:
            self._threads = wanted
            self._set(wanted)
