import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from csd_core.errors import UserError
from csd_core.experiments import grid
from csd_core.experiments.grid import Cell, Failures, edit_cell, raise_failures, run_grid
from csd_core.experiments.settings import Prompt, Variant

SNOW = Prompt("snow", "make it snowy", "a photo", "a photo in the snow")
CELLS = [Cell("hills", SNOW, Variant("csd"), seed, {"steps": 2}) for seed in range(4)]


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


def seeds(failures: Failures) -> list[int]:
    return [cell.seed for cell, _ in failures]


def test_cells_leave_their_files_and_a_record(tmp_path: Path) -> None:
    work = Counting()
    assert run_grid(CELLS, work, tmp_path) == []
    assert work.calls == [0, 1, 2, 3]
    assert (CELLS[2].path(tmp_path) / "made.txt").read_text() == "cpu"
    record = CELLS[2].record(tmp_path)
    assert record["evaluations"] == 12
    assert record["cell"]["settings"] == {"steps": 2}
    assert record["seconds"] >= 0
    assert record["machine"]
    assert not list((tmp_path / ".unfinished").iterdir())
    (CELLS[1].path(tmp_path) / grid.CELL).unlink()
    run_grid(CELLS, work, tmp_path)
    assert work.calls == [0, 1, 2, 3, 1]  # the missing one alone


def test_keys_differ_with_everything_the_result_depends_on() -> None:
    guided = Variant("csd", "guidance 3", {"guidance_scale": 3})
    base = Cell("hills", SNOW, guided, 0, {"model": "a", "steps": 2})
    assert base.key == replace(base, settings={"steps": 2, "model": "a"}).key
    others = [
        replace(base, input="lake"),
        replace(base, prompt=replace(SNOW, name="night")),
        replace(base, prompt=replace(SNOW, text="make it snow")),
        replace(base, variant=replace(guided, method="sds")),
        replace(base, variant=replace(guided, given={"guidance_scale": 5})),
        replace(base, seed=1),
        replace(base, settings={"model": "b", "steps": 2}),
    ]
    assert len({base.key, *(other.key for other in others)}) == 8
    assert base.key.startswith("csd-guidance-3-snow-hills-seed-0-")


def test_a_cell_that_fails_is_named_and_the_others_finish(tmp_path: Path) -> None:
    failures = run_grid(CELLS, failing, tmp_path)
    assert seeds(failures) == [1, 2]
    assert CELLS[3].is_done(tmp_path)
    with pytest.raises(UserError, match=r"1 cells .* csd, snow, hills, seed 1: seed: expected another, "):
        raise_failures(failures[:1])
    with pytest.raises(RuntimeError, match="KeyError: 'steps'"):  # a bug is no UserError
        raise_failures(failures)
    again = Counting()
    assert run_grid(CELLS, again, tmp_path) == []
    assert again.calls == [1, 2]


def test_two_runs_share_a_folder_and_no_cell_is_edited_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "POLL_SECONDS", 0.02)
    work = Counting(0.05)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run_grid, CELLS, work, tmp_path) for _ in range(2)]
    assert [run.result() for run in runs] == [[], []]
    assert sorted(work.calls) == [0, 1, 2, 3]


def test_a_cell_is_locked_while_its_process_lives_and_edited_again_after_a_kill(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from csd_core.experiments.grid import edit_cell\n"
        "from tests.csd_core.experiments.test_grid import CELLS\n"
        "def work(cell, folder, device):\n"
        "    (folder / 'half.txt').write_text('half')\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(60)\n"
        "edit_cell(CELLS[0], work, Path(sys.argv[1]), 'cpu')\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "begun\n"
        work = Counting()
        assert edit_cell(CELLS[0], work, tmp_path, "cpu") == "locked"
        other.send_signal(signal.SIGKILL)
    assert edit_cell(CELLS[0], work, tmp_path, "cpu") == "done"
    assert work.calls == [0]
    assert not list(tmp_path.rglob("half.txt"))
