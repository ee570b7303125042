"""The demo through the real ns-train, and what it does with a capture and with bad input."""

import json
import math
import os
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from csd_core.errors import UserError
from csd_core.machine import CpuTimes, FreeCores
from csd_nerf.commands import demo, evaluate_edit
from csd_nerf.commands.demo import DemoConfig
from csd_nerf.commands.demo_scene import write_demo_scene
from csd_nerf.editing.quality import BASE_AT_LEAST
from csd_nerf.nerfstudio_compat.quiet import quiet_environment
from tests.csd_nerf.conftest import run_command

PROMPT = "turn red things blue"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo_scene(tmp_path_factory.mktemp("capture") / "scene", num_views=12, size=32)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, scene: Path, tiny_epsilon: Path):
    """Output folder of a demo of a few steps, and what it printed."""
    output = tmp_path_factory.mktemp("demo") / "out"
    settings = {
        "--data": scene,
        "--prompt": PROMPT,
        "--model": tiny_epsilon,
        "--output": output,
        "--base-steps": 3,
        "--steps": 6,
        "--edit-steps": 1,
        "--edit-interval": 2,
    }
    done = run_command("csd-demo", *(str(word) for pair in settings.items() for word in pair))
    assert done.returncode == 0, done.stdout + done.stderr
    return output, done


def figures_of(output: Path) -> dict:
    return json.loads((output / "figures.json").read_text())


def test_demo_leaves_picture_and_figures(finished):
    output, done = finished
    figures = figures_of(output)
    assert (figures["prompt"], figures["instruction"], figures["views"]) == (PROMPT, "red to blue", 1)
    for gain in (figures["whole"], figures["affected"]):
        assert gain["gain"] == pytest.approx(gain["edited"] - gain["base"])
        assert f"{gain['gain']:+.2f}" in done.stdout
        assert gain["base"] != gain["edited"]
    assert f"{figures['base_to_photo']:.2f}" in done.stdout
    with Image.open(output / "before_after.png") as image:
        assert image.width >= 3 * 32
        assert image.height >= 32


def test_demo_is_quiet_and_ends_with_a_verdict(finished):
    output, done = finished
    lines = done.stdout.splitlines()
    assert len(lines) < 45, done.stdout
    assert "Warning" not in done.stderr.replace("UserWarning: the prompt is cut", "")
    assert "CSDTrainerConfig" not in done.stdout
    assert not [line for line in lines if "nerfstudio_dataparser" in line or "writer.py" in line]
    # after six steps nothing is there: it says so before the edit, and at the end
    (run,) = output.glob("runs/demo/csd-nerf2nerf-tiny/*")
    quality = json.loads((run / "quality.json").read_text())
    assert quality["base"] < BASE_AT_LEAST
    warned = next(k for k, line in enumerate(lines) if line.startswith("warning: held-out photos"))
    edited = next(k for k, line in enumerate(lines) if line.startswith("Round 1: "))
    assert warned < edited
    assert "The result can NOT be trusted" in done.stdout[done.stdout.rindex("Look around") :]
    assert (run / "config.yml").is_file()


def test_demo_measures_its_cost(finished):
    cost = figures_of(finished[0])["cost"]
    assert len(cost["round_seconds"]) == 2  # before the steps 3 and 5
    assert 0 < cost["base_seconds"] < cost["train_seconds"]
    assert cost["base_seconds"] + sum(cost["round_seconds"]) < cost["train_seconds"]
    assert 0.3 < cost["peak_gib"] < 6


def test_the_prompt_reached_the_editor(finished):
    states = [json.loads(path.read_text()) for path in finished[0].glob("runs/**/edits/round_*/state.json")]
    assert [state["prompt"] for state in states] == [PROMPT] * 2


def test_demo_is_free_of_warnings_that_tell_nothing(finished):
    assert "Warning: Using a non-tuple sequence" not in finished[1].stderr + finished[1].stdout
    assert "torch.jit.script" not in finished[1].stderr + finished[1].stdout


def test_evaluate_edit_gives_the_demos_figures_wherever_the_run_lies(finished, tmp_path, monkeypatch, capsys):
    output, _ = finished
    moved = tmp_path / "moved"
    shutil.copytree(output / "runs", moved)
    shutil.rmtree(next(moved.rglob("tensorboard"), tmp_path / "none"), ignore_errors=True)
    monkeypatch.setattr("sys.argv", ["csd-evaluate-edit", "--run", str(moved)])
    assert evaluate_edit.main() == 0
    (figures,) = moved.rglob("evaluation/figures.json")
    again, before = json.loads(figures.read_text()), figures_of(output)
    for name in ("whole", "affected"):
        assert again[name]["edited"] == pytest.approx(before[name]["edited"], abs=1e-3)
        assert again[name]["base"] == pytest.approx(before[name]["base"], abs=1e-3)
    assert figures.with_name("before_after.png").is_file()
    # Without the scene before the edit there is nothing to compare with.
    shutil.rmtree(next(moved.rglob("base_model")))
    assert evaluate_edit.main() == 2
    assert "--base" in capsys.readouterr().err


def test_held_out_views_are_rendered_off_the_cores_of_others(finished, monkeypatch):
    (run,) = finished[0].glob("runs/demo/csd-nerf2nerf-tiny/*")
    times = (CpuTimes(wall=2.0 * k - 100, own=0, all=8.0 * k, cores=4) for k in count())
    threads: list[int] = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(evaluate_edit, "FreeCores", lambda: FreeCores(lambda: next(times), threads.append, 4))
    evaluate_edit.render_held_out(run / "config.yml")
    assert threads == [1]


# ---- a capture of any size


def write_capture(folder: Path, size: tuple[int, int]) -> Path:
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rng = np.random.default_rng(0)
    width, height = size
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "images" / "a.bmp")
    Image.fromarray(pixels[..., 0]).save(folder / "masks" / "a.png")
    pose = np.eye(4).tolist()
    frames = [
        {
            "file_path": "images/a.bmp",
            "mask_path": "masks/a.png",
            "depth_file_path": "d.png",
            "transform_matrix": pose,
        },
        {"file_path": "images/a.bmp", "transform_matrix": pose, "fl_x": 30.0, "w": width, "h": height},
    ]
    transforms = {"fl_x": 50.0, "fl_y": 52.0, "cx": 21.0, "cy": 15.0, "w": width, "h": height, "k1": 0.05}
    whole = {**transforms, "ply_file_path": "points.ply", "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(whole))
    return folder


@pytest.mark.parametrize(
    ("size", "factor"), [((256, 100), 1), ((257, 100), 2), ((270, 480), 2), ((100, 1100), 5)]
)
def test_factor_brings_the_longer_side_under_the_limit(tmp_path: Path, size, factor):
    capture = write_capture(tmp_path / "capture", size)
    assert demo.downscale_factor(capture, max_side=256) == factor


def test_shrunk_capture_has_the_mean_of_the_pixels_and_the_same_rays(tmp_path: Path):
    capture = write_capture(tmp_path / "capture", (42, 31))
    before = {path: path.read_bytes() for path in capture.rglob("*") if path.is_file()}
    small = demo.shrink_capture(capture, tmp_path / "small", 2)
    transforms = json.loads((small / "transforms.json").read_text())
    assert [transforms[key] for key in ("fl_x", "fl_y", "cx", "cy", "w", "h", "k1")] == [
        25,
        26,
        10.5,
        7.5,
        21,
        15,
        0.05,
    ]
    assert [transforms["frames"][1][key] for key in ("fl_x", "w", "h")] == [15, 21, 15]
    assert "ply_file_path" not in transforms
    assert "depth_file_path" not in transforms["frames"][0]
    with Image.open(capture / "images" / "a.bmp") as large, Image.open(small / "images" / "a.png") as image:
        assert image.size == (21, 15)
        blocks = np.array(large, float)[:30, :42].reshape(15, 2, 21, 2, 3).mean(axis=(1, 3))
        # 31 rows become 15: PIL spreads the odd row; the first rows are nearly the plain mean.
        assert np.abs(np.array(image, float)[0] - blocks[0]).mean() < 6
    with Image.open(small / transforms["frames"][0]["mask_path"]) as mask:
        assert mask.size == (21, 15)
    assert {path: path.read_bytes() for path in capture.rglob("*") if path.is_file()} == before


def test_large_captures_are_shrunk_beside_the_output_and_small_ones_used_as_they_are(tmp_path: Path):
    from rich.console import Console

    capture, console = write_capture(tmp_path / "capture", (42, 30)), Console(quiet=True)
    config = DemoConfig(data=capture, output=tmp_path / "out", max_side=42)
    assert demo.make_scene(config, console) == capture
    config.max_side = 41
    assert demo.make_scene(config, console) == tmp_path / "out" / "scene"
    assert json.loads((tmp_path / "out" / "scene" / "transforms.json").read_text())["w"] == 21


def test_a_damaged_photo_leaves_the_former_copy(tmp_path: Path):
    capture = write_capture(tmp_path / "capture", (42, 30))
    small = demo.shrink_capture(capture, tmp_path / "out" / "small", 2)
    before = (small / "transforms.json").read_text()
    image = capture / "images" / "a.bmp"
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(UserError, match=r"a\.bmp"):
        demo.shrink_capture(capture, small, 3)
    assert (small / "transforms.json").read_text() == before
    assert list(small.parent.iterdir()) == [small]


# ---- bad input


@pytest.mark.parametrize(
    ("transforms", "words"),
    [
        (None, "transforms.json"),
        ("{", "damaged"),
        ("[1]", "damaged"),
        ('{"frames": [{}]}', "damaged"),
        ('{"frames": []}', "expected frames"),
    ],
)
def test_bad_capture_is_one_line_and_nothing_is_begun(tmp_path: Path, monkeypatch, capsys, transforms, words):
    data = tmp_path / "data"
    data.mkdir()
    if transforms is not None:
        (data / "transforms.json").write_text(transforms)
    output = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["csd-demo", "--data", str(data), "--output", str(output)])
    assert demo.main() == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert not output.exists()


def test_empty_prompt_is_refused(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["csd-demo", "--prompt", " ", "--output", str(tmp_path / "out")])
    assert demo.main() == 2
    assert "no prompt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_exit_code_of_ns_train_is_passed_on(tmp_path: Path, monkeypatch):
    config = DemoConfig(output=tmp_path)
    monkeypatch.setattr(demo, "train_command", lambda *_: ["sh", "-c", "exit 3"])
    with pytest.raises(SystemExit) as ended:
        demo.train(config, tmp_path)
    assert ended.value.code == 3
    monkeypatch.setattr(demo, "train_command", lambda *_: ["sh", "-c", "kill -9 $$"])
    with pytest.raises(UserError, match="signal 9"):
        demo.train(config, tmp_path)


def test_only_what_was_asked_for_replaces_the_preset(tmp_path: Path):
    words = demo.train_command(DemoConfig(prompt='say "hi"', output=tmp_path), tmp_path / "scene")
    assert words[words.index("--pipeline.datamanager.prompt") + 1] == 'say "hi"'
    assert not {"--base-steps", "--max-num-iterations", "--pipeline.datamanager.model"} & set(words)
    words = demo.train_command(DemoConfig(base_steps=7, output=tmp_path), tmp_path / "scene")
    assert words[words.index("--base-steps") + 1] == "7"


def test_cost_is_read_off_the_runs_files(tmp_path: Path):
    (tmp_path / "config.yml").touch()
    os.utime(tmp_path / "config.yml", (1000, 1000))
    for number, (ended, seconds) in enumerate([(1100, 30.0), (1300, 20.0)], start=1):
        state = tmp_path / "edits" / f"round_{number:04d}" / "state.json"
        state.parent.mkdir(parents=True)
        state.write_text(json.dumps({"seconds": seconds}))
        os.utime(state, (ended, ended))
    cost = demo.measure_cost(tmp_path, 400.0)
    assert cost.base_seconds == pytest.approx(1100 - 30 - 1000)
    assert cost.round_seconds == [30.0, 20.0]
    assert cost.train_seconds == 400.0
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert cost.peak_gib >= peak / 2**20 * 0.99
    assert math.isnan(demo.measure_cost(tmp_path / "edits", 1.0).base_seconds)


def test_quiet_environment_drops_those_warnings_and_no_others():
    program = (
        "import warnings\n"
        "for module in ('nerfstudio.cameras.cameras', 'csd_core.engine.loop'):\n"
        "    warnings.warn_explicit('about ' + module, UserWarning, module, 1, module=module)\n"
    )
    environment = quiet_environment({**os.environ, "PYTHONWARNINGS": "default"})
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "about csd_core.engine.loop" in done.stderr
    assert "about nerfstudio" not in done.stderr
