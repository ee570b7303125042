import io

import pytest
from rich.console import Console

from csd_nerf.editing.progress import LINE_EVERY, RunProgress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def printed() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def progress(clock: Clock, printed: io.StringIO) -> RunProgress:
    """A run of 100 steps whose rounds come before the steps 40 and 70."""
    return RunProgress(
        0,
        100,
        rounds_left=lambda step: sum(due >= step for due in (40, 70)),
        describe=lambda step: "base training" if step < 40 else "training on edits",
        console=Console(file=printed, width=120),
        clock=clock,
    )


def steps(progress: RunProgress, clock: Clock, which: range, seconds: float) -> None:
    for step in which:
        clock.now += seconds
        progress.step_done(step)


def test_counts_rounds_once_they_were_timed(progress: RunProgress, clock: Clock) -> None:
    with progress:
        assert progress.left() == "not timed yet"
        steps(progress, clock, range(40), 2)
        assert progress.left() == "about 2 min and 2 rounds of edits left"  # 60 steps of 2 s
        with progress.round(1):
            clock.now += 600
        steps(progress, clock, range(40, 41), 2)
        assert progress.left() == "about 12 min left"  # 59 steps of 2 s, one round of 600 s
        steps(progress, clock, range(41, 100), 2)
        assert progress.left() == "done"


def test_a_resumed_run_counts_what_is_left(clock: Clock, printed: io.StringIO) -> None:
    console = Console(file=printed, width=120)
    with RunProgress(90, 100, lambda step: 0, lambda step: "training", console, clock) as progress:
        steps(progress, clock, range(90, 95), 3)
        assert progress.left() == "about 15 s left"


def test_prints_a_line_now_and_then_without_a_terminal(
    progress: RunProgress, clock: Clock, printed: io.StringIO
) -> None:
    with progress:
        steps(progress, clock, range(40), LINE_EVERY / 10)
        with progress.round(1), progress.task("editing", 10) as advance:
            for _ in range(10):
                clock.now += LINE_EVERY / 2
                advance(1)
        steps(progress, clock, range(40, 100), 0.01)
    lines = printed.getvalue().splitlines()
    assert len(lines) == 4 + 5 + 1
    assert lines[0].startswith("base training 10/100, about 2 min and 2 rounds of edits left")
    assert any(line.startswith("round 1: editing 4/10, about 45 s left") for line in lines)
    assert lines[-1] == "training on edits 100/100, done"


def test_tick_is_called_after_every_step_and_part_of_a_round(printed: io.StringIO) -> None:
    ticks: list[int] = []
    run = RunProgress(
        0, 9, lambda step: 0, lambda step: "", Console(file=printed), tick=lambda: ticks.append(1)
    )
    with run, run.round(1), run.task("editing", 4) as advance:
        advance(1)
        advance(3)
    run.step_done(0)
    assert len(ticks) == 3
