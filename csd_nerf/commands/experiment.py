"""csd-experiment: the paper's tables and figures, reproduced."""

import shlex
import sys
from collections.abc import Sequence

from csd_core.command import run_command
from csd_core.errors import expect
from csd_core.experiments.edits import prepare_images
from csd_core.experiments.options import ExperimentOptions
from csd_core.experiments.registry import EXPERIMENTS
from csd_core.experiments.run import run_experiment
from csd_nerf.commands.scene_experiments import SCENE_EXPERIMENTS, prepare_scenes


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of csd-experiment."""
    words = list(sys.argv[1:] if args is None else args)

    def experiment(options: ExperimentOptions) -> None:
        """Run an experiment of the paper on a grid of inputs, instructions, methods, settings and seeds."""
        known = {one.name: one for one in (*EXPERIMENTS, *SCENE_EXPERIMENTS)}
        expect(options.name in known, "experiment", f"one of {', '.join(known)}", options.name or "nothing")
        found = known[options.name]
        prepare = prepare_scenes if found.domain == "scene" else prepare_images
        run_experiment(found, prepare, options, shlex.join(["csd-experiment", *words]))

    return run_command(ExperimentOptions, experiment, words, several_ranks=True)


if __name__ == "__main__":
    sys.exit(main())
