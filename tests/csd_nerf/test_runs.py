"""Whole runs through the real commands, one process each."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from csd_nerf.runs.checkpoint import STATE, read_checkpoint
from tests.csd_nerf.conftest import PROMPT, arguments, console_command, environment, run_command
from tests.programs import running, wait_for

STEPS, BASE, ROUNDS, VIEWS = 13, 4, 3, 4
FORBIDDEN = "import sys\nsys.modules['diffusers'] = None\n"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def run_folder(out: Path) -> Path:
    return out / "scene" / "csd-nerf2nerf-tiny" / "run"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, capture: Path, tiny_epsilon: Path):
    """A run without interruption, and what it printed."""
    out = tmp_path_factory.mktemp("finished")
    done = run_command("ns-train", *arguments(capture, out, tiny_epsilon))
    assert done.returncode == 0, done.stdout + done.stderr
    warned = [line for line in done.stderr.splitlines() if "Warning" in line]
    at_import = ("torch.jit.script", "custom_fwd", "custom_bwd")  # before nerfstudio loads its plugins
    assert all(any(name in line for name in at_import) for line in warned), warned
    return run_folder(out), done.stdout


def test_run_leaves_every_round_on_disk(finished) -> None:
    folder, printed = finished
    seen = []
    for number in range(1, ROUNDS + 1):
        place = folder / "edits" / f"round_{number:04d}"
        state = json.loads((place / "state.json").read_text())
        assert state["prompt"] == PROMPT
        assert state["step"] == BASE + 3 * (number - 1)
        assert len(state["views"]) == VIEWS
        seen += list(state["views"])
        for name in state["views"].values():
            assert pixels(place / name).shape == (32, 32, 3)
        assert pixels(place / "contact_sheet.png").shape[1] > 3 * 32
    assert len(set(seen[:8])) == 8, "views repeat before all were seen"
    assert len(set(seen)) == 10
    assert f"Round {ROUNDS}: {VIEWS} views" in printed
    assert f"{STEPS}/{STEPS}, done" in printed
    assert "http://127.0.0.1" in printed


def test_checkpoint_holds_scene_and_schedule_only(finished) -> None:
    folder, _ = finished
    (path,) = (folder / "nerfstudio_models").iterdir()
    assert path.name == f"step-{STEPS - 1:09d}.ckpt"
    checkpoint = read_checkpoint(path)
    assert {key.split(".")[0] for key in checkpoint["pipeline"]} == {"_model"}
    assert not any("lpips" in key for key in checkpoint["pipeline"])
    assert checkpoint[STATE]["next_step"] == STEPS
    assert checkpoint[STATE]["edit"]["rounds_done"] == ROUNDS
    base = read_checkpoint(folder / "base_model" / f"step-{BASE - 1:09d}.ckpt")
    assert base[STATE]["edit"]["rounds_done"] == 0


def test_killed_run_continues_to_the_same_images(
    finished, tmp_path: Path, capture: Path, tiny_epsilon: Path
) -> None:
    killed = run_folder(tmp_path / "killed")
    command = [console_command("ns-train"), *arguments(capture, tmp_path / "killed", tiny_epsilon)]
    with (
        open(tmp_path / "log", "w") as log,
        running(command, env=environment(), stdout=log, stderr=log, start_new_session=True) as process,
    ):
        wait_for((killed / "edits" / "round_0002").exists, process)
        os.killpg(process.pid, signal.SIGKILL)
    left = [path.name for path in (killed / "nerfstudio_models").iterdir()]
    assert left
    assert f"step-{STEPS - 1:09d}.ckpt" not in left, "it ended before it could be killed"

    more = ("--load-dir", str(killed / "nerfstudio_models"))
    done = run_command("ns-train", *arguments(capture, tmp_path / "resumed", tiny_epsilon, *more))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Continuing from" in done.stdout

    reference, resumed = finished[0], run_folder(tmp_path / "resumed")
    images = sorted(path.relative_to(reference) for path in (reference / "edits").rglob("*.png"))
    assert len(images) == ROUNDS * (VIEWS + 1)
    assert sorted(path.relative_to(resumed) for path in (resumed / "edits").rglob("*.png")) == images
    for name in images:
        np.testing.assert_array_equal(pixels(reference / name), pixels(resumed / name))
    last = Path("nerfstudio_models") / f"step-{STEPS - 1:09d}.ckpt"
    expected, got = (read_checkpoint(folder / last)["pipeline"] for folder in (reference, resumed))
    for key, value in expected.items():
        assert torch.equal(value, got[key]), key


def test_ns_eval_opens_the_run_without_a_diffusion_model(finished, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(FORBIDDEN)
    words = ("--load-config", str(finished[0] / "config.yml"), "--output-path", str(tmp_path / "eval.json"))
    done = run_command("ns-eval", *words, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert results["psnr"] > 0
    assert "lpips" not in results
