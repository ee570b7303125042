"""A grid of edits: each cell is done once, whole or not at all, by whichever process comes first.

FOLDER/<key of the cell>/cell.json and what the work wrote there
FOLDER/.locks/<key of the cell>      while someone works on it
FOLDER/failed/<key of the cell>.txt  the traceback of a cell that failed last time
"""

import hashlib
import json
import multiprocessing
import re
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from csd_core.errors import UserError, expect
from csd_core.experiments.locks import locked
from csd_core.io.files import folder_written_beside, written_beside
from csd_core.machine import describe_machine, versions

CELL = "cell.json"
POLL_SECONDS = 1.0
"""Between two looks at cells that others work on."""


@dataclass(frozen=True)
class Cell:
    """One edit of a grid. Names are for people; `hangs_on` is what tells two cells apart."""

    input: str
    """Name of the picture, video or scene."""
    prompt: str
    """Short name of the instruction."""
    method: str
    """Name of the method."""
    setting: str
    """What else distinguishes the row of the table: "guidance 5"; "" for nothing."""
    seed: int
    """Seed."""
    hangs_on: Mapping[str, Any] = field(default_factory=dict)
    """All that the result hangs on besides, as JSON values: hash of the input, model, settings, wording."""

    @property
    def name(self) -> str:
        """For people and messages."""
        parts = (self.method, self.setting, self.prompt, self.input, f"seed {self.seed}")
        return ", ".join(part for part in parts if part)

    @property
    def key(self) -> str:
        """Name of its folder: readable, and a hash of everything."""
        whole = json.dumps(asdict(self), sort_keys=True, allow_nan=False)
        digest = hashlib.sha256(whole.encode()).hexdigest()[:12]
        readable = re.sub(r"[^A-Za-z0-9.]+", "-", self.name).strip("-")[:80]
        return f"{readable}-{digest}"

    def path(self, folder: Path) -> Path:
        """Where its results are."""
        return folder / self.key

    def is_done(self, folder: Path) -> bool:
        """Whether its results are there."""
        return (self.path(folder) / CELL).is_file()

    def record(self, folder: Path) -> dict[str, Any]:
        """What cell.json says of a cell that is done."""
        return json.loads((self.path(folder) / CELL).read_text())


Work = Callable[[Cell, Path, str], Mapping[str, Any]]
"""(cell, an empty folder for its files, device) -> what cell.json should say besides, as JSON values.

With several devices it is pickled: a function of a module, a functools.partial or a dataclass that is called.
"""
State = Literal["done", "there", "locked", "failed"]


@dataclass(frozen=True)
class Failure:
    """A cell that failed."""

    cell: Cell
    message: str
    """In one line."""
    is_bug: bool
    """Not something that a person can mend by other input."""


@dataclass
class GridResult:
    """What became of a grid."""

    done: list[Cell] = field(default_factory=list)
    """Done now, by this call."""
    there: list[Cell] = field(default_factory=list)
    """Found done, some perhaps by another process meanwhile."""
    failed: list[Failure] = field(default_factory=list)
    """The rest."""

    def raise_failures(self) -> None:
        """Raise what came of the cells that failed; nothing where none did.

        Raises:
            UserError: all of them had bad input.
            RuntimeError: one at least is a bug.
        """
        if self.failed:
            total = len(self.failed) + len(self.done) + len(self.there)
            by_message: dict[str, list[str]] = {}
            for failure in self.failed:
                by_message.setdefault(failure.message, []).append(failure.cell.name)
            lines = (f"{'; '.join(names)}: {message}" for message, names in by_message.items())
            text = f"{len(self.failed)} of {total} cells failed, the same command tries them again: "
            text += " | ".join(lines)
            raise (RuntimeError if any(failure.is_bug for failure in self.failed) else UserError)(text)


@dataclass(frozen=True)
class _Outcome:
    state: State
    message: str = ""
    is_bug: bool = False


def run_grid(
    cells: Sequence[Cell],
    work: Work,
    folder: Path,
    devices: Sequence[str] = ("cpu",),
    *,
    progress: bool = True,
    since: float | None = None,
) -> GridResult:
    """Do all cells that are not done yet. The others go on when one fails.

    Several processes may be given the same folder: a cell that another one works on is left for later, and
    looked at again until it is done or its process is gone.

    Args:
        cells: the grid.
        work: makes the files of a cell.
        folder: of all cells.
        devices: one: the work is done in this process. Several: one worker process each ("cpu" may repeat).
        progress: show a progress bar.
        since: time.time() when processes that share the grid began. A cell that one of them failed at since
            then is not tried again by another.

    Raises:
        UserError: no device, or two cells that are the same.
    """
    expect(len(devices) > 0, "device", "at least one", "none")
    keys = {cell.key for cell in cells}
    expect(len(keys) == len(cells), "grid", "cells that differ", f"{len(cells) - len(keys)} twice")
    result = GridResult()
    with _progress_bar(len(cells), progress) as advance:
        waiting = list(cells)
        while waiting:
            later = []
            for cell, outcome in _outcomes(waiting, work, folder, devices, since):
                if outcome.state == "locked":
                    later.append(cell)
                    continue
                _sort(cell, outcome, result)
                advance(cell, outcome.state)
            if len(later) == len(waiting):
                time.sleep(POLL_SECONDS)
            waiting = later
    return result


def do_cell(cell: Cell, work: Work, folder: Path, device: str, since: float | None = None) -> _Outcome:
    """Do one cell, unless it is there or someone else works on it, or failed at it since then."""
    if cell.is_done(folder):
        return _Outcome("there")
    with locked(folder / ".locks" / cell.key) as lock:
        if lock is None:
            return _Outcome("locked")
        if cell.is_done(folder):  # it was finished between the look and the lock
            return _Outcome("there")
        failed = folder / "failed" / f"{cell.key}.txt"
        if since is not None and failed.is_file() and failed.stat().st_mtime >= since:
            return _failed_elsewhere(failed)
        try:
            begun = time.perf_counter()
            with folder_written_beside(cell.path(folder)) as beside:
                lock.unfinished(beside)
                told = work(cell, beside, device)
                seconds = round(time.perf_counter() - begun, 2)
                (beside / CELL).write_text(_record(cell, told, seconds, device))
        except Exception as error:  # the others go on, whatever it is
            with written_beside(failed) as report:
                report.write_text(traceback.format_exc())
            is_bug = not isinstance(error, UserError)
            kind = f"{type(error).__name__}: " if is_bug else ""
            return _Outcome("failed", kind + " ".join(str(error).split()), is_bug)
        failed.unlink(missing_ok=True)
    return _Outcome("done")


def _failed_elsewhere(report: Path) -> _Outcome:
    text = report.read_text()
    _, kind, message = text.rpartition(f"\n{UserError.__module__}.{UserError.__name__}: ")
    if kind and "Traceback" not in message:
        return _Outcome("failed", " ".join(message.split()))
    return _Outcome("failed", text.strip().splitlines()[-1], is_bug=True)


def _record(cell: Cell, told: Mapping[str, Any], seconds: float, device: str) -> str:
    whole = {
        "cell": asdict(cell),
        "seconds": seconds,
        **told,
        "device": device,
        "machine": describe_machine(),
        "versions": versions(),
    }
    return json.dumps(whole, indent=1, allow_nan=False) + "\n"


def _sort(cell: Cell, outcome: _Outcome, result: GridResult) -> None:
    if outcome.state == "failed":
        result.failed.append(Failure(cell, outcome.message, outcome.is_bug))
    else:
        (result.done if outcome.state == "done" else result.there).append(cell)


def _outcomes(
    cells: Sequence[Cell], work: Work, folder: Path, devices: Sequence[str], since: float | None
) -> Iterator[tuple[Cell, _Outcome]]:
    if len(devices) == 1:
        for cell in cells:
            yield cell, do_cell(cell, work, folder, devices[0], since)
        return
    # not forked: neither CUDA nor threads survive that
    context = multiprocessing.get_context("spawn")
    free = context.Queue()
    for device in devices:
        free.put(device)
    with ProcessPoolExecutor(len(devices), context, _take_device, (free,)) as pool:
        futures = {pool.submit(_do_cell_on_mine, cell, work, folder): cell for cell in cells}
        try:
            for future in as_completed(futures):
                yield futures[future], _outcome_of(future)
        finally:
            pool.shutdown(cancel_futures=True)


def _outcome_of(future: Any) -> _Outcome:
    try:
        return future.result()
    except Exception as error:  # a worker that died, or a result that could not be sent
        return _Outcome("failed", f"its worker process: {' '.join(str(error).split())}", True)


_mine: list[str] = []
"""The device of a worker process."""


def _take_device(free: Any) -> None:
    _mine.append(free.get())


def _do_cell_on_mine(cell: Cell, work: Work, folder: Path) -> _Outcome:
    return do_cell(cell, work, folder, _mine[0])


class _progress_bar:  # noqa: N801 - a context manager
    """Shows how many cells are done; a line for each where nobody watches a terminal."""

    def __init__(self, total: int, show: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        watched = show and self._console.is_terminal
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=self._console, disable=not watched)
        self._task = self._bar.add_task("", total=total)
        self._lines = show and not watched

    def __enter__(self) -> Callable[[Cell, State], None]:
        self._bar.start()
        return self._advance

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _advance(self, cell: Cell, state: State) -> None:
        self._bar.update(self._task, advance=1, description=f"{state}: {cell.name}")
        if self._lines and state != "there":
            self._console.print(f"{state}: {cell.name}", soft_wrap=True, highlight=False)
