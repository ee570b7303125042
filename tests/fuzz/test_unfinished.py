"""Unfinished edits that are damaged: continued, or one line and the file as it was."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save

from csd_core.cli.panorama import PanoramaOptions, edit_panorama
from csd_core.command import run_command
from csd_core.io.images import read_picture
from tests.csd_core.cli.commands import watched
from tests.fuzz.mutations import damaged, miswritten
from tests.fuzz.outcome import Fuzzed
from tests.fuzz.test_images import FILES, HEIGHT, WIDTH

NAME = "edited.png.unfinished.safetensors"
WORDS = ["--image", "image.png", "--output", "edited.png", "--prompt", "make it red", "--num-steps", "3"]


@pytest.fixture
def words(tiny_epsilon: Path) -> list[str]:
    """A command of three steps, with paths relative to the folder of the example."""
    return [*WORDS, "--model", str(tiny_epsilon), "--device", "cpu", "--stride", "4"]


@pytest.fixture
def unfinished(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What Ctrl-C after its first step leaves."""
    (tmp_path / "image.png").write_bytes(FILES["rgb.png"])
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        watched(patch, lambda watch: watch.steps_done == 1 and os.kill(os.getpid(), signal.SIGINT))
        assert run_command(PanoramaOptions, edit_panorama, words) == 130
    return tmp_path / NAME


@given(data=st.data(), what=st.sampled_from(["bytes", "settings", "steps", "canvas"]))
def test_an_unfinished_edit(
    fuzzed: Fuzzed,
    words: list[str],
    unfinished: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: st.DataObject,
    what: str,
) -> None:
    content = unfinished.read_bytes()
    with safe_open(unfinished, framework="pt") as file:
        metadata = dict(file.metadata())
    if what == "bytes":
        content = data.draw(damaged(content))
    elif what == "canvas":
        canvas = load(content)["canvas"]
        size = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
        dtype = data.draw(st.sampled_from([torch.float16, torch.float32, torch.int64, torch.bool]))
        content = save({"canvas": canvas.new_ones(size).to(dtype)}, metadata)
    else:
        name = {"settings": "settings", "steps": "steps_done"}[what]
        metadata[name] = data.draw(miswritten(json.loads(metadata[name]) if what == "settings" else [1]))
        metadata[name] = metadata[name].encode("utf-8", "replace").decode()
        content = save(load(content), metadata)
    with fuzzed.example() as folder:
        (folder / "image.png").write_bytes(FILES["rgb.png"])
        (folder / NAME).write_bytes(content)
        monkeypatch.chdir(folder)
        done = fuzzed.run(PanoramaOptions, edit_panorama, [*words, "--resume"], folder / "edited.png")
        if done.code == 0:
            assert read_picture(folder / "edited.png").size == (HEIGHT, WIDTH)
            assert not (folder / NAME).exists()
        else:
            assert (folder / NAME).read_bytes() == content
