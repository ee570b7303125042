"""Experiments on scenes: what a row means to ns-train, and one whole experiment at toy size."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from csd_core.errors import UserError
from csd_core.experiments.options import ExperimentOptions
from csd_core.experiments.settings import Model, Prompt, Variant, kernel_share
from csd_nerf.commands import experiment as experiment_command
from csd_nerf.commands import scene_experiments
from csd_nerf.commands.scene_experiments import (
    MINIATURE,
    ONE_VIEW,
    PAPER,
    SCENE_EXPERIMENTS,
    Capture,
    SceneTraining,
    SceneWork,
    edit_settings,
    find_captures,
    prepare_scenes,
    usual_settings,
    visible_device,
)
from tests.csd_nerf.conftest import SMALL, parse, train, write_capture

# the tokenizer of the tiny model knows no words, and so runs out of tokens
pytestmark = pytest.mark.filterwarnings("ignore:the prompt is cut")

TOY = SceneTraining(
    "csd-nerf2nerf-tiny", 3, 4, 3, 2, one_view_interval=2, sampling_steps=2, novel_views=3, width=16
)
ROWS = {variant.name: variant for experiment in SCENE_EXPERIMENTS for variant in experiment.full.variants}


# What a row means -----------------------------------------------------------------------------------


def test_rows_differ_from_the_preset_in_their_own_settings() -> None:
    usual = edit_settings(ROWS["csd"], PAPER, 0)
    assert usual == usual_settings(PAPER)
    sds, alone = (edit_settings(ROWS[name], PAPER, 0) for name in ("sds", "no-svgd"))
    assert (sds.baseline, sds.mixing, alone.baseline, alone.mixing) == ("noise", True, "image", False)
    assert alone.learning_rate == pytest.approx(usual.learning_rate * 2 / 17)
    wide = edit_settings(ROWS["csd, bandwidth x 3"], PAPER, 0)
    assert (wide.bandwidth_factor, wide.shared_noise) == (3, False)
    assert wide.learning_rate == pytest.approx(
        usual.learning_rate * kernel_share(16, 1) / kernel_share(16, 3)
    )
    assert edit_settings(ROWS["csd, shared noise"], PAPER, 0).shared_noise
    assert edit_settings(ROWS["csd"], MINIATURE, 5).seed == 5
    assert edit_settings(ROWS["csd"], MINIATURE, 5).batch_size == MINIATURE.views
    one_view = edit_settings(ROWS[ONE_VIEW], PAPER, 0)
    assert (one_view.batch_size, one_view.guidance_scale) == (1, usual.guidance_scale)


@pytest.mark.parametrize(
    "row",
    [
        ROWS[ONE_VIEW],
        ROWS["csd, shared noise, bandwidth x 3"],
        Variant("csd", "", {"guidance_scale": 3.0, "image_guidance_scale": 1.25, "num_steps": 9}),
    ],
)
def test_ns_train_understands_its_arguments(
    row: Variant, capture: Path, tiny_epsilon: Path, tmp_path: Path
) -> None:
    (tmp_path / "base" / "run" / "nerfstudio_models").mkdir(parents=True)
    seen = Capture("scene", capture, "0" * 64)
    work = SceneWork(tmp_path, Model(str(tiny_epsilon), tiny_epsilon), {seen.sha256: seen}, TOY)
    cell = work.plan(seen, Prompt.mini("tint"), row, 7)
    config = parse([TOY.method, *work._edit_arguments(cell, tmp_path / "base")])
    manager = config.pipeline.datamanager
    assert manager.edit == edit_settings(row, TOY, 7)
    assert (manager.prompt, manager.data) == ("give it a tint", capture)
    one_view = row.method == ONE_VIEW
    assert (manager.schedule, manager.sampling_steps) == ("one-view" if one_view else "rounds", 2)
    assert manager.edit_interval == (TOY.one_view_interval if one_view else TOY.interval)
    assert (config.base_steps, config.max_num_iterations) == (3, 7)
    assert config.load_dir == tmp_path / "base" / "run" / "nerfstudio_models"


def test_a_cell_depends_on_all_that_changes_its_edit(tiny_epsilon: Path) -> None:
    work = SceneWork(Path("out"), Model(str(tiny_epsilon), tiny_epsilon), {}, TOY)
    seen, row, tint, make = (
        Capture("scene", Path("scene"), "0" * 64),
        ROWS["csd"],
        Prompt.mini("tint"),
        work.plan,
    )
    usual = make(seen, tint, row, 0)
    assert make(replace(seen, folder=Path("elsewhere")), tint, row, 0) == usual
    others = [
        make(replace(seen, sha256="1" * 64), tint, row, 0),
        make(seen, replace(tint, text="give it another"), row, 0),
        make(seen, tint, Variant("csd", "", {"bandwidth_factor": 2.0}), 0),
        make(seen, tint, row, 1),
        replace(work, training=replace(TOY, steps=9)).plan(seen, tint, row, 0),
    ]
    assert len({cell.key for cell in (usual, *others)}) == 6


# Captures -------------------------------------------------------------------------------------------


def captures(folder: Path | None, output: Path, **more: Any) -> list[Capture]:
    return find_captures(ExperimentOptions(name="scene", output=output, inputs=folder, **more), TOY)


def test_a_capture_or_a_folder_of_them(capture: Path, tmp_path: Path) -> None:
    (alone,) = captures(capture, tmp_path)
    assert (alone.name, alone.folder) == ("scene", capture)
    for name in ("b", "a"):
        write_capture(tmp_path / "in" / name, [(8, 8)] * 2)
    (tmp_path / "in" / "c").mkdir()  # is no capture
    several = captures(tmp_path / "in", tmp_path)
    assert [one.name for one in several] == ["a", "b"]
    assert several[0].sha256 == several[1].sha256 != alone.sha256
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "a" / "images" / "000.png")
    changed = captures(tmp_path / "in", tmp_path, num_inputs=1)
    assert [one.sha256 != several[0].sha256 for one in changed] == [True]
    with pytest.raises(UserError, match=r"inputs: expected a capture with transforms\.json"):
        captures(tmp_path / "in" / "c", tmp_path)
    with pytest.raises(UserError, match="size: expected none"):
        captures(capture, tmp_path, size=64)


def test_a_capture_is_rendered_once_for_each_size(tmp_path: Path) -> None:
    few = replace(TOY, photos=2)
    rendered = [
        find_captures(ExperimentOptions(name="scene", output=tmp_path, size=size), few) for size in (8, 12, 8)
    ]
    (first,), (larger,), (again,) = rendered
    assert first == again
    assert first.sha256 != larger.sha256
    with Image.open(next(larger.folder.glob("images/*"))) as image:
        assert image.size == (12, 12)
    with pytest.raises(UserError, match="num-inputs: expected 1"):
        captures(None, tmp_path, num_inputs=2)


@pytest.mark.parametrize("option", [{"num_steps": 3}, {"dtype": "float16"}, {"num_frames": 2}, {"stride": 4}])
def test_options_that_would_change_nothing_are_refused(option: dict[str, Any], tmp_path: Path) -> None:
    options = ExperimentOptions(name="scene", output=tmp_path, **option)
    with pytest.raises(UserError, match="expected none, scenes take"):
        prepare_scenes(SCENE_EXPERIMENTS[0], options)


# Work -----------------------------------------------------------------------------------------------


def test_the_last_line_of_ns_train_is_shown_when_it_fails(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "ns-train"
    command.write_text("#!/bin/sh\necho begins\necho 'error: no such thing' >&2\nexit 2\n")
    command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    seen = Capture("scene", capture, "0" * 64)
    work = SceneWork(tmp_path, Model.find("mini"), {seen.sha256: seen}, TOY)
    cell = work.plan(seen, Prompt.mini("tint"), ROWS["csd"], 0)
    with pytest.raises(UserError, match="ns-train ended with 2: error: no such thing"):
        work.base(cell, "cpu")
    assert not any((tmp_path / "bases").glob("[!.]*"))  # nothing half made is taken for a base


def test_a_process_sees_the_device_that_its_work_was_given() -> None:
    assert visible_device({}, 1) == "1"
    assert visible_device({"CUDA_VISIBLE_DEVICES": "2,5"}, 1) == "5"


def train_here(command: Sequence[str], **_: Any) -> "subprocess.CompletedProcess[str]":
    """What an ns-train command does, here and with a smaller model: a process takes half a minute."""
    assert Path(command[0]).is_file()
    config = parse(list(command[1:]))
    manager = config.pipeline.datamanager
    assert (config.machine.device_type, manager.model_local_files_only) == ("cpu", True)
    assert "--machine.device-type" in command  # the paper's preset has CUDA
    assert Path(manager.model).name == "epsilon"  # of the base as well: another would be fetched
    small = [words for words in SMALL.items() if words[0].startswith("--pipeline.model.")]
    sizes = [
        word for name, value in small for word in (name, *([value] if isinstance(value, str) else value))
    ]
    train(parse([*command[1:], *sizes]))
    return subprocess.CompletedProcess(command, 0)


def test_an_experiment_from_a_capture_to_tables(
    capture: Path,
    tiny_epsilon: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(scene_experiments, "PAPER", TOY)
    monkeypatch.setattr(scene_experiments.subprocess, "run", train_here)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))  # LPIPS is missing, whatever the machine has
    words = ["scene", "--output", str(tmp_path / "out"), "--inputs", str(capture), "--seeds", "0"]
    words += ["--model", str(tiny_epsilon), "--clip", "mini", "--prompts", "oriental", "--device", "cpu"]
    words += ["--local-files-only"]
    assert experiment_command.main(words) == 0, capsys.readouterr().err
    out = tmp_path / "out"
    (base,) = (out / "bases").glob("scene-*")
    table = json.loads((out / "scene" / "table.json").read_text())
    rows = {row["name"]: row for row in table["rows"]}
    assert set(rows) >= {"csd", ONE_VIEW}
    cells = {path.parent: json.loads(path.read_text()) for path in (out / "cells").glob("*/cell.json")}
    assert len(cells) == 2
    pictures = {}
    for folder, record in cells.items():
        method = record["cell"]["variant"]["method"]
        frames = sorted((folder / "frames").glob("*.png"))
        pictures[method] = [frame.read_bytes() for frame in frames]
        assert len(frames) == 3
        assert 0 < record["depth_error"] != record["source_depth_error"] > 0
        assert not list(folder.rglob("*.ckpt"))
        values = rows[method]["values"]
        assert values["depth_error"]["mean"] == pytest.approx(record["depth_error"])
        assert -1 <= values["directional_similarity"]["mean"] <= 1
    before = [frame.read_bytes() for frame in sorted((base / "frames").glob("*.png"))]
    assert len({tuple(several) for several in (before, *pictures.values())}) == 3
    assert len({record["source_depth_error"] for record in cells.values()}) == 1
    assert (out / "scene" / "sheet.png").is_file()

    stamps = {path: path.stat().st_mtime_ns for path in (base / "train.log", *out.glob("cells/*/cell.json"))}
    assert experiment_command.main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert "2 of 2 cells are there already" in capsys.readouterr().err
