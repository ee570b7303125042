import errno
from dataclasses import dataclass

import pytest

from csd_core.command import run_command
from csd_core.errors import UserError


@dataclass
class Config:
    """Options."""

    count: int = 1
    """Any number."""
    verbose: bool = False
    """Show the traceback."""


@dataclass
class Plain:
    """Options without verbose."""

    count: int = 1
    """Any number."""


def raising(error: BaseException):
    def command(_: Config | Plain) -> None:
        """What it does."""
        raise error

    return command


def test_arguments_reach_the_command() -> None:
    seen: list[Config] = []
    assert run_command(Config, seen.append, ["--count", "3"]) == 0
    assert seen == [Config(3)]


@pytest.mark.parametrize(
    "error",
    [
        UserError("seed: expected 0 or more,\n  got -1"),
        PermissionError(errno.EACCES, "seed: no rights"),
        NotADirectoryError(errno.ENOTDIR, "seed: not a folder"),
        OSError(errno.ENOSPC, "seed: no space left"),
        OSError(errno.EDQUOT, "seed: quota exceeded"),
        OSError(errno.EFBIG, "seed: too large"),
    ],
)
@pytest.mark.parametrize("config", [Config, Plain])
def test_what_a_person_can_mend_is_one_line(
    error: Exception, config: type, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(config, raising(error), []) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "seed: " in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("error", [UserError("no such thing"), OSError(errno.ENOSPC, "full")])
def test_verbose_shows_the_traceback_before_the_line(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(Config, raising(error), ["--verbose"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), FileNotFoundError("a bug"), OSError(errno.EIO, "bad")]
)
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        run_command(Config, raising(error), [])
    assert raised.value is error


@pytest.mark.parametrize(
    ("stop", "said"), [(KeyboardInterrupt(), "interrupted"), (KeyboardInterrupt("so far: x"), "so far: x")]
)
def test_an_interruption_says_what_there_is(
    stop: KeyboardInterrupt, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(Config, raising(stop), []) == 130
    assert capsys.readouterr().err == f"{said}\n"


def test_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        run_command(Config, raising(ValueError()), ["--cuont", "3"])
    assert raised.value.code == 2
    assert "--cuont" in capsys.readouterr().err
