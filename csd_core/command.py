"""What all commands share: options from a dataclass, bad input as one line with exit code 2, and torchrun."""

import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from typing import Any, TypeVar

import tyro

from csd_core.engine.ranks import LostRankError, Ranks, TerminatedError, launched
from csd_core.errors import UserError, expect

Config = TypeVar("Config")

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run_command(
    config: type[Config],
    command: Callable[[Config], None],
    args: Sequence[str] | None = None,
    *,
    several_ranks: bool = False,
) -> int:
    """Parse `args` (default: the command line) into a `config`, run `command` on it, give the exit code.

    A UserError, a lack of rights on a file or a full disk ends in one line on stderr and 2 (after the
    traceback, where the config has a `verbose` that is set), an interruption in 130; any other exception is a
    bug and keeps its traceback.

    Under torchrun all ranks end so, and the line is rank 0's. The process then ends here.

    several_ranks: the command can be run by several processes that share its work.
    """
    try:
        with launched() as ranks:
            code = _parse_and_run(config, command, args, ranks, several_ranks)
            if code and not ranks.is_alone:
                end_now(code)  # a device may wait in vain for a rank that is gone
            return code
    except UserError as error:  # the ranks did not come together
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _parse_and_run(
    config: type[Config],
    command: Callable[[Config], None],
    args: Sequence[str] | None,
    ranks: Ranks,
    several_ranks: bool,
) -> int:
    parsed: Any = None
    try:
        parsed = _parse(config, command.__doc__, args, ranks)
        one = "one process for this command; start it without torchrun"
        expect(several_ranks or ranks.is_alone, "WORLD_SIZE", one, ranks.world_size)
        command(parsed)
    except (UserError, OSError) as error:
        if not _is_expected(error):
            raise
        _ignore_sigterm(ranks)
        if getattr(parsed, "verbose", False):
            traceback.print_exc()
        say(f"error: {_told(error)}", ranks, isinstance(error, LostRankError))
        return 2
    except KeyboardInterrupt as stop:
        _ignore_sigterm(ranks)
        if ranks.is_main or str(stop):
            say(str(stop) or "interrupted", ranks, isinstance(stop, TerminatedError) or not str(stop))
        return 130
    return 0


def _parse(config: type[Config], description: str | None, args: Sequence[str] | None, ranks: Ranks) -> Config:
    try:
        with redirect_stderr(sys.stderr if ranks.is_main else io.StringIO()):
            return tyro.cli(config, args=args, description=description)
    except SystemExit:
        ranks.have_all_failed()  # torchrun ends all when one has ended: not before rank 0 has said why
        raise


def say(line: str, ranks: Ranks, alone: bool) -> None:
    """Print a line: rank 0 does, and others where they do not know rank 0 to have met the same (alone)."""
    if ranks.is_main:
        print(line, file=sys.stderr, flush=True)
    if not alone and ranks.have_all_failed():
        return
    if not ranks.is_main:
        print(line, file=sys.stderr, flush=True)


def _ignore_sigterm(ranks: Ranks) -> None:
    if not ranks.is_alone:  # torchrun sends it as soon as one rank has ended
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def end_now(code: int) -> None:
    """End this process without waiting for devices."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _is_expected(error: Exception) -> bool:
    return isinstance(error, UserError | PermissionError | NotADirectoryError) or _is_full(error)


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in _FULL


def _told(error: Exception) -> str:
    """An error in one line."""
    line = " ".join(str(error).split())
    if not _is_full(error):
        return line
    return f"{line}: expected room for what is written; free some, or write to another place"
