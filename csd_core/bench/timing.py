"""Contenders are timed in turn within every round, so that a slower machine slows all of them.

torch.utils.benchmark has no such thing: its Timer runs one contender at a time, and at least twice before it
counts, which is too much for whole edits.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


def timer() -> float:
    """Seconds of a clock, read when the GPU has done all its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass(frozen=True)
class Contender:
    """Something to time."""

    run: Callable[[], object]
    units: int = 1
    """How many particle-steps (or what else is counted) a run does."""


class Timings:
    """Seconds of contenders, round by round."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        """Name -> seconds of a unit in each round."""

    def median(self, name: str) -> float:
        """Seconds of a unit."""
        return statistics.median(self.seconds[name])

    def ratio(self, above: str, below: str) -> float:
        """Seconds of one over those of another: the median of the rounds' ratios."""
        pairs = zip(self.seconds[above], self.seconds[below], strict=True)
        return statistics.median(a / b for a, b in pairs)


def alternate(contenders: Mapping[str, Contender], rounds: int) -> Timings:
    """Time contenders in turn; every other round backwards, so that a drift favours none of them."""
    timings = Timings()
    for k in range(rounds):
        names = list(contenders)
        for name in reversed(names) if k % 2 else names:
            start = timer()
            contenders[name].run()
            timings.seconds[name].append((timer() - start) / contenders[name].units)
    return timings
