"""Contenders take turns, and ratios are of what was timed in the same round."""

import pytest
import torch

from csd_core.bench import timing
from csd_core.bench.timing import Contender, Rounds, alternate

CPU = torch.device("cpu")


def test_contenders_take_turns_and_every_other_round_goes_backwards():
    ran = []
    contenders = {name: Contender(lambda name=name: ran.append(name)) for name in "abc"}
    timed = alternate(contenders, 3, CPU)
    assert "".join(ran) == "abc" + "cba" + "abc"
    assert {name: len(seconds) for name, seconds in timed.seconds.items()} == dict.fromkeys("abc", 3)


def test_seconds_are_of_a_unit(monkeypatch):
    clock = iter(range(100))  # a second from each look at the clock to the next
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    timed = alternate({"a": Contender(lambda: next(clock), units=4)}, 2, CPU)
    assert timed.seconds == {"a": [2 / 4, 2 / 4]}


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    timed = Rounds(CPU)
    for a, b in ((2, 1), (30, 10), (5, 1)):  # the second round was slow for both
        timed.note("a", a)
        timed.note("b", b)
    assert timed.ratio("a", "b") == 3
    assert (timed.median("a"), timed.median("b")) == (5, 1)


def test_a_contender_that_was_not_timed_in_every_round_is_noticed():
    timed = Rounds(CPU)
    for name in "aab":
        timed.note(name, 1.0)
    with pytest.raises(ValueError, match="zip"):
        timed.ratio("a", "b")
