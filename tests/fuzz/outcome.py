"""A command in this process, and what must hold of whatever it does: a result, or one line and code 2."""

import re
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from csd_core.command import run_command

SECONDS = 60
"""That one example may take."""
PASSED_OVER = re.compile(r"note: |(OJPEG|JPEG|TIFF|LZW|ZIP|Fax|Log|Pack|Thunder)\w*: |tempfile\.tif: ")
"""Notes, and what libtiff prints of damage past everything that Python could stop."""


class Outcome(NamedTuple):
    """What came out of a command."""

    code: int
    """0 or 2."""
    error: str
    """The line after "error: "; empty if there is none, or if an option was refused with the usage."""


class Fuzzed:
    """A folder of its own for every example, and the streams that a command prints to."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self._around, self._capfd = folder, capfd
        self.folder = folder

    @contextmanager
    def example(self) -> Iterator[Path]:
        """An empty folder, and an alarm that ends what hangs."""
        self.folder = Path(tempfile.mkdtemp(dir=self._around))
        with limited():
            yield self.folder
        shutil.rmtree(self.folder)

    def run(
        self, config: type[Any], command: Callable[[Any], None], args: Sequence[object], output: Path
    ) -> Outcome:
        """Run a command that writes `output`; see call."""
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # they are printed as notes
            done = self.call(lambda: run_command(config, command, [str(arg) for arg in args]))
        assert done.code or output.exists() or "--dry-run" in args
        return done

    def call(self, command: Callable[[], int | None]) -> Outcome:
        """Run a command; fails unless it ends well, or in one line with code 2 and nothing left."""
        before = self._files()
        self._capfd.readouterr()
        refused = False
        try:
            code = command() or 0
        except SystemExit as stop:
            code, refused = stop.code, True
        printed = self._capfd.readouterr().err
        lines = [line for line in printed.splitlines() if line.strip() and not PASSED_OVER.match(line)]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        new = self._files() - before
        assert not any(path.name.startswith(".") for path in new), new
        if code == 0:
            assert not errors, printed
            return Outcome(0, "")
        assert code == 2, printed
        if refused and not errors:  # tyro refuses an option, with its usage
            assert not new
            return Outcome(2, "")
        assert len(errors) == 1, printed
        partly = "It was written to" in errors[0]  # a step that gave NaN
        assert partly or lines == [f"error: {errors[0]}"], printed
        assert partly or not new, new
        return Outcome(2, errors[0])

    def _files(self) -> set[Path]:
        return set(self.folder.rglob("*"))


@contextmanager
def limited(seconds: int = SECONDS) -> Iterator[None]:
    """Raise a TimeoutError inside the block when it takes too long."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"an example took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
