"""csd-experiment: the paper's tables and figures, made again."""

import shlex
import sys
from collections.abc import Sequence

from csd_core.command import run_command
from csd_core.experiments.options import ExperimentOptions
from csd_core.experiments.run import run_experiment


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of csd-experiment for panoramas and videos; csd_nerf's adds scenes."""
    given = list(sys.argv[1:] if args is None else args)

    def experiment(options: ExperimentOptions) -> None:
        run_experiment(options, shlex.join(["csd-experiment", *given]))

    experiment.__doc__ = run_experiment.__doc__
    return run_command(ExperimentOptions, experiment, given, several_ranks=True)


if __name__ == "__main__":
    sys.exit(main())
