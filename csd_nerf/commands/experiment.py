"""csd-experiment: the experiments of csd_core, and those on scenes."""

import sys
from collections.abc import Sequence

from csd_core.cli import experiment
from csd_core.experiments.registry import EXPERIMENTS
from csd_core.experiments.run import DOMAINS


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of csd-experiment."""
    register()
    return experiment.main(args)


def register() -> None:
    """Add the experiments on scenes to those that csd_core knows."""
    from csd_nerf.commands.scene_experiments import SCENE_EXPERIMENTS, prepare_scenes

    EXPERIMENTS.update({experiment.name: experiment for experiment in SCENE_EXPERIMENTS})
    DOMAINS["scene"] = prepare_scenes


if __name__ == "__main__":
    sys.exit(main())
