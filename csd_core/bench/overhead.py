"""What the engine costs beside the network: a short edit over the bare network on the same calls."""

from dataclasses import asdict, dataclass
from typing import Any

from csd_core.bench.edits import ShortEdit, short_edit
from csd_core.bench.options import BenchConfig
from csd_core.bench.timing import alternate
from csd_core.bench.workloads import Setup, default_setup

AT_MOST = 1.05
"""The target."""


@dataclass(frozen=True)
class Overhead:
    """Of one model, computed in one way."""

    model: str
    device: str
    setup: str
    particle_steps: int
    evaluations: int
    """Of the whole edit, counted as they happened."""
    calls: int
    """Of the network: the chunks."""
    seconds: float
    """Of the engine, a particle-step."""
    bare_seconds: float
    """Of the network alone, for each particle-step."""
    ratio: float


def bench_overhead(config: BenchConfig) -> list[dict[str, Any]]:
    """Measure and print it, for each model: with fresh draws, and as by default."""
    measured = []
    for model in config.models:
        setup = default_setup(config.device)
        setups = {"fresh draws": Setup(setup.dtype, setup.channels_last), "by default": setup}
        if setups["fresh draws"] == setup:
            del setups["fresh draws"]
        edits = {name: short_edit(config, model, setup) for name, setup in setups.items()}
        results = measure_overhead(edits, config.rounds)
        print(format_overhead(edits, results, config.rounds), flush=True)
        measured += [asdict(result) for result in results.values()]
    return measured


def measure_overhead(edits: dict[str, ShortEdit], rounds: int) -> dict[str, Overhead]:
    """Time each edit and then, on what it asked of the network, the network alone."""
    contenders = {}
    for name, edit in edits.items():
        edit.warm_up()
        contenders[name], contenders[f"bare, {name}"] = edit.ours, edit.bare
    timed = alternate(contenders, rounds, next(iter(edits.values())).workload.device)
    return {
        name: Overhead(
            model=edit.workload.name,
            device=edit.workload.device.type,
            setup=str(edit.workload.setup),
            particle_steps=edit.particle_steps,
            evaluations=edit.recorder.evaluations,
            calls=len(edit.recorder.calls),
            seconds=timed.median(name),
            bare_seconds=timed.median(f"bare, {name}"),
            ratio=timed.ratio(name, f"bare, {name}"),
        )
        for name, edit in edits.items()
    }


def format_overhead(edits: dict[str, ShortEdit], results: dict[str, Overhead], rounds: int) -> str:
    """The figures as a few lines of text."""
    lines = ["", f"engine over bare UNet, {next(iter(edits.values())).describe(rounds)}"]
    for name, result in results.items():
        lines.append(
            f"  {name:<13}{result.ratio:6.3f}   {result.seconds:.4f} s over {result.bare_seconds:.4f} s a "
            f"particle-step; {result.evaluations} evaluations, {result.calls} calls; {result.setup}"
        )
    return "\n".join([*lines, f"  target: at most {AT_MOST}"])
