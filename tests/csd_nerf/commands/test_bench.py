import json
import subprocess
import sys
from typing import get_args

import pytest

from csd_core.bench import config as amounts
from csd_core.bench.config import parse_size
from csd_core.errors import UserError
from csd_nerf.commands import bench
from csd_nerf.commands.bench import Part, main

PARTS = list(get_args(Part))


@pytest.fixture
def ran(monkeypatch):
    """Names of the parts that ran; none of them measures."""
    names: list[str] = []

    def measure(config, part):
        names.append(part)
        return {"of": part}

    parts = {part: lambda config, part=part: measure(config, part) for part in bench._parts()}
    monkeypatch.setattr(bench, "_parts", lambda: parts)
    return names


def test_all_parts_run_in_order_memory_first(ran, capsys):
    assert main(["--quick"]) == 0
    assert ran == PARTS
    assert ran[:2] == ["videos", "panoramas"]
    assert "cores" in capsys.readouterr().out


def test_parts_are_chosen_by_name_and_written_as_json(ran, tmp_path):
    path = tmp_path / "new" / "bench.json"
    assert main(["--quick", "--parts", "speedups", "scene", "videos", "--json", str(path)]) == 0
    assert ran == ["videos", "speedups", "scene"]
    figures = json.loads(path.read_text())
    assert list(figures) == ["machine", "versions", *ran]
    assert figures["videos"] == {"of": "videos"}


def test_figures_are_kept_when_a_later_part_fails(ran, monkeypatch, tmp_path):
    def fail(_):
        raise RuntimeError

    monkeypatch.setitem(bench._parts(), "speedups", fail)
    with pytest.raises(RuntimeError):
        main(["--quick", "--parts", "videos", "speedups", "--json", str(tmp_path / "bench.json")])
    assert json.loads((tmp_path / "bench.json").read_text())["videos"] == {"of": "videos"}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--frames", "0"], "frames"),
        (["--frames"], "frames"),
        (["--rounds", "0"], "rounds"),
        (["--sizes", "70x5"], "sizes"),
        (["--json", "/dev/null/a.json"], "/dev/null/a.json"),
    ],
)
def test_bad_options_are_one_line_before_anything_is_measured(ran, capsys, options, name):
    assert main(["--quick", "--device", "cpu", *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {name}: expected")
    assert not ran


@pytest.mark.parametrize("text", ["64x", "64x31", "64x64x64", "²00x200"])
def test_a_size_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setattr(amounts, "LEAST_SIDE", 32)
    with pytest.raises(UserError, match="sizes: expected WIDTHxHEIGHT"):
        parse_size(text)
    assert parse_size("32X640") == (32, 640)


def test_nerfstudio_is_not_loaded_before_it_is_needed():
    program = "import sys, csd_nerf.commands.bench; print('nerfstudio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
