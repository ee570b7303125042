"""csd-edit-panorama: edit one image of any size by an instruction."""

import sys

from csd_core.cli.options import PanoramaOptions
from csd_core.command import run_command


def edit_panorama(options: PanoramaOptions) -> None:
    """Edit one image of any size by an instruction: overlapping windows, edited so that they agree."""
    options.check()
    from csd_core.cli.panorama_run import run

    run(options)


def main() -> int:
    """Entry point of csd-edit-panorama."""
    return run_command(PanoramaOptions, edit_panorama, several_ranks=True)


if __name__ == "__main__":
    sys.exit(main())
