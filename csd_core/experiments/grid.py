"""A grid of edits: each cell is edited once, completely or not at all, by whichever process takes it first.

FOLDER/<key of the cell>/cell.json   and the files of the edit
FOLDER/.unfinished/<key of the cell>/ while it is being edited
FOLDER/.locks/<key of the cell>      locked meanwhile; the system releases it when the process ends
"""

import hashlib
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from tqdm import tqdm

from csd_core.errors import UserError
from csd_core.experiments.settings import Prompt, Variant
from csd_core.machine import describe_machine, versions

CELL = "cell.json"
POLL_SECONDS = 1.0
"""Between two looks at cells that other processes edit."""


@dataclass(frozen=True)
class Cell:
    """One edit of a grid."""

    input: str
    """Name of the picture, video or scene."""
    prompt: Prompt
    """The instruction."""
    variant: Variant
    """The row of the table."""
    seed: int
    """Seed."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Everything else that the edit depends on, as JSON values: hash of the input, model, options."""

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.variant.name}, {self.prompt.name}, {self.input}, seed {self.seed}"

    @property
    def key(self) -> str:
        """Name of its folder: readable, then a hash of everything that the edit depends on."""
        whole = [self.name, self.prompt.text, self.variant.given, self.settings]
        digest = hashlib.sha256(json.dumps(whole, sort_keys=True, allow_nan=False).encode()).hexdigest()
        readable = re.sub(r"[^A-Za-z0-9.]+", "-", self.name).strip("-")[:80]
        return f"{readable}-{digest[:12]}"

    def path(self, folder: Path) -> Path:
        """Where its results are."""
        return folder / self.key

    def is_done(self, folder: Path) -> bool:
        """Whether its results exist."""
        return (self.path(folder) / CELL).is_file()

    def record(self, folder: Path) -> dict[str, Any]:
        """The contents of cell.json of a finished cell."""
        return json.loads((self.path(folder) / CELL).read_text())


Edit = Callable[[Cell, Path, str], Mapping[str, Any]]
"""(cell, an empty folder for its files, device) -> what cell.json records besides, as JSON values."""
Failures = list[tuple[Cell, Exception]]


def run_grid(
    cells: Sequence[Cell], edit: Edit, folder: Path, device: str = "cpu", *, progress: bool = True
) -> Failures:
    """Edit all cells that are not finished; when one fails the others continue.

    Several processes may run the same grid in one folder: a cell that another process edits is skipped, and
    looked at again until it is finished or that process has ended.

    Args:
        cells: the grid.
        edit: makes the files of a cell.
        folder: of all cells.
        device: of this process.
        progress: show a progress bar, and a line for each cell.

    Returns:
        The cells that failed, with their errors.
    """
    waiting, failures = list(cells), []
    # a bar on terminals alone
    with tqdm(total=len(cells), unit="edit", disable=None if progress else True) as bar:
        while waiting:
            locked = []
            for cell in waiting:
                try:
                    state = edit_cell(cell, edit, folder, device)
                except Exception as error:  # whatever it is, the other cells continue
                    state = "failed"
                    failures.append((cell, error))
                if state == "locked":
                    locked.append(cell)
                    continue
                bar.update()
                if progress and state != "there":
                    bar.write(f"{state}: {cell.name}", file=sys.stderr)
            if len(locked) == len(waiting):
                time.sleep(POLL_SECONDS)
            waiting = locked
    return failures


def edit_cell(cell: Cell, edit: Edit, folder: Path, device: str) -> Literal["done", "there", "locked"]:
    """Edit a cell unless it is finished, or locked by another process."""
    path = folder / ".locks" / cell.key
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return "locked"
    try:
        if cell.is_done(folder):
            return "there"
        _make(cell, edit, folder, device)
        return "done"
    finally:
        lock.release()


def _make(cell: Cell, edit: Edit, folder: Path, device: str) -> None:
    unfinished = folder / ".unfinished" / cell.key
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed
    unfinished.mkdir(parents=True)
    try:
        began = time.perf_counter()
        made = edit(cell, unfinished, device)
        seconds = round(time.perf_counter() - began, 2)
        machine = {"device": device, "machine": describe_machine(), "versions": versions()}
        record = {"cell": asdict(cell), "seconds": seconds, **made, **machine}
        (unfinished / CELL).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
        shutil.rmtree(cell.path(folder), ignore_errors=True)
        unfinished.rename(cell.path(folder))
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def raise_failures(failures: Failures) -> None:
    """Raise one error for all cells that failed.

    Raises:
        UserError: all failures are bad input.
        RuntimeError: at least one is a bug.
    """
    by_message: dict[str, list[str]] = {}
    bugs = [error for _, error in failures if not isinstance(error, UserError)]
    for cell, error in failures:
        message = " ".join(str(error).split())
        message = f"{type(error).__name__}: {message}" if error in bugs else message
        by_message.setdefault(message, []).append(cell.name)
    if failures:
        lines = " | ".join(f"{'; '.join(names)}: {message}" for message, names in by_message.items())
        text = f"{len(failures)} cells failed, the same command tries them again: {lines}"
        raise (RuntimeError if bugs else UserError)(text) from (bugs or [failures[0][1]])[0]
