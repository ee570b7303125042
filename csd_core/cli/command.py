"""What all commands share: options from a dataclass, and bad input as one line with exit code 2."""

import errno
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from csd_core.errors import UserError

Config = TypeVar("Config")

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run_command(
    config: type[Config], command: Callable[[Config], None], args: Sequence[str] | None = None
) -> int:
    """Parse `args` (default: the command line) into a `config`, run `command` on it, give the exit code.

    A UserError, a lack of rights on a file or a full disk ends in one line on stderr and 2 (after the
    traceback, where the config has a `verbose` that is set), an interruption in 130; any other exception is a
    bug and keeps its traceback.
    """
    parsed = tyro.cli(config, args=args, description=command.__doc__)
    try:
        command(parsed)
    except (UserError, OSError) as error:
        if not _is_expected(error):
            raise
        if getattr(parsed, "verbose", False):
            traceback.print_exc()
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted", file=sys.stderr)
        return 130
    return 0


def _is_expected(error: Exception) -> bool:
    rights = isinstance(error, UserError | PermissionError | NotADirectoryError)
    return rights or (isinstance(error, OSError) and error.errno in _FULL)
