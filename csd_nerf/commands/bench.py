"""csd-bench: what an edit costs, measured in parts. Heavy packages are imported when a part is measured."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from csd_core.bench.config import QUICK, BenchConfig, parse_size
from csd_core.command import run_command

# Memory first: on a CPU it is that of the process, which the other parts may have made larger.
Part = Literal["videos", "panoramas", "overhead", "published", "speedups", "ranks", "chip", "scene"]


@dataclass
class BenchOptions:
    """What to measure."""

    parts: tuple[Part, ...] = get_args(Part)
    """Which parts; they run in this order."""
    quick: bool = False
    """Little of everything, in about a minute: to see that it works, not what it costs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one."""
    rounds: int | None = None
    """Rounds, in each of which every contender is timed once, and of which the median counts. Default: 3."""
    particles: int | None = None
    """Particles of the short edit, all of them in every step. Default: 8."""
    sizes: tuple[str, ...] | None = None
    """Panoramas: WIDTHxHEIGHT of each. Default: 1920x640 3968x4352 8192x4096."""
    frames: tuple[int, ...] | None = None
    """Videos: numbers of frames. Default: 24 240 2400."""
    json: Path | None = None
    """Also write the figures here."""

    def config(self) -> BenchConfig:
        """The amounts.

        Raises:
            UserError: an option out of range; an absent device.
        """
        sizes = None if self.sizes is None else tuple(parse_size(size) for size in self.sizes)
        given = {"rounds": self.rounds, "particles": self.particles, "sizes": sizes, "frames": self.frames}
        amounts = (QUICK if self.quick else {}) | {k: v for k, v in given.items() if v is not None}
        from csd_core.denoisers.runtime.device import resolve_device

        device = resolve_device(None if self.device == "auto" else self.device)
        config = BenchConfig(device, **amounts)
        config.check()
        return config


def bench(options: BenchOptions) -> None:
    """Measure what an edit costs, as ratios of contenders that are timed in turn."""
    from csd_core.io.files import check_output, written_beside
    from csd_core.machine import describe_machine, versions

    if options.json:
        check_output(options.json)
    config, machine = options.config(), describe_machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    figures: dict[str, Any] = {"machine": machine, "versions": versions()}
    for name, measure in _parts().items():
        if name in options.parts:
            figures[name] = measure(config)
            if options.json:  # after each part: all together take long
                with written_beside(options.json) as file:
                    file.write_text(json.dumps(figures, indent=1) + "\n")


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of csd-bench."""
    return run_command(BenchOptions, bench, args)


def _parts() -> dict[Part, Callable[[BenchConfig], Any]]:
    """Each measures, prints its figures and returns them for JSON."""
    from csd_core.bench.chip import bench_chip
    from csd_core.bench.panoramas import bench_panoramas
    from csd_core.bench.ranks import bench_ranks
    from csd_core.bench.short import bench_overhead, bench_published, bench_speedups
    from csd_core.bench.videos import bench_videos

    return {
        "videos": bench_videos,
        "panoramas": bench_panoramas,
        "overhead": bench_overhead,
        "published": bench_published,
        "speedups": bench_speedups,
        "ranks": bench_ranks,
        "chip": bench_chip,
        "scene": _bench_scene,
    }


def _bench_scene(config: BenchConfig) -> dict[str, Any]:
    from csd_nerf.nerfstudio_compat.quiet import silence_others

    silence_others()  # before nerfstudio is loaded
    from csd_nerf.commands.bench_scene import bench_scene

    return bench_scene(config)


if __name__ == "__main__":
    sys.exit(main())
