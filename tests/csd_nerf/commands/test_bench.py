import subprocess
import sys

import pytest

from csd_core.bench.command import PARTS
from csd_nerf.commands import bench as bench_command


@pytest.fixture(autouse=True)
def parts(monkeypatch):
    """What is registered here is forgotten afterwards."""
    for part in PARTS:
        monkeypatch.setitem(PARTS, part, PARTS[part])
    monkeypatch.setitem(PARTS, "scene", PARTS.get("scene"))


def test_scenes_are_a_part_beside_those_of_csd_core(monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(bench_command, "bench_scene", lambda config: ran.append(config.quick) or {})
    assert bench_command.main(["--quick", "--device", "cpu", "--parts", "scene"]) == 0
    assert ran == [True]
    assert bench_command.main(["--parts", "scenes"]) == 2
    assert "chip, scene" in capsys.readouterr().err


def test_nerfstudio_is_not_loaded_before_it_is_needed():
    program = "import sys, csd_nerf.commands.bench; print('nerfstudio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
