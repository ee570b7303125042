"""Contenders take turns, and ratios are of what was timed in the same round."""

import pytest

from csd_core.bench import timing
from csd_core.bench.timing import Contender, Timings, alternate


def test_contenders_take_turns_and_every_other_round_goes_backwards():
    ran = []
    contenders = {name: Contender(lambda name=name: ran.append(name)) for name in "abc"}
    timings = alternate(contenders, 3)
    assert "".join(ran) == "abc" + "cba" + "abc"
    assert {name: len(seconds) for name, seconds in timings.seconds.items()} == dict.fromkeys("abc", 3)


def test_seconds_are_of_a_unit(monkeypatch):
    clock = iter(range(100))  # a second from each reading of the clock to the next
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    timings = alternate({"a": Contender(lambda: next(clock), units=4)}, 2)
    assert timings.seconds == {"a": [2 / 4, 2 / 4]}


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    timings = Timings()
    timings.seconds |= {"a": [2.0, 30.0, 5.0], "b": [1.0, 10.0, 1.0]}  # the second round was slow for both
    assert timings.ratio("a", "b") == 3
    assert (timings.median("a"), timings.median("b")) == (5, 1)


def test_contenders_timed_in_different_numbers_of_rounds_have_no_ratio():
    timings = Timings()
    timings.seconds |= {"a": [1.0, 1.0], "b": [1.0]}
    with pytest.raises(ValueError, match="zip"):
        timings.ratio("a", "b")
