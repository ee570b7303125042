"""csd-bench: the parts by name, and the command that runs them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from csd_core.bench.chip import bench_chip
from csd_core.bench.options import BenchConfig, BenchOptions
from csd_core.bench.overhead import bench_overhead
from csd_core.bench.panoramas import bench_panoramas
from csd_core.bench.published import bench_published
from csd_core.bench.ranks import bench_ranks
from csd_core.bench.speedups import bench_speedups
from csd_core.bench.videos import bench_videos
from csd_core.command import run_command
from csd_core.errors import expect
from csd_core.io.files import written_beside
from csd_core.machine import describe_machine, versions

Part = Callable[[BenchConfig], object]
"""Measures, prints lines as it goes, and gives figures that JSON can hold."""

# Memory first: on a CPU it is that of the process, which what comes before may have made larger.
PARTS: dict[str, Part] = {
    "videos": bench_videos,
    "panoramas": bench_panoramas,
    "overhead": bench_overhead,
    "published": bench_published,
    "speedups": bench_speedups,
    "ranks": bench_ranks,
    "chip": bench_chip,
}
"""What can be measured, in this order. csd_nerf adds a scene."""


def bench(options: BenchOptions) -> None:
    """Measure what an edit costs, as ratios of what is timed in turn."""
    chosen = options.parts or tuple(PARTS)
    for name in chosen:
        expect(name in PARTS, "parts", f"some of {', '.join(PARTS)}", name)
    config, machine = options.settled(), describe_machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    figures: dict[str, object] = {"machine": machine, "versions": versions()}
    for name, measure in PARTS.items():
        if name in chosen:
            figures[name] = measure(config)
            if options.json:
                _write(options.json, figures)  # after each of them: together they take long


def _write(path: Path, figures: dict[str, object]) -> None:
    with written_beside(path) as fresh:
        fresh.write_text(json.dumps(figures, indent=1) + "\n")


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of csd-bench for all but a scene, which csd_nerf's adds."""
    return run_command(BenchOptions, bench, args)
