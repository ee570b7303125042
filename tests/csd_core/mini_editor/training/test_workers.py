"""What the processes draw comes back whole, in order, and from a fresh interpreter on one thread."""

import os
import threading

import pytest
import torch

from csd_core.mini_editor.training.workers import drawn_by_all_cores

LOCK = threading.Lock()


def draw(index: int) -> tuple[int, int, int]:
    return index, os.getpid(), torch.get_num_threads()


def draw_locked(index: int) -> int:
    assert LOCK.acquire(timeout=5), "a lock that nobody will release"
    LOCK.release()
    return index


def test_many_are_drawn_by_others_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # theirs, if they did not ask for one
    drawn = list(drawn_by_all_cores(draw, 7, at_a_time=2))
    assert [index for index, *_ in drawn] == list(range(7))
    assert os.getpid() not in {process for _, process, _ in drawn}
    assert {threads for *_, threads in drawn} == {1}


def test_a_lock_that_is_held_here_is_free_there() -> None:
    """In a copy of this process it would be held for ever."""
    with LOCK:
        assert list(drawn_by_all_cores(draw_locked, 3, at_a_time=1)) == [0, 1, 2]


def test_a_few_are_drawn_here() -> None:
    assert {process for _, process, _ in drawn_by_all_cores(draw, 3, at_a_time=3)} == {os.getpid()}
