"""Steps of an edit, timed as they happen."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from csd_core.bench import Workload, bare_evaluations, wait_for
from csd_core.denoisers.batching import at_a_time
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.prepared import PreparedEdit


@dataclass(frozen=True)
class Step:
    """One step of the engine."""

    seconds: float
    evaluations: int
    bare: float
    """Seconds of as many evaluations of the bare network."""


def time_steps(workload: Workload, edit: PreparedEdit, count: int) -> list[Step]:
    """Time steps 1 to count of an edit, and after each of them the bare network, then stop.

    So both have seen the same machine. Step 0 has what is done once for all steps, and warms up.
    """
    denoiser, timed = workload.denoiser, []
    begun, before = 0.0, 0

    def time_step(step: int, _: Tensor) -> bool:
        nonlocal begun, before
        seconds = seconds_since(begun, denoiser)
        spent = counted.count - before
        if step > 0:
            bare = bare_evaluations(workload, spent, at_a_time(edit.edit.max_batch))
            timed.append(Step(seconds, spent, seconds_of(bare, denoiser)))
        begun, before = time.perf_counter(), counted.count
        return len(timed) == count

    with denoiser.count_evaluations() as counted:
        edit.run(callback=time_step)
    return timed


def seconds_since(start: float, denoiser: InstructPix2Pix) -> float:
    """Seconds since time.perf_counter() was start, once the device is done."""
    wait_for(denoiser.device)
    return time.perf_counter() - start


def seconds_of(work: Callable[[], object], denoiser: InstructPix2Pix) -> float:
    """Seconds that something takes."""
    wait_for(denoiser.device)
    start = time.perf_counter()
    work()
    return seconds_since(start, denoiser)
