import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from csd_core.cli.panorama import PanoramaOptions, edit_panorama
from csd_core.cli.video import VideoOptions, edit_video
from csd_core.command import run_command
from csd_core.engine import ranks as distributed
from csd_core.engine.ranks import ALONE, TIMEOUT, Ranks, current, launched, without_launch
from csd_core.errors import UserError
from tests import ranks as processes
from tests.csd_core.io.clips import clip, pictures
from tests.programs import wait_for
from tests.ranks import EDITS, ended, start

SAME = 1e-5
"""Batches of another size give other roundings."""
WHOLE = ["edited.png", "edited.png.json"]


def told(world_size: int, name: str, folder: Path) -> list[dict[str, Any]]:
    """What each rank came to."""
    for code, _, err in ended(start(world_size, ["-m", "tests.ranks", name, folder])):
        assert code == 0, err
        assert err == ""
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world_size)]


# One process.


def test_alone_there_is_nothing_to_share() -> None:
    x = torch.arange(3.0)
    assert torch.equal(ALONE.split_and_gather(lambda rows: rows + 1, x), x + 1)
    assert ALONE.is_main
    assert ALONE.any(True)
    assert not ALONE.any(False)
    assert ALONE.total(7) == 7
    assert ALONE.broadcast(lambda: "made", lambda _: "sent") == "made"
    assert ALONE.device("cuda:1") == "cuda:1"
    assert Ranks.joined() is ALONE


def test_without_torchrun_or_with_one_process_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for world_size in ("", "1"):
        if world_size:
            monkeypatch.setenv("WORLD_SIZE", world_size)
        with launched() as ranks:
            assert ranks is current() is ALONE


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: expected a number, as torchrun sets it, got two"),
        ({"WORLD_SIZE": "2"}, "RANK: expected a number, as torchrun sets it, got nothing"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR: expected where rank 0 listens"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1", TIMEOUT: "soon"},
            f"{TIMEOUT}: expected 1 second or more, got soon",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", TIMEOUT: "1"},
            "rank 1 of 2: the ranks did not come together",
        ),
    ],
)
def test_a_wrong_environment_is_named(
    given: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said) as raised, launched():
        pass
    assert "\n" not in str(raised.value)


def test_each_rank_of_a_machine_takes_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    third = Ranks(5, 8, 3, "a group")
    for count, expected in ((4, "cuda:3"), (1, "cuda:0"), (8, "cuda:3")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert third.device(None) == third.device("cuda") == expected
    assert taken == [3, 3, 0, 0, 3, 3]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="nproc-per-node: expected at most 2, the CUDA devices here"):
        third.device(None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert third.device(None) is None
    assert third.device("cuda") == "cuda"  # which resolve_device refuses


def test_a_program_that_a_rank_starts_is_alone() -> None:
    launch = {"RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a", "TORCHELASTIC_RUN_ID": "x"}
    kept = {"PATH": "p", "NAME": "n", "MASTER": "m", "CUDA_VISIBLE_DEVICES": "0"}
    assert without_launch({**launch, **kept}) == kept


# Several.


@pytest.mark.parametrize("world_size", [2, 3])
def test_several_come_to_the_result_of_one(world_size: int, tmp_path: Path) -> None:
    all_told = told(world_size, "work", tmp_path)
    alone = processes.work(ALONE)
    for mine in all_told:
        for name in EDITS:
            torch.testing.assert_close(mine["edits"][name], alone["edits"][name], rtol=0, atol=SAME)
            assert mine["evaluations"][name] == alone["evaluations"][name]
        for rows, expected in alone["shared"].items():
            assert torch.equal(mine["shared"][rows], expected)
        assert mine["seen"] == [0, 1]  # it was the last rank that wanted to stop
        assert mine["devices"] == ["cpu", None]
        torch.testing.assert_close(mine["joined"]["edit"], alone["edits"]["batches"], rtol=0, atol=SAME)
    every = [mine["mine"][name] for mine in all_told for name in EDITS if "fewer" not in name]
    assert min(every) >= max(every) / 3  # none is idle
    for rows, *sizes in zip((1, 2, 3, 5, 6, 7), *(_padded(mine["sizes"]) for mine in all_told), strict=True):
        assert sum(sizes) == rows
        assert max(sizes) - min(sizes) <= 1
    assert [mine["from main"] for mine in all_told] == ["of 0", *["of 0, sent"] * (world_size - 1)]
    assert [mine["first"] for mine in all_told] == list(range(world_size))
    assert all(mine["drifted"].tolist() == [1.0, 2.0] for mine in all_told)
    assert [mine["joined"]["ranks"] for mine in all_told] == [[r, world_size] for r in range(world_size)]
    if world_size == 2:
        check_errors(*(mine["errors"] for mine in all_told))


def _padded(sizes: list[int]) -> list[int]:
    """A rank without a row is not asked."""
    return [0] * (6 - len(sizes)) + sizes


def check_errors(first: list[str], second: list[str]) -> None:
    """An error of one of two ranks is heard by both."""
    common = [
        "UserError: one of a rank",
        "UserError: one of rank 0",
        "OSError: [Errno 28] full",
        "UserError: device: expected cuda or none, each process takes its own, got cuda:1",
    ]
    assert [line for line in first if "lack" not in line] == common
    assert [line for line in second if "lack" not in line] == common
    assert first[1] == "RuntimeError: LocalError: of a class that others lack"
    assert second[1] == "LocalError: of a class that others lack"


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGTERM])
def test_a_rank_that_dies_or_hangs_ends_the_others(how: signal.Signals, tmp_path: Path) -> None:
    wait = 3.0
    first, second = both = start(2, ["-m", "tests.ranks", "lost", tmp_path], **{TIMEOUT: str(wait)})
    assert second.stderr is not None
    assert second.stderr.readline() == "ready\n"
    begun = time.monotonic()
    second.send_signal(how)
    _, err = first.communicate(timeout=processes.SECONDS)
    assert time.monotonic() - begun < wait + 3
    second.kill()
    (_, (code, _, other)) = ended(both)
    assert first.returncode == 2
    (line,) = err.splitlines()
    assert line.startswith("error: rank 0 of 2: another rank has ended, or has not answered for 3 s")
    if how == signal.SIGTERM:
        assert code == 130
        assert other == "error: rank 1 of 2: ended by SIGTERM, as when another has failed; see --resume\n"


# Commands.


class Edits:
    """A folder with an image, a clip and the tiny model; commands on it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        noise = np.random.default_rng(0).integers(0, 256, (45, 61, 3), np.uint8)
        self.image = folder / "in.png"
        assert cv2.imwrite(str(self.image), cv2.blur(noise, (3, 3)))
        clip(folder / "clip.mp4", pictures()[:3])
        self.common = ["--model", str(model), "--device", "cpu", "--prompt", "make it red"]

    def panorama(self, output: str, *more: object) -> list[str]:
        image = ["--image", self.image, "--stride", 4, "--output", self.folder / output / "edited.png"]
        return [*self.common, *map(str, (*image, *more))]

    def video(self, output: str, *more: object) -> list[str]:
        video = ["--video", self.folder / "clip.mp4", "--output", self.folder / output / "edited"]
        return [*self.common, *map(str, (*video, *more))]

    def beside(self, output: str) -> list[str]:
        return sorted(path.name for path in (self.folder / output).iterdir())

    def manifest(self, output: str) -> dict[str, Any]:
        (path,) = (self.folder / output).glob("*.json")
        return json.loads(path.read_text())


@pytest.fixture
def edits(tmp_path: Path, tiny_epsilon: Path) -> Edits:
    return Edits(tmp_path, tiny_epsilon)


def same(one: Path, other: Path) -> None:
    """Two pictures, but for the rounding to 8 bits of what differs by 1e-5."""
    a, b = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(int) for path in (one, other))
    assert abs(a - b).max() <= 1
    assert (a != b).mean() < 0.01


def test_a_panorama_under_torchrun_is_that_of_one_process(edits: Edits) -> None:
    steps = ("--num-steps", 3, "--preview-every", 2)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*run, "-m", "csd_core.cli.panorama", *edits.panorama("two", *steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert run_command(PanoramaOptions, edit_panorama, edits.panorama("one", *steps)) == 0
    assert edits.beside("two") == edits.beside("one") == WHOLE
    same(edits.folder / "one" / "edited.png", edits.folder / "two" / "edited.png")
    one, two = (edits.manifest(name) for name in ("one", "two"))
    assert (one["ranks"], two["ranks"]) == (1, 2)
    assert one["evaluations"] == two["evaluations"]
    assert done.stdout.count("\n") == 1
    assert "edited.png: " in done.stdout
    assert done.stderr.count("0/3") == 1


def test_a_video_is_that_of_one_process(edits: Edits) -> None:
    steps = ("--num-steps", 2, "--method", "sds", "--frames", "0:3")
    both = start(2, ["-m", "csd_core.cli.video", *edits.video("two", *steps)])
    first, second = ended(both)
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert second[1:] == ("", "")
    assert run_command(VideoOptions, edit_video, edits.video("one", *steps)) == 0
    assert edits.beside("two") == edits.beside("one") == ["edited", "edited.json"]
    for k in range(3):
        name = Path("edited") / sorted(os.listdir(edits.folder / "one" / "edited"))[k]
        same(edits.folder / "one" / name, edits.folder / "two" / name)
    assert edits.manifest("two")["evaluations"] == edits.manifest("one")["evaluations"] == 2 * 3 * 3


CHECKPOINTS = """
import sys
from csd_core.cli import panorama, watch
watch.SAVE_SECONDS = 0.0
sys.exit(panorama.main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_ranks_that_were_ended_go_on(how: signal.Signals, edits: Edits) -> None:
    steps = ("--num-steps", 25)
    kept = edits.folder / "two" / "edited.png.unfinished.safetensors"
    first, second = both = start(2, ["-c", CHECKPOINTS, *edits.panorama("two", *steps)])
    wait_for(kept.is_file, first)
    second.send_signal(how)
    (code, out, err), (other, *silent) = ended(both)
    assert out == ""
    assert not (edits.folder / "two" / "edited.png").exists()
    line = err.strip().splitlines()[-1]
    if how == signal.SIGKILL:
        assert (code, other) == (2, -how)
        assert line.startswith("error: rank 0 of 2: another rank has ended")
        assert edits.beside("two") == [kept.name]
    else:
        assert (code, other) == (130, 130)
        assert line.startswith("stopped after step ")
        (partly,) = (edits.folder / "two").glob("edited.step-*.png")
        partly.unlink()
        assert edits.beside("two") == [kept.name]
        assert silent == ["", ""]
        return
    again = ended(start(2, ["-m", "csd_core.cli.panorama", *edits.panorama("two", "--resume", *steps)]))
    assert [code for code, *_ in again] == [0, 0], again
    assert "continuing after step" in again[0][2]
    assert again[1][1:] == ("", "")
    assert run_command(PanoramaOptions, edit_panorama, edits.panorama("one", *steps)) == 0
    same(edits.folder / "one" / "edited.png", edits.folder / "two" / "edited.png")
    assert edits.beside("two") == WHOLE


OF_ONE_PROCESS = """
import sys
from csd_core.command import run_command
from csd_core.engine.config import EditConfig
sys.exit(run_command(EditConfig, print, []))
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--num-steps", 0], "error: num_steps: expected at least 1, got 0"),
        (["--method", "ip2p-patch"], "error: WORLD_SIZE: expected one process for ip2p-patch"),
        (["--nonsense"], "Unrecognized options: --nonsense"),
        (None, "error: WORLD_SIZE: expected one process for this command"),
    ],
)
def test_bad_input_ends_all_and_one_says_why(words: list[object] | None, said: str, edits: Edits) -> None:
    if words is None:
        command = ["-c", OF_ONE_PROCESS]
    else:
        command = ["-m", "csd_core.cli.panorama", *edits.panorama("out", *words)]
    (code, out, err), (other, *silent) = ended(start(2, command))
    assert (code, other) == (2, 2)
    assert out == ""
    assert said in err
    assert err.startswith("error: ") is said.startswith("error: ")
    assert err.count("\n") == 1 or not err.startswith("error: ")
    assert silent == ["", ""]
    assert not (edits.folder / "out").exists()


def test_the_ranks_of_an_experiment_share_its_cells(tiny_epsilon: Path, tmp_path: Path) -> None:
    small = ["--model", tiny_epsilon, "--size", 32, "--num-frames", 2, "--num-steps", 1, "--device", "cpu"]
    words = ["--prompts", "Van Gogh", "--methods", "csd", "sds", "--seeds", 0, 1, "--no-measure"]
    command = ["csd_nerf.commands.experiment", "video-ablation", "--output", tmp_path, *small, *words]
    (code, _, err), (other, out, silent) = ended(start(2, ["-m", *command]))
    assert (code, other) == (0, 0), err + silent
    assert (out, silent) == ("", "")
    cells = [json.loads(path.read_text()) for path in (tmp_path / "cells").glob("*/cell.json")]
    assert len(cells) == 4
    assert 1 <= err.count("done: ") <= 3, err  # rank 0 did some, the other the rest


def test_the_timeout_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert distributed.timeout().total_seconds() == distributed.TIMEOUT_SECONDS
    monkeypatch.setenv(TIMEOUT, "2.5")
    assert distributed.timeout().total_seconds() == 2.5
