"""What a whole edit takes, computed from a few of its steps: on a CPU a large one takes hours."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, TypeVar

from torch import Tensor, nn

from csd_core.bench.edits import Recorder
from csd_core.bench.models import TimedModel
from csd_core.bench.timing import timer
from csd_core.denoisers.runtime.memory import PeakMemory
from csd_core.engine.plan import count_evaluations
from csd_core.engine.prepared import PreparedEdit
from csd_core.engine.progress import Callback, duration

Edit = TypeVar("Edit", bound=PreparedEdit)


@dataclass(frozen=True)
class TimedStep:
    """One step of the engine."""

    seconds: float
    evaluations: int
    network_seconds: float
    """Of the network alone on the same inputs, timed directly after the step."""


@dataclass(frozen=True)
class StepCost:
    """The medians of some steps."""

    timed_steps: int
    seconds: float
    seconds_per_evaluation: float
    """Of the network alone."""
    seconds_besides: float
    """Of a step, besides the network."""
    share_besides: float
    """The same, as a share of the step."""

    @classmethod
    def of(cls, steps: Sequence[TimedStep]) -> "StepCost":
        """The medians."""
        return cls(
            timed_steps=len(steps),
            seconds=median(step.seconds for step in steps),
            seconds_per_evaluation=median(step.network_seconds / step.evaluations for step in steps),
            seconds_besides=median(step.seconds - step.network_seconds for step in steps),
            share_besides=median(1 - step.network_seconds / step.seconds for step in steps),
        )

    def seconds_of(self, steps: int, evaluations: int) -> float:
        """Of so many steps with so many evaluations in all; later steps may need fewer than the timed."""
        return steps * self.seconds_besides + evaluations * self.seconds_per_evaluation


def time_steps(network: nn.Module, run: Callable[[Callback], object], count: int) -> list[TimedStep]:
    """Time steps 1 to count of an edit, and after each of them the network alone, then stop.

    Step 0 is not timed: it does what is done once, and warms up.

    Args:
        network: the denoiser's.
        run: runs the edit with a callback.
        count: steps to time.
    """
    recorder, timed, start = Recorder(network), [], 0.0

    def callback(step: int, _: Tensor) -> bool:
        nonlocal start
        seconds, evaluations, stepped = timer() - start, recorder.evaluations, timer()
        if step > 0:
            recorder.replay()
            timed.append(TimedStep(seconds, evaluations, timer() - stepped))
        recorder.clear()
        start = timer()
        return len(timed) == count

    with recorder.recording():
        run(callback)
    return timed


@dataclass(frozen=True)
class EditCost:
    """A whole edit, of which some steps were run."""

    particles: int
    steps: int
    evaluations: int
    """Of the whole edit, counted without running it."""
    step: StepCost
    seconds_encode: float
    """Checks, layout and latents."""
    seconds_finish: float
    """Decoding, resizing."""
    latents: float
    """GiB of the latents, which grow with the input."""
    peak: float
    """Memory in GiB during all of it: what the device allocated, or on a CPU the whole process."""

    @property
    def besides_latents(self) -> float:
        """Memory in GiB that must not grow with the input."""
        return self.peak - self.latents

    @property
    def computed_seconds(self) -> float:
        """Of the whole edit."""
        loop = self.step.seconds_of(self.steps, self.evaluations)
        return self.seconds_encode + loop + self.seconds_finish

    def figures(self) -> dict[str, Any]:
        """For JSON."""
        computed = {"besides_latents": self.besides_latents, "computed_seconds": self.computed_seconds}
        return asdict(self) | computed

    def __str__(self) -> str:
        step = self.step
        return (
            f"  whole edit      {self.particles} particles, {self.steps} steps, {self.evaluations} "
            f"evaluations: {duration(self.computed_seconds)}, computed from {step.timed_steps} steps\n"
            f"  encode, finish  {self.seconds_encode:.2f} s, {self.seconds_finish:.2f} s\n"
            f"  a step          {step.seconds:.4f} s, {100 * step.share_besides:.1f} % of it besides the "
            f"network ({step.seconds_per_evaluation:.4f} s an evaluation)\n"
            f"  peak memory     {self.peak:.3f} GiB, {self.besides_latents:.3f} GiB besides the latents"
        )


def measure_edit(
    model: TimedModel,
    prepare: Callable[[], Edit],
    finish: Callable[[Edit, Tensor], float],
    timed_steps: int,
) -> tuple[EditCost, Edit]:
    """Prepare an edit, run its first steps and finish.

    Args:
        model: the model of the edit.
        prepare: makes the edit.
        finish: finishes a part of the edit from the latents of its source; returns the share of this part.
        timed_steps: steps to time, after one that is not.

    Returns:
        The cost, and the edit.
    """
    with PeakMemory(model.denoiser.device) as memory:
        start = timer()
        edit = prepare()
        source = edit.latents[0]
        encode = timer() - start
        step = StepCost.of(time_steps(model.unet, lambda callback: edit.run(callback=callback), timed_steps))
        start = timer()
        share = finish(edit, source)
        finished = (timer() - start) / share
    cost = EditCost(
        particles=edit.num_particles,
        steps=edit.edit.num_steps,
        evaluations=count_evaluations(model.denoiser, edit.edit, edit.prompts, edit.num_particles),
        step=step,
        seconds_encode=encode,
        seconds_finish=finished,
        latents=edit.nbytes / 2**30,
        peak=memory.peak,
    )
    return cost, edit
