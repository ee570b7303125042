"""Progress of a run and the time that remains, estimated from this run's own speed.

On a terminal two bars (the run, the current part of a round); elsewhere a line every 15 seconds.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from csd_core.engine.progress import duration
from csd_nerf.console import CONSOLE

LINE_EVERY = 15.0  # seconds between two lines where there is no terminal
_MEMORY = 0.98  # of the running mean of the time of a step


class RunProgress:
    """Progress of a run of training steps with rounds of edits between them.

    Args:
        first: the first step of the run.
        total: the number of steps, counted from step 0.
        rounds_left: number of rounds from a given step on.
        describe: the phase of a step, such as "base training".
        tick: called after every step and part of a round.
    """

    def __init__(
        self,
        first: int,
        total: int,
        rounds_left: Callable[[int], int],
        describe: Callable[[int], str],
        console: Console = CONSOLE,
        clock: Callable[[], float] = time.monotonic,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._next, self._total = first, total
        self._rounds_left, self._describe = rounds_left, describe
        self._clock, self._console, self._tick = clock, console, tick
        self._step_seconds: float | None = None
        self._round_seconds: float | None = None
        self._mark = self._last_line = clock()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal or console.quiet,
        )
        self._run: TaskID | None = None

    def __enter__(self) -> "RunProgress":
        self._mark = self._last_line = self._clock()
        self._bars.start()
        self._run = self._bars.add_task(
            self._describe(self._next), total=self._total, completed=self._next, left=""
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def step_done(self, step: int) -> None:
        """A step of training is done."""
        now = self._clock()
        spent, self._mark = now - self._mark, now
        before = self._step_seconds
        self._step_seconds = spent if before is None else _MEMORY * before + (1 - _MEMORY) * spent
        self._next = step + 1
        self._tick()
        self._show(f"{self._describe(step)} {step + 1}/{self._total}")

    def left(self) -> str:
        """The time that remains, in words."""
        if self._next >= self._total:
            return "done"
        rounds = self._rounds_left(self._next)
        if self._step_seconds is None:
            return "not timed yet"
        seconds = (self._total - self._next) * self._step_seconds
        untimed = ""
        if rounds and self._round_seconds is None:
            untimed = f" and {rounds} round{'s' if rounds > 1 else ''} of edits"
        elif rounds and self._round_seconds is not None:
            seconds += rounds * self._round_seconds
        return f"about {duration(seconds)}{untimed} left"

    @contextmanager
    def round(self, number: int) -> Iterator[None]:
        """A round of edits; its time does not count as training."""
        began = self._clock()
        self._number = number
        yield
        self._round_seconds = self._clock() - began
        self._mark = self._clock()

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """A part of a round; yields a function to call with the number of units done."""
        began, done = self._clock(), 0
        title = f"round {self._number}: {name}"
        bar = self._bars.add_task(title, total=total, left="")

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self._tick()
            left = (self._clock() - began) * (total - done) / max(done, 1)
            self._bars.update(bar, completed=done, left=f"about {duration(left)} left")
            self._line(f"{title} {done}/{total}, about {duration(left)} left")

        try:
            yield advance
        finally:
            self._bars.remove_task(bar)

    def _show(self, text: str) -> None:
        left = self.left()
        if self._run is not None:
            self._bars.update(
                self._run, description=self._describe(self._next), completed=self._next, left=left
            )
        self._line(f"{text}, {left}", always=self._next >= self._total)

    def _line(self, text: str, always: bool = False) -> None:
        now = self._clock()
        if not self._console.is_terminal and (always or now - self._last_line >= LINE_EVERY):
            self._console.print(text, highlight=False)
            self._last_line = now
