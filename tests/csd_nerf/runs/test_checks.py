"""Bad input is one line before anything is written."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from csd_core.errors import UserError
from csd_nerf.runs.checks import prepare
from tests.csd_nerf.conftest import arguments, parse, write_capture


@pytest.fixture
def data(capture: Path, tmp_path: Path) -> Path:
    """A copy of the capture, to be damaged."""
    return Path(shutil.copytree(capture, tmp_path / "scene"))


@pytest.fixture
def refuse(tmp_path: Path, data: Path, tiny_epsilon: Path) -> Callable[..., str]:
    """Check the arguments that are given instead of good ones; returns the message."""

    def check(*more: str, prompt: str = "snow") -> str:
        config = parse(arguments(data, tmp_path / "out", tiny_epsilon, *more, prompt=prompt))
        with pytest.raises(UserError) as caught:
            prepare(config)
        assert not (tmp_path / "out").exists(), "something was written"
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return check


def test_good_input_passes_and_leaves_nothing(
    tmp_path: Path, data: Path, tiny_epsilon: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(data, tmp_path / "out", tiny_epsilon, "--pipeline.datamanager.edit.batch-size", "16")
    prepare(parse(words))
    assert not (tmp_path / "out").exists()
    assert "note: the capture has 10 training views, fewer than the batch of 16" in capsys.readouterr().out


def test_nerfstudios_prompt_option_is_the_instruction(
    tmp_path: Path, data: Path, tiny_epsilon: Path, refuse: Callable[..., str]
) -> None:
    config = parse(arguments(data, tmp_path / "out", tiny_epsilon, "--prompt", "night", prompt=""))
    prepare(config)
    assert config.pipeline.datamanager.prompt == "night"
    assert refuse("--prompt", "night", prompt="snow").startswith("two prompts")
    assert refuse(prompt="\udc80").startswith("prompt: expected text in UTF-8")
    assert refuse(prompt="  ").startswith("no prompt: describe the edit with --pipeline.datamanager.prompt")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("pipeline.datamanager.edit-interval", "0"),
        ("pipeline.datamanager.edit.batch-size", "0"),
        ("pipeline.datamanager.edit-size", "2"),
        ("pipeline.datamanager.train-num-images-to-sample-from", "3"),
        ("pipeline.datamanager.train-num-rays-per-batch", "3"),
        ("pipeline.datamanager.sampling-steps", "0"),
        ("base-steps", "-1"),
        ("max-num-iterations", "2"),
        ("machine.num-devices", "0"),
    ],
)
def test_numbers_out_of_range(refuse: Callable[..., str], setting: str, value: str) -> None:
    assert setting.rsplit(".", 1)[-1].replace("-", "_") in refuse(f"--{setting}", value)


def test_unknown_model(refuse: Callable[..., str], data: Path) -> None:
    for model, expected in (
        ("nobody/no-such-model", "mini"),
        ("/no/such/folder", "no such folder"),
        (str(data), "expected"),
    ):
        assert expected in refuse("--pipeline.datamanager.model", model)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that is absent")
def test_cuda_asked_for_and_absent(refuse: Callable[..., str]) -> None:
    assert "expected a CUDA device, found none" in refuse("--machine.device-type", "cuda")
    assert "no CUDA device" in refuse("--pipeline.datamanager.model-device", "cuda:0")


def test_output_folder_not_writable(refuse: Callable[..., str], data: Path) -> None:
    assert "expected a folder at" in refuse("--output-dir", str(data / "transforms.json" / "out"))
    assert "choose another output" in refuse("--output-dir", "/proc/out")
    assert "choose a shorter, plain one" in refuse("--experiment-name", "x" * 300)


@pytest.mark.parametrize("content", [None, "not json", "{}", '{"frames": []}', '{"frames": [{}]}'])
def test_missing_or_damaged_transforms(refuse: Callable[..., str], data: Path, content: str | None) -> None:
    path = data / "transforms.json"
    path.unlink() if content is None else path.write_text(content)
    assert "transforms.json" in refuse()


@pytest.mark.parametrize("name", ["000.png", "005.png"])
def test_missing_empty_or_truncated_image(refuse: Callable[..., str], data: Path, name: str) -> None:
    path = data / "images" / name
    whole = path.read_bytes()
    for content in (whole[:60], b""):
        path.write_bytes(content)
        assert f"{name}: expected a" in refuse()
    path.unlink()
    assert f"{name}: expected a file, got none (images holds 0" in refuse()


def test_image_of_another_size_than_its_camera(
    refuse: Callable[..., str], data: Path, tmp_path: Path
) -> None:
    other = write_capture(tmp_path / "wide", [(48, 32)])
    shutil.copy(other / "images" / "000.png", data / "images" / "005.png")
    assert "expected 32x32 pixels as its camera has, got 48x32" in refuse()


@pytest.mark.parametrize("what", ["missing", "damaged", "foreign"])
def test_checkpoint_that_is_none(refuse: Callable[..., str], tmp_path: Path, what: str) -> None:
    folder = tmp_path / "nerfstudio_models"
    content: dict[str, Any] = {"weights": torch.zeros(3)}
    if what != "missing":
        folder.mkdir()
    if what == "damaged":
        (folder / "step-000000001.ckpt").write_bytes(b"PK damaged")
    elif what == "foreign":
        torch.save(content, folder / "step-000000001.ckpt")
    assert str(folder) in refuse("--load-dir", str(folder))
