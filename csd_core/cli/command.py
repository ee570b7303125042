"""What all commands share: options from a dataclass, and bad input as one line with exit code 2."""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from csd_core.errors import UserError

Config = TypeVar("Config")


def run_command(
    config: type[Config], command: Callable[[Config], None], args: Sequence[str] | None = None
) -> int:
    """Parse `args` (default: the command line) into a `config`, run `command` on it, give the exit code.

    A UserError or a lack of rights on a file ends in one line on stderr and 2, an interruption in 130;
    any other exception is a bug and keeps its traceback.
    """
    parsed = tyro.cli(config, args=args, description=command.__doc__)
    try:
        command(parsed)
    except (UserError, PermissionError, NotADirectoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
