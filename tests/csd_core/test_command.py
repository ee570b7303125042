import errno
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from tqdm import tqdm

from csd_core.command import run_command
from csd_core.errors import UserError


@dataclass
class Memory:
    """A group."""

    chunk_size: int = 1
    """Any number."""


@dataclass
class Config:
    """Options."""

    count: int = 1
    """Any number."""
    verbose: bool = False
    """Show the traceback."""
    memory: Memory = field(default_factory=Memory)


def raising(error: BaseException) -> Callable[[Config], None]:
    def command(_: Config) -> None:
        """What it does."""
        raise error

    return command


def test_arguments_reach_the_command_without_the_names_of_groups() -> None:
    seen: list[Config] = []
    assert run_command(Config, seen.append, ["--count", "3", "--chunk-size", "4"]) == 0
    assert seen == [Config(3, memory=Memory(4))]


@pytest.mark.parametrize("args", [["--max-batch", "4"], ["--max_batch=4"]])
def test_a_former_name_is_accepted_with_a_note(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Config] = []
    assert run_command(Config, seen.append, args) == 0
    assert seen == [Config(memory=Memory(4))]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: --max")
    assert "is now called --chunk-size" in line


@pytest.mark.filterwarnings("default")
def test_a_warning_is_a_note_that_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    def command(_: Config) -> None:
        with tqdm(total=9, file=sys.stderr):
            for level, text in ((1, "the prompt\nis cut"), (2, "the prompt\nis cut"), (1, "another")):
                warnings.warn(text, stacklevel=level)

    shown = warnings.showwarning
    assert run_command(Config, command, []) == 0
    assert warnings.showwarning is shown
    err = capsys.readouterr().err
    notes = [line for line in err.splitlines() if "%|" not in line and line.strip()]
    assert notes == ["note: the prompt is cut", "note: another"]  # the bar is on lines of its own


@pytest.mark.parametrize(
    "error",
    [
        UserError("seed: expected 0 or more,\n  got -1"),
        PermissionError(errno.EACCES, "seed: no rights"),
        NotADirectoryError(errno.ENOTDIR, "seed: not a folder"),
        OSError(errno.ENOSPC, "seed: no space left"),
        OSError(errno.EDQUOT, "seed: quota exceeded"),
        OSError(errno.EFBIG, "seed: too large"),
        OSError(errno.ENAMETOOLONG, "File name too long", "seed: aaa"),
    ],
)
def test_what_users_can_fix_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(Config, raising(error), []) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "seed: " in captured.err
    assert captured.err.count("\n") == 1
    assert run_command(Config, raising(error), ["--verbose"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("error: ")


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), FileNotFoundError("a bug"), OSError(errno.EIO, "bad")]
)
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        run_command(Config, raising(error), [])
    assert raised.value is error


@pytest.mark.parametrize(
    ("stop", "printed"), [(KeyboardInterrupt(), "interrupted"), (KeyboardInterrupt("so far: x"), "so far: x")]
)
def test_an_interruption_is_one_line(
    stop: KeyboardInterrupt, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(Config, raising(stop), []) == 130
    assert capsys.readouterr().err == f"{printed}\n"


def test_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        run_command(Config, raising(ValueError()), ["--cuont", "3"])
    assert raised.value.code == 2
    assert "--cuont" in capsys.readouterr().err
