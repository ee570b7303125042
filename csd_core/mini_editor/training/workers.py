"""Work that is shared out to processes, one for each core."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def drawn_by_all_cores(draw: Callable[[int], T], count: int, at_a_time: int) -> Iterator[T]:
    """draw(0), draw(1), ... draw(count - 1), in this order; each process draws `at_a_time` of them in a row.

    What is no more than that is drawn here. `draw` is sent to the processes, so it is a function of a module,
    or a partial of one.
    """
    if count <= at_a_time:
        yield from map(draw, range(count))
        return
    # not forked: a lock that another thread holds at that moment is never released in the copy
    context = multiprocessing.get_context("spawn")
    processes = min(os.cpu_count() or 1, -(-count // at_a_time))
    with ProcessPoolExecutor(processes, context, torch.set_num_threads, (1,)) as workers:
        yield from workers.map(draw, range(count), chunksize=at_a_time)
