"""Folders of models whose configs, language, vocabulary or weights are damaged."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from csd_core.denoisers.families import load_denoiser
from csd_core.io.images import read_picture
from tests.fuzz.mutations import damaged, miswritten
from tests.fuzz.outcome import Fuzzed
from tests.fuzz.test_images import FILES, HEIGHT, WIDTH, edit

LANGUAGE = {"red": ["make it red", "turn it red"], "blue": ["make it blue"]}
CONFIGS = [
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
]
CONFIGS += [
    "model_index.json",
    "language.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/tokenizer.json",
]
WEIGHTS = ["unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"]
WEIGHTS += ["text_encoder/model.safetensors"]


def check(fuzzed: Fuzzed, model: Path, monkeypatch: pytest.MonkeyPatch, file: str, content: bytes) -> None:
    """An edit by a copy of the model in which one file is another."""
    monkeypatch.setattr("csd_core.cli.run.load_denoiser", load_denoiser)  # each is loaded
    with fuzzed.example() as folder:
        shutil.copytree(model, folder / "model")
        (folder / "model" / "language.json").write_text(json.dumps(LANGUAGE))
        (folder / "model" / file).write_bytes(content)
        (folder / "image.png").write_bytes(FILES["rgb.png"])
        done, output = edit(fuzzed, folder / "model", folder / "image.png", "--prompt", "make it red")
        assert torch.get_default_dtype() == torch.float32
        if done.code == 0:
            assert read_picture(output).size == (HEIGHT, WIDTH)


@given(data=st.data(), file=st.sampled_from(CONFIGS))
def test_a_config(
    fuzzed: Fuzzed, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch, file: str, data: st.DataObject
) -> None:
    whole = LANGUAGE if file == "language.json" else json.loads((tiny_epsilon / file).read_text())
    text = data.draw(miswritten(whole))
    check(fuzzed, tiny_epsilon, monkeypatch, file, text.encode("utf-8", "surrogatepass"))


@given(data=st.data(), file=st.sampled_from(WEIGHTS))
def test_weights(
    fuzzed: Fuzzed, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch, file: str, data: st.DataObject
) -> None:
    content = data.draw(damaged((tiny_epsilon / file).read_bytes()))
    check(fuzzed, tiny_epsilon, monkeypatch, file, content)
