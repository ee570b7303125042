"""What each speed-up gains over the plain scheme, alone and all together, over a whole short edit."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from csd_core.bench.edits import ShortEdit, short_edit
from csd_core.bench.options import BenchConfig
from csd_core.bench.timing import alternate
from csd_core.bench.workloads import PLAIN, Setup, Speedup, missing

NONE, TOGETHER = "plain", "together"


@dataclass(frozen=True)
class Gain:
    """One way of computing the edit."""

    setup: str
    evaluations: float
    """For each particle-step, counted as they happened."""
    seconds: float
    """Of a particle-step."""
    gain: float
    """Seconds of the plain scheme over these, the median of the rounds' ratios."""


def bench_speedups(config: BenchConfig) -> list[dict[str, Any]]:
    """Measure and print it for each model."""
    absent = {name: why for name in config.speedups if (why := missing(name, config.device))}
    present: list[Speedup] = [name for name in config.speedups if name not in absent]
    results = []
    for model in config.models:
        chosen = setups(present, config.device)
        edits = {name: short_edit(config, model, setup) for name, setup in chosen.items()}
        gains = measure_gains(edits, config.rounds)
        print(format_gains(edits, gains, config.rounds), flush=True)
        for name, why in absent.items():
            print(f"  {name:<14}  none   {why}", flush=True)
        workload = edits[NONE].workload
        figures = {name: asdict(gain) for name, gain in gains.items()}
        results.append({"model": workload.name, "device": workload.device.type, "gains": figures})
    return results


def setups(speedups: Sequence[Speedup], device: torch.device) -> dict[str, Setup]:
    """The plain scheme; it with each speed-up alone; and where there are several, with all of them."""
    found = {NONE: PLAIN} | {name: PLAIN.with_speedup(name, device) for name in speedups}
    together = PLAIN
    for name in speedups:
        together = together.with_speedup(name, device)
    return {**found, TOGETHER: together} if len(speedups) > 1 else found


def measure_gains(edits: dict[str, ShortEdit], rounds: int) -> dict[str, Gain]:
    """Time all of them in turn."""
    for edit in edits.values():
        edit.warm_up()
    contenders = {name: edit.ours for name, edit in edits.items()}
    timed = alternate(contenders, rounds, edits[NONE].workload.device)
    return {
        name: Gain(
            setup=str(edit.workload.setup),
            evaluations=edit.recorder.evaluations / edit.particle_steps,
            seconds=timed.median(name),
            gain=timed.ratio(NONE, name),
        )
        for name, edit in edits.items()
    }


def format_gains(edits: dict[str, ShortEdit], gains: dict[str, Gain], rounds: int) -> str:
    """The figures as a few lines of text."""
    lines = ["", f"gain of the speed-ups, {edits[NONE].describe(rounds)}"]
    for name, gain in gains.items():
        lines.append(
            f"  {name:<14}{gain.gain:6.2f}   {gain.seconds:.4f} s and {gain.evaluations:.2f} evaluations a "
            f"particle-step; {gain.setup}"
        )
    return "\n".join(lines)
