import json
import re
import subprocess
import sys
import time

import pytest
import torch

from csd_core.bench.command import PARTS, main
from csd_core.denoisers.runtime.memory import PeakMemory


@pytest.fixture
def ran(monkeypatch):
    """Parts that note that they were run, in place of those that measure."""
    names: list[str] = []
    for part in PARTS:
        monkeypatch.setitem(PARTS, part, lambda config, part=part: names.append(part) or {"of": part})
    return names


def test_all_parts_run_in_order_memory_first(ran, capsys):
    assert main(["--quick"]) == 0
    assert ran == list(PARTS)
    assert ran[:2] == ["videos", "panoramas"]
    assert re.search(r"cores \d+", capsys.readouterr().out)


def test_parts_are_chosen_by_name_and_written_as_json(ran, tmp_path):
    path = tmp_path / "new" / "bench.json"
    assert main(["--quick", "--parts", "speedups", "videos", "--json", str(path)]) == 0
    assert ran == ["videos", "speedups"]
    figures = json.loads(path.read_text())
    assert list(figures) == ["machine", "versions", "videos", "speedups"]
    assert figures["videos"] == {"of": "videos"}


def test_what_was_measured_is_kept_when_a_later_part_fails(ran, monkeypatch, tmp_path):
    def fail(_):
        raise RuntimeError

    monkeypatch.setitem(PARTS, "speedups", fail)
    with pytest.raises(RuntimeError):
        main(["--quick", "--parts", "videos", "speedups", "--json", str(tmp_path / "bench.json")])
    assert json.loads((tmp_path / "bench.json").read_text())["videos"] == {"of": "videos"}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (["--parts", "engine"], "parts"),
        (["--frames", "0"], "frames"),
        (["--frames"], "frames"),
        (["--timed-steps", "0"], "timed_steps"),
        (["--rounds", "0"], "rounds"),
        (["--steps", "1"], "steps"),
        (["--sizes", "70x5"], "sizes"),
        (["--compare-sizes", "wide"], "compare_sizes"),
    ],
)
def test_bad_options_are_one_line_before_anything_is_measured(ran, capsys, wrong, named):
    assert main(["--quick", "--device", "cpu", *wrong]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {named}: expected")
    assert not ran


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what a machine with CUDA has")
def test_asking_for_an_absent_gpu_is_one_line_and_exit_code_2(ran, capsys):
    assert main(["--device", "cuda"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_it_runs_as_a_module():
    line = [sys.executable, "-m", "csd_core.bench", "--quick", "--device", "cpu", "--parts", "chip"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert "needs a GPU" in done.stdout


def test_peak_memory_sees_what_was_held_only_for_a_moment():
    with PeakMemory(torch.device("cpu")) as before:
        pass
    with PeakMemory(torch.device("cpu")) as memory:
        held = torch.ones(2**28 // 4)  # 256 MiB, written to
        held.sum()
        time.sleep(0.1)  # ten samples, should another process have the core
        del held
    assert memory.peak - before.peak == pytest.approx(0.25, abs=0.1)
