import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from csd_core.errors import UserError
from csd_core.experiments import grid
from csd_core.experiments.grid import Cell, run_grid

CELLS = [Cell("hills", "snow", "csd", "", seed, {"steps": 2}) for seed in range(4)]


class Counting:
    """Writes a file, and counts how often each cell was asked for."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.calls: list[int] = []
        self.seconds = seconds

    def __call__(self, cell: Cell, folder: Path, device: str) -> Mapping[str, Any]:
        self.calls.append(cell.seed)
        time.sleep(self.seconds)
        (folder / "made.txt").write_text(device)
        return {"evaluations": 10 + cell.seed}


def test_cells_leave_their_files_and_a_record(tmp_path: Path) -> None:
    work = Counting()
    result = run_grid(CELLS, work, tmp_path, progress=False)
    assert [cell.seed for cell in result.done] == work.calls == [0, 1, 2, 3]
    assert (CELLS[2].path(tmp_path) / "made.txt").read_text() == "cpu"
    record = CELLS[2].record(tmp_path)
    assert record["evaluations"] == 12
    assert record["cell"]["hangs_on"] == {"steps": 2}
    assert record["seconds"] >= 0
    assert record["machine"]
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".unfinished")]
    assert not (tmp_path / ".locks" / CELLS[2].key).exists()


def test_what_is_there_is_not_done_again_and_what_is_missing_is(tmp_path: Path) -> None:
    run_grid(CELLS, Counting(), tmp_path, progress=False)
    (CELLS[1].path(tmp_path) / grid.CELL).unlink()  # as if killed before the last file
    work = Counting()
    result = run_grid(CELLS, work, tmp_path, progress=False)
    assert work.calls == [1]
    assert [cell.seed for cell in result.there] == [0, 2, 3]


def test_keys_differ_with_everything_the_result_hangs_on() -> None:
    base = Cell("hills", "snow", "csd", "guidance 3", 0, {"model": "a", "steps": 2})
    assert base.key == Cell("hills", "snow", "csd", "guidance 3", 0, {"steps": 2, "model": "a"}).key
    others = [
        Cell("lake", "snow", "csd", "guidance 3", 0, base.hangs_on),
        Cell("hills", "night", "csd", "guidance 3", 0, base.hangs_on),
        Cell("hills", "snow", "sds", "guidance 3", 0, base.hangs_on),
        Cell("hills", "snow", "csd", "guidance 5", 0, base.hangs_on),
        Cell("hills", "snow", "csd", "guidance 3", 1, base.hangs_on),
        Cell("hills", "snow", "csd", "guidance 3", 0, {"model": "b", "steps": 2}),
    ]
    assert len({base.key, *(other.key for other in others)}) == 7
    assert base.key.startswith("csd-guidance-3-snow-hills-seed-0-")


def test_a_cell_that_fails_is_named_and_the_others_finish(tmp_path: Path) -> None:
    def work(cell: Cell, folder: Path, device: str) -> Mapping[str, Any]:
        if cell.seed == 1:
            raise UserError("seed: expected another,\n got 1")
        return {}

    result = run_grid(CELLS, work, tmp_path, progress=False)
    assert [cell.seed for cell in result.done] == [0, 2, 3]
    with pytest.raises(
        UserError, match=r"1 of 4 cells .* csd, snow, hills, seed 1: seed: expected another, "
    ):
        result.raise_failures()
    failed = tmp_path / "failed" / f"{CELLS[1].key}.txt"
    assert "Traceback" in failed.read_text()
    assert run_grid(CELLS, Counting(), tmp_path, progress=False).failed == []
    assert not failed.exists()


def test_what_another_process_has_just_failed_at_is_not_tried_again(tmp_path: Path) -> None:
    def work(cell: Cell, folder: Path, device: str) -> Mapping[str, Any]:
        if cell.seed == 1:
            raise UserError("seed: expected another,\n got 1")
        if cell.seed == 2:
            raise KeyError("steps")
        return {}

    began = time.time()
    first = run_grid(CELLS, work, tmp_path, progress=False, since=began)
    again = Counting()
    other = run_grid(CELLS, again, tmp_path, progress=False, since=began)
    assert again.calls == []
    assert other.failed == first.failed
    assert [failure.is_bug for failure in other.failed] == [False, True]
    assert run_grid(CELLS, again, tmp_path, progress=False, since=time.time() + 1).failed == []
    assert again.calls == [1, 2]


def test_a_bug_is_no_user_error(tmp_path: Path) -> None:
    def work(cell: Cell, folder: Path, device: str) -> Mapping[str, Any]:
        raise KeyError("steps")

    result = run_grid(CELLS[:1], work, tmp_path, progress=False)
    with pytest.raises(RuntimeError, match="KeyError: 'steps'"):
        result.raise_failures()


def test_two_runs_share_a_folder_and_no_cell_is_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "POLL_SECONDS", 0.02)
    work, results = Counting(0.05), []

    def run() -> None:
        results.append(run_grid(CELLS, work, tmp_path, progress=False))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(work.calls) == [0, 1, 2, 3]
    assert sorted(cell.seed for result in results for cell in result.done) == [0, 1, 2, 3]
    assert all(len(result.done) + len(result.there) == 4 for result in results)


def test_the_lock_names_what_is_to_be_removed_should_the_process_die(tmp_path: Path) -> None:
    def work(cell: Cell, folder: Path, device: str) -> Mapping[str, Any]:
        holder = json.loads((tmp_path / ".locks" / cell.key).read_text())
        assert holder["unfinished"] == str(folder)
        assert holder["pid"] == psutil.Process().pid
        return {}

    assert run_grid(CELLS[:1], work, tmp_path, progress=False).failed == []


def test_a_cell_that_another_finished_before_the_lock_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, real = Counting(), grid.locked

    def late(path: Path) -> Any:
        monkeypatch.setattr(grid, "locked", real)
        run_grid(CELLS[:1], work, tmp_path, progress=False)
        return real(path)

    monkeypatch.setattr(grid, "locked", late)
    assert grid.do_cell(CELLS[0], work, tmp_path, "cpu").state == "there"
    assert work.calls == [0]


def held(tmp_path: Path, **holder: Any) -> Path:
    lock = tmp_path / ".locks" / CELLS[0].key
    lock.parent.mkdir()
    lock.write_text(json.dumps({"host": socket.gethostname(), **holder}))
    return lock


def test_the_lock_of_a_dead_process_is_broken_and_its_rest_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    rest = tmp_path / ".unfinished-abc"
    rest.mkdir()
    held(tmp_path, pid=dead.pid, begun=0.0, unfinished=str(rest))
    work = Counting()
    run_grid(CELLS[:1], work, tmp_path, progress=False)
    assert work.calls == [0]
    assert not rest.exists()


def test_a_process_of_the_same_number_that_began_later_holds_nothing(tmp_path: Path) -> None:
    held(tmp_path, pid=psutil.Process().pid, begun=psutil.Process().create_time() - 60)
    work = Counting()
    run_grid(CELLS[:1], work, tmp_path, progress=False)
    assert work.calls == [0]


@pytest.mark.parametrize("holder", [{"host": "another", "pid": 2**23}, {}])
def test_the_lock_of_a_living_process_or_another_host_holds(tmp_path: Path, holder: dict[str, Any]) -> None:
    own = psutil.Process()
    held(tmp_path, **{"pid": own.pid, "begun": own.create_time(), **holder})
    outcome = grid.do_cell(CELLS[0], Counting(), tmp_path, "cpu")
    assert outcome.state == "locked"


def test_several_devices_work_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    result = run_grid(CELLS, work, folder, ["cpu", "cpu"], progress=False)
    assert sorted(cell.seed for cell in result.done) == [0, 1, 2]
    assert [failure.message for failure in result.failed] == ["ValueError: three"]
    pids = {cell.record(folder)["pid"] for cell in result.done}
    assert len(pids) == 2
    assert psutil.Process().pid not in pids


def test_a_grid_without_devices_or_with_equal_cells_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="device: expected at least one"):
        run_grid(CELLS, Counting(), tmp_path, [])
    with pytest.raises(UserError, match="grid: expected cells that differ, got 1 twice"):
        run_grid([*CELLS, CELLS[0]], Counting(), tmp_path)
