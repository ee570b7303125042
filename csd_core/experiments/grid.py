"""A grid of edits: each cell is edited once, completely or not at all, by whichever process takes it first.

FOLDER/<key of the cell>/cell.json   and the files of the edit
FOLDER/.unfinished/<key of the cell>/ while it is being edited
FOLDER/.locks/<key of the cell>      locked meanwhile; the system releases it when the process ends
FOLDER/failed/<key of the cell>.txt  the traceback of a cell that failed last time
"""

import hashlib
import json
import multiprocessing
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from tqdm import tqdm

from csd_core.errors import UserError, expect
from csd_core.io.files import written_beside
from csd_core.machine import describe_machine, versions

CELL = "cell.json"
POLL_SECONDS = 1.0
"""Between two looks at cells that other processes edit."""


@dataclass(frozen=True)
class Cell:
    """One edit of a grid. Its names are shown to users; the key is a hash of names and settings."""

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
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Everything else that the edit depends on, as JSON values: hash of the input, model, text, options."""

    @property
    def name(self) -> str:
        """For messages."""
        parts = (self.method, self.setting, self.prompt, self.input, f"seed {self.seed}")
        return ", ".join(part for part in parts if part)

    @property
    def key(self) -> str:
        """Name of its folder: readable, then a hash of everything."""
        whole = json.dumps(asdict(self), sort_keys=True, allow_nan=False)
        digest = hashlib.sha256(whole.encode()).hexdigest()[:12]
        readable = re.sub(r"[^A-Za-z0-9.]+", "-", self.name).strip("-")[:80]
        return f"{readable}-{digest}"

    def path(self, folder: Path) -> Path:
        """Where its results are."""
        return folder / self.key

    def is_done(self, folder: Path) -> bool:
        """Whether its results exist."""
        return (self.path(folder) / CELL).is_file()

    def record(self, folder: Path) -> dict[str, Any]:
        """The contents of cell.json of a finished cell."""
        return json.loads((self.path(folder) / CELL).read_text())


Work = Callable[[Cell, Path, str], Mapping[str, Any]]
"""(cell, an empty folder for its files, device) -> what cell.json records besides, as JSON values.

With several devices it is pickled: a function of a module, a functools.partial or a dataclass with __call__.
"""
State = Literal["done", "there", "locked", "failed"]
"""Edited by this run, found finished, being edited by another process, failed."""


@dataclass(frozen=True)
class CellOutcome:
    """What happened to a cell."""

    cell: Cell
    state: State
    message: str = ""
    """Of a failure, in one line."""
    is_bug: bool = False
    """Whether the failure was no UserError."""


def raise_failures(outcomes: Sequence[CellOutcome]) -> None:
    """Raise one error for all cells that failed.

    Raises:
        UserError: all failures are bad input.
        RuntimeError: at least one is a bug.
    """
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if not failed:
        return
    by_message: dict[str, list[str]] = {}
    for outcome in failed:
        by_message.setdefault(outcome.message, []).append(outcome.cell.name)
    lines = " | ".join(f"{'; '.join(names)}: {message}" for message, names in by_message.items())
    text = f"{len(failed)} of {len(outcomes)} cells failed, the same command tries them again: {lines}"
    raise (RuntimeError if any(outcome.is_bug for outcome in failed) else UserError)(text)


def run_grid(
    cells: Sequence[Cell],
    work: Work,
    folder: Path,
    devices: Sequence[str] = ("cpu",),
    *,
    progress: bool = True,
    since: float | None = None,
) -> list[CellOutcome]:
    """Edit all cells that are not finished; when one fails the others continue.

    Several processes may run the same grid in one folder: a cell that another process edits is skipped, and
    looked at again until it is finished or that process has ended.

    Args:
        cells: the grid.
        work: makes the files of a cell.
        folder: of all cells.
        devices: one: the work runs in this process. Several: one worker process each ("cpu" may repeat).
        progress: show a progress bar, and a line for each cell.
        since: time.time() when processes that share the grid started. A cell that one of them has failed at
            since then is not tried again by another.

    Raises:
        UserError: no device, or two equal cells.
    """
    expect(len(devices) > 0, "device", "at least one", "none")
    keys = {cell.key for cell in cells}
    expect(len(keys) == len(cells), "grid", "cells that differ", f"{len(cells) - len(keys)} twice")
    outcomes: list[CellOutcome] = []
    # a bar on terminals alone
    with tqdm(total=len(cells), unit="edit", disable=None if progress else True) as bar:
        waiting = list(cells)
        while waiting:
            locked = []
            for outcome in _edit_all(waiting, work, folder, devices, since):
                if outcome.state == "locked":
                    locked.append(outcome.cell)
                    continue
                outcomes.append(outcome)
                bar.update()
                if progress and outcome.state != "there":
                    bar.write(f"{outcome.state}: {outcome.cell.name}", file=sys.stderr)
            if len(locked) == len(waiting):
                time.sleep(POLL_SECONDS)
            waiting = locked
    return outcomes


def edit_cell(cell: Cell, work: Work, folder: Path, device: str, since: float | None = None) -> CellOutcome:
    """Edit a cell unless it is finished, locked by another process, or has failed in one since then."""
    if cell.is_done(folder):
        return CellOutcome(cell, "there")
    lock = folder / ".locks" / cell.key
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            return _edit_locked(cell, work, folder, device, since)
    except Timeout:
        return CellOutcome(cell, "locked")


def _edit_locked(cell: Cell, work: Work, folder: Path, device: str, since: float | None) -> CellOutcome:
    if cell.is_done(folder):  # another process finished it just before the lock
        return CellOutcome(cell, "there")
    report = folder / "failed" / f"{cell.key}.txt"
    if since is not None and report.is_file() and report.stat().st_mtime >= since:
        kind, _, message = report.read_text().partition("\n")[0].partition(": ")
        return CellOutcome(cell, "failed", message, kind == "bug")
    try:
        _make(cell, work, folder, device)
    except Exception as error:  # whatever it is, the other cells continue
        is_bug = not isinstance(error, UserError)
        message = (f"{type(error).__name__}: " if is_bug else "") + " ".join(str(error).split())
        with written_beside(report) as beside:
            beside.write_text(f"{'bug' if is_bug else 'error'}: {message}\n\n{traceback.format_exc()}")
        return CellOutcome(cell, "failed", message, is_bug)
    report.unlink(missing_ok=True)
    return CellOutcome(cell, "done")


def _make(cell: Cell, work: Work, folder: Path, device: str) -> None:
    unfinished = folder / ".unfinished" / cell.key
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed
    unfinished.mkdir(parents=True)
    try:
        begun = time.perf_counter()
        made = work(cell, unfinished, device)
        seconds = round(time.perf_counter() - begun, 2)
        machine = {"device": device, "machine": describe_machine(), "versions": versions()}
        record = {"cell": asdict(cell), "seconds": seconds, **made, **machine}
        text = json.dumps(record, indent=1, allow_nan=False)
        (unfinished / CELL).write_text(f"{text}\n")
        shutil.rmtree(cell.path(folder), ignore_errors=True)
        unfinished.rename(cell.path(folder))
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


# Several devices ----------------------------------------------------------------------------------


def _edit_all(
    cells: Sequence[Cell], work: Work, folder: Path, devices: Sequence[str], since: float | None
) -> Iterator[CellOutcome]:
    if len(devices) == 1:
        for cell in cells:
            yield edit_cell(cell, work, folder, devices[0], since)
        return
    context = multiprocessing.get_context("spawn")  # neither CUDA nor threads survive a fork
    free = context.Queue()
    for device in devices:
        free.put(device)
    with ProcessPoolExecutor(len(devices), context, _take_device, (free,)) as pool:
        futures = {pool.submit(_edit_on_own_device, cell, work, folder, since): cell for cell in cells}
        try:
            for future in as_completed(futures):
                yield _outcome(future, futures[future])
        finally:
            pool.shutdown(cancel_futures=True)


def _outcome(future: "Future[CellOutcome]", cell: Cell) -> CellOutcome:
    try:
        return future.result()
    except Exception as error:  # a worker that died, or work that cannot be pickled
        return CellOutcome(cell, "failed", f"its worker process: {' '.join(str(error).split())}", True)


_own_device: list[str] = []
"""Of a worker process."""


def _take_device(free: Any) -> None:
    _own_device.append(free.get())


def _edit_on_own_device(cell: Cell, work: Work, folder: Path, since: float | None) -> CellOutcome:
    return edit_cell(cell, work, folder, _own_device[0], since)
