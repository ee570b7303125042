"""Damaged model folders: one line that names the file, before or while it is read; nothing else changes."""

import json
import shutil
from collections.abc import Callable
from logging import ERROR
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from csd_core.denoisers.families import MINI_FOLDER, locate
from csd_core.denoisers.runtime.loading import building
from csd_core.errors import UserError
from tests.models import load

Damage = Callable[[Path], object]
"""What is done to a model folder."""


@pytest.fixture
def copy(tiny_epsilon: Path, tmp_path: Path) -> Path:
    """A model folder to be damaged."""
    return Path(shutil.copytree(tiny_epsilon, tmp_path / "model"))


def refusal(folder: Path, read: Callable[[Path], object] = load) -> str:
    """The line that `read` ends with; torch's default dtype stays."""
    with pytest.raises(UserError) as raised:
        read(folder)
    assert "\n" not in str(raised.value)
    assert torch.get_default_dtype() == torch.float32
    return str(raised.value)


def located(folder: Path) -> None:
    """Only what is looked at before anything large is read."""
    locate(str(folder))


def setting(file: str, key: str, value: Any) -> Damage:
    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))

    return change


def tensors(file: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def write(folder: Path) -> None:
        kept = load_file(folder / file)
        change(kept)
        save_file(kept, folder / file, {"format": "pt"})

    return write


def without_vocabulary(folder: Path) -> None:
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).unlink(missing_ok=True)


def with_half_a_vocabulary(folder: Path) -> None:
    path = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    words: dict[str, int] = content["model"]["vocab"]
    kept = dict(list(words.items())[: len(words) // 2]) | {w: n for w, n in words.items() if "text|>" in w}
    content["model"] |= {"vocab": kept, "merges": []}
    path.write_text(json.dumps(content))


def with_words_of_nowhere(folder: Path) -> None:
    path = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    words: dict[str, int] = content["model"]["vocab"]
    renamed = {word if "text|>" in word else f"{n}": n for word, n in words.items()}
    content["model"] |= {"vocab": renamed, "merges": []}
    path.write_text(json.dumps(content))


# The tokenizer


@pytest.mark.parametrize("damage", [without_vocabulary, with_half_a_vocabulary, with_words_of_nowhere])
@pytest.mark.parametrize("shipped", [True, False])
def test_a_tokenizer_without_its_words_is_refused(copy: Path, damage: Damage, shipped: bool) -> None:
    if shipped:
        copy = Path(shutil.copytree(MINI_FOLDER, copy.with_name("mini")))
    damage(copy)
    assert "tokenizer: expected the " in refusal(copy, located)


def test_a_tokenizer_of_another_text_encoder_is_refused(copy: Path) -> None:
    shutil.copytree(MINI_FOLDER / "tokenizer", copy / "tokenizer", dirs_exist_ok=True)
    assert "tokens of the text encoder" in refusal(copy, located)


def test_a_tokenizer_without_a_limit_takes_that_of_the_text_encoder(copy: Path, tiny_epsilon: Path) -> None:
    setting("tokenizer/tokenizer_config.json", "model_max_length", None)(copy)
    limit = load(tiny_epsilon)._tokenizer.model_max_length
    assert load(copy)._tokenizer.model_max_length == limit


@pytest.mark.parametrize("value", ["x", -5, 0, 1.5, [7]])
def test_a_limit_that_is_none_is_refused(copy: Path, value: Any) -> None:
    setting("tokenizer/tokenizer_config.json", "model_max_length", value)(copy)
    assert "tokenizer" in refusal(copy, located)


# What our own code reads


CONFIGS = [
    "vae/config.json",
    "unet/config.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
]


@pytest.mark.parametrize("content", ["", "[]", "null", "3", '{"a"', "[" * 9999, "\ufeff{}"])
@pytest.mark.parametrize("file", ["model_index.json", "tokenizer/tokenizer_config.json", *CONFIGS])
def test_what_is_no_json_object_is_named(copy: Path, file: str, content: str) -> None:
    (copy / file).write_text(content)
    assert f"{file}" in refusal(copy, located)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "null", "3", "{", '{"a": []}', '{"a": "red"}', '{"a": [3]}', '{"a": [""]}']
)
def test_a_language_that_is_none_is_named(copy: Path, content: str) -> None:
    (copy / "language.json").write_text(content)
    assert "language.json: expected a JSON object" in refusal(copy)


@pytest.mark.parametrize("value", ["x", None, True, -1, 0, float("nan"), [4], 1e30])
@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("vae/config.json", "latent_channels"),
        ("vae/config.json", "scaling_factor"),
        ("unet/config.json", "in_channels"),
        ("unet/config.json", "sample_size"),
        ("scheduler/scheduler_config.json", "num_train_timesteps"),
        ("text_encoder/config.json", "vocab_size"),
        ("text_encoder/config.json", "max_position_embeddings"),
    ],
)
def test_a_number_that_is_none_is_named(copy: Path, file: str, key: str, value: Any) -> None:
    setting(file, key, value)(copy)
    assert f"{file}: expected {key} as a " in refusal(copy, located)


# What the libraries read


@pytest.mark.parametrize(
    ("file", "key", "values"),
    [
        ("scheduler/scheduler_config.json", "beta_start", ["x", None, -1, float("nan"), 1e30]),
        ("scheduler/scheduler_config.json", "beta_schedule", ["x", None, 0]),
        ("scheduler/scheduler_config.json", "trained_betas", ["x", 3, [4], [float("nan")], []]),
        ("scheduler/scheduler_config.json", "timestep_spacing", ["x", None]),
        ("scheduler/scheduler_config.json", "_class_name", ["x", None, [4]]),
        ("vae/config.json", "block_out_channels", ["x", None, -1, [], [4], [8, 8]]),
        ("unet/config.json", "cross_attention_dim", ["x", None, -1, [4], 8]),
        ("unet/config.json", "norm_num_groups", [-1, 0, float("nan"), "x"]),
        ("unet/config.json", "layers_per_block", [-1, 0, None]),
        ("text_encoder/config.json", "hidden_size", ["x", None, -1, 8]),
        ("text_encoder/config.json", "num_hidden_layers", [-1, 0, 1, "x"]),
        ("text_encoder/config.json", "num_attention_heads", [-1, 0]),
    ],
)
def test_whatever_the_libraries_raise_names_the_part(
    copy: Path, file: str, key: str, values: list[Any]
) -> None:
    whole = (copy / file).read_text()
    for value in values:
        (copy / file).write_text(whole)
        setting(file, key, value)(copy)
        said = refusal(copy, located if "scheduler" in file else load)
        assert "fetch the model again" in said
        assert file.split("/")[0] in said or "the model" in said


WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


@pytest.mark.parametrize("component", list(WEIGHTS))
def test_weights_of_another_shape_and_too_many_are_refused(copy: Path, component: str) -> None:
    file = WEIGHTS[component]
    whole = (copy / file).read_bytes()
    for change in (
        lambda kept: kept.update({name: kept[name][:-1].clone() for name in list(kept)[:1]}),
        lambda kept: kept.update({"more.weight": torch.zeros(3)}),
    ):
        tensors(file, change)(copy)
        assert component in refusal(copy)
        (copy / file).write_bytes(whole)


@pytest.mark.parametrize("component", list(WEIGHTS))
def test_weights_that_are_no_numbers_are_refused(copy: Path, component: str) -> None:
    tensors(WEIGHTS[component], lambda kept: [weight.fill_(torch.nan) for weight in kept.values()])(copy)
    assert "got NaN or infinity" in refusal(copy)


def test_names_of_older_weights_are_known(copy: Path) -> None:
    def rename(kept: dict[str, torch.Tensor]) -> None:
        for name in list(kept):
            old = name.replace(".to_q.", ".query.").replace(".to_k.", ".key.").replace(".to_v.", ".value.")
            kept[old.replace(".to_out.0.", ".proj_attn.")] = kept.pop(name)

    positions = {"text_model.embeddings.position_ids": torch.arange(12)[None]}
    tensors(WEIGHTS["vae"], rename)(copy)
    tensors(WEIGHTS["text_encoder"], lambda kept: kept.update(positions))(copy)
    load(copy)


def test_a_text_encoder_may_come_with_the_rest_of_clip(copy: Path) -> None:
    file = "text_encoder/model.safetensors"
    rest = ("logit_scale", "text_projection.weight", "vision_model.class_embedding")
    tensors(file, lambda kept: kept.update({name: torch.zeros(3) for name in rest}))(copy)
    load(copy)
    tensors(file, lambda kept: kept.update(more=torch.zeros(3)))(copy)
    assert "text_encoder do not fit its config, which lacks more" in refusal(copy)


def test_a_loop_of_links_is_a_missing_file(copy: Path) -> None:
    path = copy / "vae" / "config.json"
    path.unlink()
    path.symlink_to(path)
    assert "vae/config.json, found none" in refusal(copy, located)


def test_the_libraries_report_nothing_between_our_lines(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), building("unet", tmp_path):
        raise PermissionError("unet/config.json")  # a command prints it as it is
    before = logging.get_verbosity()
    with building("unet", tmp_path):
        assert logging.get_verbosity() == ERROR
        assert not logging.is_progress_bar_enabled()
    assert logging.get_verbosity() == before
    assert logging.is_progress_bar_enabled()


def test_the_default_dtype_outlives_a_load_that_failed(copy: Path) -> None:
    setting("unet/config.json", "norm_num_groups", 0)(copy)
    refusal(copy, lambda folder: load(folder, torch_dtype=torch.bfloat16))
