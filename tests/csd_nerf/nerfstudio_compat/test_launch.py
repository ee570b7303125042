"""A scene on two ranks, which communicate over gloo."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.scripts import train as ns_train
from PIL import Image
from torch.multiprocessing.spawn import ProcessExitedException

from csd_nerf.editing.rounds import Rounds
from csd_nerf.nerfstudio_compat.launch import take_over_launch
from csd_nerf.runs.checkpoint import STATE, read_checkpoint
from tests.csd_nerf.conftest import arguments, parse, run_command, train
from tests.csd_nerf.two_ranks import started

STEPS, STOPPED = 13, 9
Seen = dict[str, Any]
RANKS = ("--machine.num-devices", "2")


def run_folder(out: Path) -> Path:
    return out / "scene" / "csd-nerf2nerf-tiny" / "run"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, capture: Path, tiny_epsilon: Path) -> Path:
    """Folder of a run of two ranks, through ns-train."""
    out = tmp_path_factory.mktemp("whole")
    done = run_command("ns-train", *arguments(capture, out, tiny_epsilon, *RANKS), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Round 1: 4 views") == 1, "one rank prints"
    return run_folder(out)


@pytest.fixture(scope="module")
def parts(
    tmp_path_factory: pytest.TempPathFactory, capture: Path, tiny_epsilon: Path
) -> tuple[Path, list[list[Seen]]]:
    """The same run stopped, continued, and one with requests in its viewer; what each rank had in the end."""
    out = tmp_path_factory.mktemp("parts")
    words = arguments(capture, out, tiny_epsilon, *RANKS)
    never = ("--pipeline.datamanager.edit-interval", "100")
    first, second, third = parse(words), parse(words), parse([*words, *never])
    first.timestamp, first.max_num_iterations = "first", STOPPED
    second.load_dir = out / "scene" / "csd-nerf2nerf-tiny" / "first" / "nerfstudio_models"
    third.timestamp = "third"
    return out / "scene" / "csd-nerf2nerf-tiny", started(
        out, [(first, False), (second, False), (third, True)]
    )


@pytest.mark.parametrize("run", [0, 1, 2])
def test_all_ranks_have_the_same_scene_and_the_same_views(
    parts: tuple[Path, list[list[Seen]]], run: int
) -> None:
    one, other = parts[1][run]
    assert one["wrapped"]
    for key, value in one["scene"].items():
        assert torch.equal(value, other["scene"][key]), key
    assert torch.equal(one["views"], other["views"])
    assert one["rounds"] == other["rounds"] == (2, 3, 2)[run]


def test_ranks_sample_different_rays(parts: tuple[Path, list[list[Seen]]]) -> None:
    one, other = parts[1][1]
    assert not torch.equal(one["drawn"], other["drawn"])


def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    whole: Path, parts: tuple[Path, list[list[Seen]]]
) -> None:
    assert read_rounds(parts[0] / "run") == read_rounds(whole)
    expected, got = (latest(folder)["pipeline"] for folder in (whole, parts[0] / "run"))
    for key, value in expected.items():
        assert torch.equal(got[key], value), key


def test_a_run_of_two_continues_alone(whole: Path, capture: Path, tmp_path: Path, tiny_epsilon: Path) -> None:
    state = latest(whole)
    assert len(state[STATE]["random_of_others"]) == 1
    words = arguments(capture, tmp_path, tiny_epsilon, "--load-dir", str(whole / "nerfstudio_models"))
    alone = train(parse([*words, "--max-num-iterations", str(STEPS + 1)]))
    assert not any("module." in key for key in state["pipeline"])
    assert alone.pipeline.state_dict().keys() == state["pipeline"].keys()
    assert alone.datamanager.rounds_done == 4
    assert read_rounds(whole).items() < read_rounds(alone.base_dir).items()


def test_a_round_of_two_is_that_of_one(
    whole: Path, capture: Path, tmp_path: Path, tiny_epsilon: Path
) -> None:
    """The first round, from the scene as it was before."""
    words = arguments(capture, tmp_path, tiny_epsilon, "--load-dir", str(whole / "base_model"))
    alone = train(parse([*words, "--max-num-iterations", "5"]))
    expected = Rounds(alone.base_dir / "edits").read(1)
    got = Rounds(whole / "edits").read(1)
    assert got.keys() == expected.keys()
    for view, edit in got.items():
        assert int((edit.int() - expected[view].int()).abs().max()) <= 1, "a level of 255, by rounding"


def test_requests_in_the_viewer_of_rank_0_count_for_all(parts: tuple[Path, list[list[Seen]]]) -> None:
    """At the next step at which the ranks exchange requests."""
    states = [json.loads(path.read_text()) for path in parts[0].glob("third/edits/round_*/state.json")]
    assert sorted((state["step"], state["prompt"]) for state in states) == [(4, "night"), (10, "night")]


def test_a_rank_that_ends_ends_all_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(*_: Any, **__: Any) -> None:
        raise ProcessExitedException("process 1 terminated with exit code 2", 1, 12, 2)

    monkeypatch.setattr(ns_train, "launch", launch)
    take_over_launch()
    take_over_launch()  # once is enough
    ours: Any = ns_train.launch
    with pytest.raises(SystemExit) as ended:
        ours(device_type="cuda")
    assert ended.value.code == 2


def read_rounds(folder: Path) -> dict[str, bytes]:
    """The edits of every round."""
    paths = sorted(folder.glob("edits/round_*/[0-9]*.png"))
    assert paths
    return {f"{path.parent.name}/{path.name}": np.asarray(Image.open(path)).tobytes() for path in paths}


def latest(folder: Path) -> dict[str, Any]:
    return read_checkpoint(max((folder / "nerfstudio_models").iterdir()))
