"""csd-edit-video: edit a video by an instruction, so that its frames agree."""

import sys

from csd_core.cli.options import VideoOptions
from csd_core.command import run_command


def edit_video(options: VideoOptions) -> None:
    """Edit a video by an instruction: its frames, edited so that they agree; sound and timing are kept."""
    options.check()
    from csd_core.cli.video_run import run

    run(options)


def main() -> int:
    """Entry point of csd-edit-video."""
    return run_command(VideoOptions, edit_video, several_ranks=True)


if __name__ == "__main__":
    sys.exit(main())
