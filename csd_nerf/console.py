"""Where a run speaks: our own lines, and nerfstudio's where they are asked for (--verbose)."""

from nerfstudio.utils.rich_utils import CONSOLE as NERFSTUDIO
from rich.console import Console

CONSOLE = Console(soft_wrap=True, highlight=False)


def choose_lines(*, ours: bool = True, nerfstudios: bool) -> None:
    """Whose lines this process shows.

    Args:
        ours: off on all ranks but the first.
        nerfstudios: its configuration, folders and settings, a hundred lines; they are in config.yml.
    """
    CONSOLE.quiet = not ours
    NERFSTUDIO.quiet = not (ours and nerfstudios)
