"""A short edit against the network alone, against the published scheme, and with each speed-up."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from csd_core.bench.config import BenchConfig
from csd_core.bench.edits import ShortEdit, short_edit
from csd_core.bench.models import Setup, default_setup, speedups
from csd_core.bench.timing import Contender, Timings, alternate


@dataclass(frozen=True)
class CostLine:
    """One way of computing the edit, against what it is compared with."""

    setup: str
    evaluations: float
    """For each particle-step, counted as they happened."""
    seconds: float
    """For each particle-step."""
    ratio: float
    """The median of the rounds' ratios."""


def bench_overhead(config: BenchConfig) -> list[dict[str, Any]]:
    """Measure and print seconds of the engine over those of the network on the same inputs."""
    results, default = [], default_setup(config.device)
    setups = {"fresh noise": replace(default, noise_pool=0), "by default": default}
    for model in config.models:
        edits = {name: short_edit(config, model, setup) for name, setup in setups.items()}
        timings = time_edits(
            edits, {f"{name}, network": edit.network for name, edit in edits.items()}, config
        )
        ratios = {name: timings.ratio(name, f"{name}, network") for name in edits}
        results.append(print_lines("engine over network", edits, timings, ratios))
    return results


def bench_published(config: BenchConfig) -> list[dict[str, Any]]:
    """Measure and print seconds of the published scheme over ours, in our precision and in float32."""
    results, default = [], default_setup(config.device)
    for model in config.models:
        plain = short_edit(config, model, Setup(default.dtype))
        edits = {"plain": plain, "by default": short_edit(config, model, default)}
        others = {"published": published_scheme(plain)}
        if default.dtype != torch.float32:
            others["published, float32"] = published_scheme(short_edit(config, model, Setup()))
        timings = time_edits(edits, others, config)
        for name in others:
            ratios = {ours: timings.ratio(name, ours) for ours in edits}
            results.append(print_lines(f"{name} over ours", edits, timings, ratios))
    return results


def bench_speedups(config: BenchConfig) -> list[dict[str, Any]]:
    """Measure and print seconds of the plain edit over those with each speed-up alone and with all."""
    found = {k: v for k, v in speedups(config.device).items() if not (config.quick and k == "compile")}
    changes = {name: change for name, change in found.items() if not isinstance(change, str)}
    setups = {"plain": Setup()} | {name: replace(Setup(), **change) for name, change in changes.items()}
    together = {key: value for change in changes.values() for key, value in change.items()}
    setups["together"] = replace(Setup(), **together)
    results = []
    for model in config.models:
        edits = {name: short_edit(config, model, setup) for name, setup in setups.items()}
        timings = time_edits(edits, {}, config)
        ratios = {name: timings.ratio("plain", name) for name in edits}
        results.append(print_lines("plain over each speed-up", edits, timings, ratios))
    for name, why in found.items():
        if isinstance(why, str):
            print(f"  {name:<14}  none   {why}", flush=True)
    return results


def published_scheme(edit: ShortEdit) -> Contender:
    """The network's calls in one step of the published code: for each particle two calls of three rows.

    The rest of the step is not charged.
    """
    edit.warm_up()
    particles = edit.config.batch_size
    return Contender(lambda: edit.recorder.replay_rows(3, 2 * particles), particles)


def time_edits(
    edits: Mapping[str, ShortEdit], others: Mapping[str, Contender], config: BenchConfig
) -> Timings:
    """Time edits and others in turn."""
    for edit in edits.values():
        edit.warm_up()
    contenders = {name: edit.engine for name, edit in edits.items()}
    return alternate({**contenders, **others}, config.rounds)


def print_lines(
    title: str, edits: Mapping[str, ShortEdit], timings: Timings, ratios: Mapping[str, float]
) -> dict[str, Any]:
    """Print the figures, and give them for JSON."""
    first = next(iter(edits.values()))
    rounds = len(next(iter(timings.seconds.values())))
    print(f"\n{title}, {first}, median of {rounds} rounds", flush=True)
    lines = {}
    for name, edit in edits.items():
        evaluations = edit.recorder.evaluations / edit.particle_steps
        line = CostLine(str(edit.model.setup), evaluations, timings.median(name), ratios[name])
        print(
            f"  {name:<14}{line.ratio:6.3f}   {line.seconds:.4f} s and {line.evaluations:.2f} evaluations a "
            f"particle-step; {line.setup}",
            flush=True,
        )
        lines[name] = asdict(line)
    return {"title": title, "edit": str(first), "lines": lines}
