import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

from csd_core.errors import UserError
from csd_core.experiments import grid
from csd_core.experiments.grid import Cell, edit_cell, raise_failures, run_grid

CELLS = [Cell("hills", "snow", "csd", "", seed, {"steps": 2}) for seed in range(4)]


class Counting:
    """Writes a file, and records which cells it was called for."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.calls: list[int] = []
        self.seconds = seconds

    def __call__(self, cell: Cell, folder: Path, device: str) -> Mapping[str, Any]:
        self.calls.append(cell.seed)
        time.sleep(self.seconds)
        (folder / "made.txt").write_text(device)
        return {"evaluations": 10 + cell.seed}


def failing(cell: Cell, folder: Path, device: str) -> Mapping[str, Any]:
    if cell.seed == 1:
        raise UserError("seed: expected another,\n got 1")
    if cell.seed == 2:
        raise KeyError("steps")
    return {}


def states(outcomes: list[grid.CellOutcome]) -> dict[int, str]:
    return {outcome.cell.seed: outcome.state for outcome in outcomes}


def test_cells_leave_their_files_and_a_record(tmp_path: Path) -> None:
    work = Counting()
    assert states(run_grid(CELLS, work, tmp_path)) == dict.fromkeys(range(4), "done")
    assert work.calls == [0, 1, 2, 3]
    assert (CELLS[2].path(tmp_path) / "made.txt").read_text() == "cpu"
    record = CELLS[2].record(tmp_path)
    assert record["evaluations"] == 12
    assert record["cell"]["settings"] == {"steps": 2}
    assert record["seconds"] >= 0
    assert record["machine"]
    assert not list((tmp_path / ".unfinished").iterdir())


def test_finished_cells_are_kept_and_missing_ones_are_made(tmp_path: Path) -> None:
    run_grid(CELLS, Counting(), tmp_path)
    (CELLS[1].path(tmp_path) / grid.CELL).unlink()
    work = Counting()
    assert states(run_grid(CELLS, work, tmp_path)) == {0: "there", 1: "done", 2: "there", 3: "there"}
    assert work.calls == [1]


def test_keys_differ_with_everything_the_result_depends_on() -> None:
    base = Cell("hills", "snow", "csd", "guidance 3", 0, {"model": "a", "steps": 2})
    assert base.key == Cell("hills", "snow", "csd", "guidance 3", 0, {"steps": 2, "model": "a"}).key
    others = [
        Cell("lake", "snow", "csd", "guidance 3", 0, base.settings),
        Cell("hills", "night", "csd", "guidance 3", 0, base.settings),
        Cell("hills", "snow", "sds", "guidance 3", 0, base.settings),
        Cell("hills", "snow", "csd", "guidance 5", 0, base.settings),
        Cell("hills", "snow", "csd", "guidance 3", 1, base.settings),
        Cell("hills", "snow", "csd", "guidance 3", 0, {"model": "b", "steps": 2}),
    ]
    assert len({base.key, *(other.key for other in others)}) == 7
    assert base.key.startswith("csd-guidance-3-snow-hills-seed-0-")


def test_a_cell_that_fails_is_named_and_the_others_finish(tmp_path: Path) -> None:
    outcomes = run_grid(CELLS[:2], failing, tmp_path)
    assert states(outcomes) == {0: "done", 1: "failed"}
    with pytest.raises(
        UserError, match=r"1 of 2 cells .* csd, snow, hills, seed 1: seed: expected another, "
    ):
        raise_failures(outcomes)
    with pytest.raises(RuntimeError, match="KeyError: 'steps'"):  # a bug is no UserError
        raise_failures([*outcomes, *run_grid(CELLS[2:3], failing, tmp_path)])
    failed = tmp_path / "failed" / f"{CELLS[1].key}.txt"
    assert "Traceback" in failed.read_text()
    assert states(run_grid(CELLS, Counting(), tmp_path))[1] == "done"
    assert not failed.exists()


def test_a_cell_that_another_process_has_just_failed_at_is_not_tried_again(tmp_path: Path) -> None:
    began = time.time() - 1  # file times are coarser than the clock
    first = run_grid(CELLS, failing, tmp_path, since=began)
    again = Counting()
    other = run_grid(CELLS, again, tmp_path, since=began)
    assert again.calls == []
    assert [o for o in other if o.state == "failed"] == [o for o in first if o.state == "failed"]
    assert [o.is_bug for o in other if o.state == "failed"] == [False, True]
    run_grid(CELLS, again, tmp_path, since=time.time() + 1)
    assert again.calls == [1, 2]


def test_two_runs_share_a_folder_and_no_cell_is_edited_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "POLL_SECONDS", 0.02)
    work, results = Counting(0.05), []
    threads = [
        threading.Thread(target=lambda: results.append(run_grid(CELLS, work, tmp_path))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(work.calls) == [0, 1, 2, 3]
    by_run = [states(result) for result in results]
    assert all(len(of_run) == 4 for of_run in by_run)
    assert all(sorted(run[seed] for run in by_run) == ["done", "there"] for seed in range(4))


def test_a_cell_that_another_process_finished_before_the_lock_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Counting()

    def late(*arguments: Any, **options: Any) -> FileLock:
        monkeypatch.setattr(grid, "FileLock", FileLock)
        run_grid(CELLS[:1], work, tmp_path)
        return FileLock(*arguments, **options)

    monkeypatch.setattr(grid, "FileLock", late)
    assert edit_cell(CELLS[0], work, tmp_path, "cpu").state == "there"
    assert work.calls == [0]


def test_a_cell_is_locked_while_its_process_lives_and_edited_again_after_a_kill(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from csd_core.experiments.grid import Cell, edit_cell\n"
        "def work(cell, folder, device):\n"
        "    (folder / 'half.txt').write_text('half')\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(60)\n"
        "edit_cell(Cell('hills', 'snow', 'csd', '', 0, {'steps': 2}), work, Path(sys.argv[1]), 'cpu')\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "begun\n"
        work = Counting()
        assert edit_cell(CELLS[0], work, tmp_path, "cpu").state == "locked"
        other.send_signal(signal.SIGKILL)
    assert edit_cell(CELLS[0], work, tmp_path, "cpu").state == "done"
    assert work.calls == [0]
    assert not list(tmp_path.rglob("half.txt"))


def test_several_devices_edit_in_parallel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "work_of_a_worker.py"
    module.write_text(
        "import os, time\n"
        "def work(cell, folder, device):\n"
        "    time.sleep(0.3)\n"
        "    if cell.seed == 3:\n"
        "        raise ValueError('three')\n"
        "    return {'pid': os.getpid()}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from work_of_a_worker import work  # pyright: ignore[reportMissingImports]

    folder = tmp_path / "cells"
    outcomes = run_grid(CELLS, work, folder, ["cpu", "cpu"])
    assert states(outcomes) == {0: "done", 1: "done", 2: "done", 3: "failed"}
    assert [outcome.message for outcome in outcomes if outcome.message] == ["ValueError: three"]
    pids = {cell.record(folder)["pid"] for cell in CELLS[:3]}
    assert len(pids) == 2
    assert psutil.Process().pid not in pids


def test_a_grid_without_devices_or_with_equal_cells_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="device: expected at least one"):
        run_grid(CELLS, Counting(), tmp_path, [])
    with pytest.raises(UserError, match="grid: expected cells that differ, got 1 twice"):
        run_grid([*CELLS, CELLS[0]], Counting(), tmp_path)
