"""What all commands share: options from a dataclass, bad input as one line with exit code 2, and torchrun.

Imports nothing heavy, so that help and bad options take no longer than Python and tyro.
"""

import errno
import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from csd_core.errors import UserError, expect

if TYPE_CHECKING:
    from csd_core.engine.ranks import Ranks

Config = TypeVar("Config")

RENAMED = {"max-batch": "chunk-size"}
"""Former name of an option -> its name. The next version does not accept former names."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run_command(
    config: type[Config],
    command: Callable[[Config], None],
    args: Sequence[str] | None = None,
    *,
    several_ranks: bool = False,
) -> int:
    """Parse `args` (default: the command line) into a `config`, run `command` on it, return the exit code.

    A UserError, a lack of rights on a file or a full disk ends in one line on stderr and 2 (after the
    traceback, where the config has a `verbose` that is set), an interruption in 130; any other exception is a
    bug and keeps its traceback. Nested dataclasses are groups of options, without a prefix.

    Under torchrun every rank ends this way, and rank 0 prints the line. The process then ends here.

    several_ranks: the command can be run by several processes that share its work.
    """
    given = list(sys.argv[1:] if args is None else args)
    if given == ["--version"]:
        print(f"csd-nerf2nerf {version('csd-nerf2nerf')}")
        return 0
    given = list(_renamed(given))
    if os.environ.get("WORLD_SIZE", "1") == "1":
        parsed = _parse(config, command.__doc__, given)
        return _run(command, parsed, None)
    from csd_core.engine.ranks import launched

    try:
        with launched() as ranks:
            code = _run_on_ranks(config, command, given, ranks, several_ranks)
            if code and not ranks.is_alone:
                end_now(code)  # a device may wait forever for a rank that has ended
            return code
    except UserError as error:  # the ranks could not connect
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2


@contextmanager
def warnings_as_notes(*, shown: bool = True) -> Iterator[None]:
    """Inside the block a warning is printed as a line `note: ...`, each text once; or not at all."""
    seen: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        text = " ".join(str(message).split())
        if shown and text not in seen:
            from tqdm import tqdm

            seen.add(text)
            tqdm.write(f"note: {text}", file=sys.stderr)  # on a line of its own above a progress bar

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _renamed(args: Sequence[str]) -> Iterator[str]:
    for arg in args:
        name, equals, value = arg.removeprefix("--").partition("=")
        new = RENAMED.get(name.replace("_", "-"))
        if new is None or not arg.startswith("--"):
            yield arg
            continue
        if os.environ.get("RANK", "0") == "0":
            note = f"note: --{name} is now called --{new}; the next version does not accept the old name"
            print(note, file=sys.stderr)
        yield f"--{new}{equals}{value}"


def _parse(config: type[Config], description: str | None, args: Sequence[str]) -> Config:
    return tyro.cli(config, args=args, description=description, config=(tyro.conf.OmitArgPrefixes,))


def _run(command: Callable[[Config], None], parsed: Config, ranks: "Ranks | None") -> int:
    """ranks: None for a single process, which need not import torch to refuse an option."""
    try:
        with warnings_as_notes(shown=ranks is None or ranks.is_main):
            command(parsed)
    except (UserError, OSError) as error:
        if not _is_expected(error):
            raise
        _ignore_sigterm(ranks)
        if getattr(parsed, "verbose", False):
            traceback.print_exc()
        print_once(f"error: {_described(error)}", ranks, getattr(error, "alone", False))
        return 2
    except KeyboardInterrupt as stop:
        _ignore_sigterm(ranks)
        if ranks is None or ranks.is_main or str(stop):
            alone = getattr(stop, "alone", False) or not str(stop)
            print_once(str(stop) or "interrupted", ranks, alone)
        return 130
    return 0


def _run_on_ranks(
    config: type[Config],
    command: Callable[[Config], None],
    args: Sequence[str],
    ranks: "Ranks",
    several_ranks: bool,
) -> int:
    try:
        with redirect_stderr(sys.stderr if ranks.is_main else io.StringIO()):
            parsed = _parse(config, command.__doc__, args)
    except SystemExit:
        ranks.have_all_failed()  # torchrun ends all when one has ended: not before rank 0 has printed why
        raise

    def checked(parsed: Config) -> None:
        one = "one process for this command; start it without torchrun"
        expect(several_ranks or ranks.is_alone, "WORLD_SIZE", one, ranks.world_size)
        command(parsed)

    return _run(checked, parsed, ranks)


def print_once(line: str, ranks: "Ranks | None", alone: bool) -> None:
    """Print a line on rank 0; on another rank too, unless all ranks have failed.

    alone: the other ranks may not have met this error: print it without asking them.
    """
    if ranks is None or ranks.is_main:
        print(line, file=sys.stderr, flush=True)
    if ranks is None or (not alone and ranks.have_all_failed()):
        return
    if not ranks.is_main:
        print(line, file=sys.stderr, flush=True)


def _ignore_sigterm(ranks: "Ranks | None") -> None:
    if ranks is not None and not ranks.is_alone:  # torchrun sends it as soon as one rank has ended
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def end_now(code: int) -> None:
    """End this process without waiting for devices."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _is_expected(error: Exception) -> bool:
    if isinstance(error, UserError | PermissionError | NotADirectoryError):
        return True
    return isinstance(error, OSError) and error.errno in (*_FULL, errno.ENAMETOOLONG)


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in _FULL


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _described(error: Exception) -> str:
    """An error in one line."""
    line = _one_line(error)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"{error.filename}: expected the path of a file, got one that is too long; check it"
    if not _is_full(error):
        return line
    return f"{line}: expected room for what is written; free some, or write to another place"
