"""csd-bench: the parts of csd_core, and a round of edits of a scene."""

import sys
from collections.abc import Sequence
from typing import Any

from csd_core.bench import command
from csd_core.bench.options import BenchConfig


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of csd-bench."""
    register()
    return command.main(args)


def register() -> None:
    """Add the part on scenes to those that csd_core knows."""
    command.PARTS["scene"] = bench_scene


def bench_scene(config: BenchConfig) -> dict[str, Any]:
    """Measure and print what a round of edits costs beside training; nerfstudio is loaded only then."""
    from csd_nerf.nerfstudio_compat.quiet import silence_others

    silence_others()
    from csd_nerf.commands.bench_scene import bench_scene

    return bench_scene(config)


if __name__ == "__main__":
    sys.exit(main())
