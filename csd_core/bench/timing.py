"""The one way to time: contenders in turn within every round, so that a slower machine slows all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Contender:
    """Something to time."""

    run: Work
    units: int = 1
    """How many particle-steps (or what else is counted) a run does; seconds are of one."""


class Rounds:
    """Seconds of contenders, round by round.

    Args:
        device: whose work is waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, list[float]] = {}
        """Name -> seconds of a unit in each round."""

    def time(self, name: str, work: Work, units: int = 1) -> float:
        """Run some work and note what a unit of it took, in seconds."""
        seconds = seconds_of(work, self._device) / units
        self.note(name, seconds)
        return seconds

    def note(self, name: str, seconds: float) -> None:
        """Note seconds that were taken elsewhere, as this round's."""
        self.seconds.setdefault(name, []).append(seconds)

    def median(self, name: str) -> float:
        """Seconds of a unit."""
        return statistics.median(self.seconds[name])

    def ratio(self, above: str, below: str) -> float:
        """The median of the rounds' ratios, in which what slowed both is gone."""
        pairs = zip(self.seconds[above], self.seconds[below], strict=True)
        return statistics.median(a / b for a, b in pairs)


def alternate(contenders: Mapping[str, Contender], rounds: int, device: torch.device) -> Rounds:
    """Time contenders in turn; every other round backwards, so that a drift favours none of them."""
    timed = Rounds(device)
    for k in range(rounds):
        names = list(contenders)
        for name in reversed(names) if k % 2 else names:
            timed.time(name, contenders[name].run, contenders[name].units)
    return timed


def seconds_of(work: Work, device: torch.device) -> float:
    """Seconds until a device has done some work, and nothing that came before it."""
    wait_for(device)
    start = time.perf_counter()
    work()
    return seconds_since(start, device)


def seconds_since(start: float, device: torch.device) -> float:
    """Seconds since time.perf_counter() was start, once the device is done."""
    wait_for(device)
    return time.perf_counter() - start


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
