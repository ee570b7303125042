"""The demo through the real ns-train, and bad input."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from csd_core.errors import UserError
from csd_nerf.commands import demo
from csd_nerf.commands.demo import DemoConfig
from csd_nerf.commands.demo_scene import write_demo_scene
from csd_nerf.editing.quality import BASE_AT_LEAST
from tests.csd_nerf.conftest import run_command, write_capture

PROMPT = "turn red things blue"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_epsilon: Path):
    """Output folder of a demo of a few steps, on photos at 1/2 of their size, and what it printed."""
    output = tmp_path_factory.mktemp("demo") / "out"
    settings = {
        "--data": write_demo_scene(output.parent / "scene", num_views=12, size=65),
        "--prompt": PROMPT,
        "--model": tiny_epsilon,
        "--output": output,
        "--max-side": 33,
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
    states = [json.loads(path.read_text()) for path in output.glob("runs/**/edits/round_*/state.json")]
    assert [state["prompt"] for state in states] == [PROMPT] * 2
    for edit in output.glob("runs/**/edits/round_*/[0-9]*.png"):
        with Image.open(edit) as image:
            assert image.size == (32, 32)


def test_demo_prints_no_warnings_of_others_and_ends_with_a_verdict(finished):
    output, done = finished
    lines = done.stdout.splitlines()
    assert len(lines) < 45, done.stdout
    assert "CSDTrainerConfig" not in done.stdout
    # after six steps nothing is learned, which is printed before the edit and at the end
    (run,) = output.glob("runs/demo/csd-nerf2nerf-tiny/*")
    quality = json.loads((run / "quality.json").read_text())
    assert quality["base"] < BASE_AT_LEAST
    warned = next(k for k, line in enumerate(lines) if line.startswith("warning: held-out photos"))
    edited = next(k for k, line in enumerate(lines) if line.startswith("Round 1: "))
    assert warned < edited
    assert "The result can NOT be trusted" in done.stdout[done.stdout.rindex("ns-viewer") :]
    cost = figures_of(output)["cost"]
    assert len(cost["round_seconds"]) == 2  # before the steps 3 and 5
    assert (
        0 < cost["base_seconds"] < cost["base_seconds"] + sum(cost["round_seconds"]) < cost["train_seconds"]
    )
    assert 0.3 < cost["peak_gib"] < 6


@pytest.mark.parametrize("option", ["--data", "--prompt", "--max-side"])
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch, capsys, option: str):
    value = {"--data": str(tmp_path), "--prompt": " ", "--max-side": "15"}[option]
    monkeypatch.setattr("sys.argv", ["csd-demo", option, value, "--output", str(tmp_path / "out")])
    assert demo.main() == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
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


def test_a_place_that_cannot_be_written_is_found_first():
    with pytest.raises(UserError, match="expected a folder at /dev/null, got a file"):
        demo.check(DemoConfig(output=Path("/dev/null/demo")))


def test_only_options_that_were_given_replace_the_preset(tmp_path: Path):
    config = DemoConfig(prompt='say "hi"', base_steps=7, output=tmp_path)
    words = demo.train_command(config, write_capture(tmp_path / "scene", [(16, 12)] * 10))
    assert {'--pipeline.datamanager.prompt=say "hi"', "--base-steps=7"} <= set(words)
    names = {word.partition("=")[0] for word in words}
    scale = "--pipeline.datamanager.camera-res-scale-factor"
    assert not {"--max-num-iterations", "--pipeline.datamanager.model", scale} & names


@pytest.mark.parametrize("photos", [3, 5, 9, 10])
def test_of_a_small_capture_one_photo_is_held_out(tmp_path: Path, photos: int):
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    data = write_capture(tmp_path / "scene", [(16, 12)] * photos)
    words = demo.train_command(DemoConfig(data=data), data)
    fraction: Any = {"train_split_fraction": float(words[-1])} if "--train-split-fraction" in words else {}
    parser = NerfstudioDataParserConfig(data=data, **fraction).setup()
    views = [len(parser.get_dataparser_outputs(split=split).image_filenames) for split in ("train", "val")]
    assert views == [photos - 1, 1]


def test_cost_is_read_from_the_runs_files(tmp_path: Path):
    (tmp_path / "config.yml").touch()
    os.utime(tmp_path / "config.yml", (1000, 1000))
    for number, (ended, seconds) in enumerate([(1100, 30.0), (1300, 20.0)], start=1):
        state = tmp_path / "edits" / f"round_{number:04d}" / "state.json"
        state.parent.mkdir(parents=True)
        state.write_text(json.dumps({"seconds": seconds}))
        os.utime(state, (ended, ended))
    cost = demo.measure_cost(tmp_path, 400.0)
    assert cost["base_seconds"] == pytest.approx(1100 - 30 - 1000)
    assert (cost["round_seconds"], cost["train_seconds"]) == ([30.0, 20.0], 400.0)
    assert math.isnan(demo.measure_cost(tmp_path / "edits", 1.0)["base_seconds"])
