"""Steps of an edit, timed as they happen."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from csd_core.bench.bare import Recorder
from csd_core.bench.timing import seconds_of, seconds_since
from csd_core.bench.workloads import Workload
from csd_core.engine.prepared import PreparedEdit


@dataclass(frozen=True)
class Step:
    """One step of the engine."""

    seconds: float
    evaluations: int
    bare: float
    """Seconds of the bare network on the same rows and chunks."""


@dataclass(frozen=True)
class StepCost:
    """The medians of some steps."""

    timed_steps: int
    seconds_step: float
    """Everything in the engine's loop."""
    seconds_per_evaluation: float
    """Of the bare network, on the chunks of a step."""
    seconds_besides: float
    """Of a step, besides the network."""
    besides_network: float
    """Share of a step that is not the network."""

    @classmethod
    def of(cls, steps: Sequence[Step]) -> "StepCost":
        """The medians."""
        return cls(
            timed_steps=len(steps),
            seconds_step=statistics.median(step.seconds for step in steps),
            seconds_per_evaluation=statistics.median(step.bare / step.evaluations for step in steps),
            seconds_besides=statistics.median(step.seconds - step.bare for step in steps),
            besides_network=statistics.median(1 - step.bare / step.seconds for step in steps),
        )

    def seconds_of(self, steps: int, evaluations: int) -> float:
        """What so many steps with so many evaluations in all take, of which later ones may need fewer."""
        return steps * self.seconds_besides + evaluations * self.seconds_per_evaluation


def time_steps(workload: Workload, edit: PreparedEdit, count: int) -> list[Step]:
    """Time steps 1 to count of an edit, and after each of them the bare network, then stop.

    So both have seen the same machine. Step 0 has what is done once for all steps, and warms up.
    """
    device, timed, recorder = workload.device, [], Recorder(workload.unet)
    begun = 0.0

    def time_step(step: int, _: Tensor) -> bool:
        nonlocal begun
        seconds, evaluations = seconds_since(begun, device), recorder.evaluations
        if step > 0:
            timed.append(Step(seconds, evaluations, seconds_of(recorder.replay, device)))
        recorder.clear()
        begun = time.perf_counter()
        return len(timed) == count

    with recorder.recording():
        edit.run(callback=time_step)
    return timed
