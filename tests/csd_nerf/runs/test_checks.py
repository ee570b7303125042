"""Bad input, section by section: one clear line before anything begins."""

import json
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
    """A capture of one's own, to be damaged."""
    return Path(shutil.copytree(capture, tmp_path / "scene"))


@pytest.fixture
def refuse(tmp_path: Path, data: Path, tiny_epsilon: Path) -> Callable[..., str]:
    """Check the arguments that are given instead of good ones; returns the message."""

    def check(*more: str, prompt: str = "snow") -> str:
        config = parse(arguments(data, tmp_path / "out", tiny_epsilon, *more, prompt=prompt))
        with pytest.raises(UserError) as caught:
            prepare(config)
        assert not (tmp_path / "out").exists(), "something was begun"
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return check


def image(data: Path) -> Path:
    return data / "images" / "005.png"


def test_good_input_passes_and_leaves_nothing(tmp_path: Path, data: Path, tiny_epsilon: Path) -> None:
    prepare(parse(arguments(data, tmp_path / "out", tiny_epsilon)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("prompt", ["", "  "])
def test_no_prompt(refuse: Callable[..., str], prompt: str) -> None:
    message = refuse(prompt=prompt)
    assert message.startswith("no prompt")
    assert "--pipeline.datamanager.prompt" in message


def test_nerfstudios_prompt_flag_means_the_instruction(
    tmp_path: Path, data: Path, tiny_epsilon: Path, refuse: Callable[..., str]
) -> None:
    config = parse(arguments(data, tmp_path / "out", tiny_epsilon, "--prompt", "night", prompt=""))
    prepare(config)
    assert config.pipeline.datamanager.prompt == "night"
    assert refuse("--prompt", "night", prompt="snow").startswith("two prompts")


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("--pipeline.datamanager.edit-interval", "0", "edit_interval"),
        ("--pipeline.datamanager.edit.batch-size", "0", "batch_size"),
        ("--pipeline.datamanager.edit.num-steps", "0", "num_steps"),
        ("--pipeline.datamanager.edit-size", "2", "edit_size"),
        ("--pipeline.datamanager.train-num-images-to-sample-from", "3", "train_num_images_to_sample_from"),
        ("--pipeline.datamanager.train-num-rays-per-batch", "3", "train_num_rays_per_batch"),
        ("--base-steps", "-1", "base_steps"),
        ("--max-num-iterations", "2", "max_num_iterations"),
        ("--machine.num-devices", "0", "num_devices"),
        ("--machine.num-machines", "2", "num_machines"),
    ],
)
def test_numbers_out_of_range(refuse: Callable[..., str], setting: str, value: str, named: str) -> None:
    assert named in refuse(setting, value)


def test_several_devices_each_hold_an_editor(refuse: Callable[..., str]) -> None:
    several = ("--machine.num-devices", "2", "--pipeline.datamanager.model-device")
    assert refuse(*several, "cpu:0").startswith("model_device: expected auto with 2 devices")


def test_reversed_range_of_timesteps(tmp_path: Path, data: Path, tiny_epsilon: Path) -> None:
    config = parse(arguments(data, tmp_path / "out", tiny_epsilon))
    config.pipeline.datamanager.edit.t_range = (0.5, 0.2)
    with pytest.raises(UserError, match="t_range"):
        prepare(config)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("nobody/no-such-model", "mini"),
        ("/no/such/folder", "no such folder"),
    ],
)
def test_unknown_model(refuse: Callable[..., str], model: str, expected: str) -> None:
    assert expected in refuse("--pipeline.datamanager.model", model)


def test_folder_that_is_no_editor(refuse: Callable[..., str], data: Path) -> None:
    assert "expected" in refuse("--pipeline.datamanager.model", str(data))


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that is absent")
def test_cuda_asked_for_and_absent(refuse: Callable[..., str]) -> None:
    assert "no CUDA device" in refuse("--machine.device-type", "cuda")
    assert "no CUDA device" in refuse("--pipeline.datamanager.model-device", "cuda:0")


def test_output_folder_not_writable(refuse: Callable[..., str], data: Path) -> None:
    assert "cannot be written" in refuse("--output-dir", str(data / "transforms.json" / "out"))
    assert "cannot be written" in refuse("--output-dir", "/proc/out")


def test_no_transforms(refuse: Callable[..., str], data: Path) -> None:
    (data / "transforms.json").unlink()
    assert "no transforms.json" in refuse()
    assert "no transforms.json" in refuse("--data", str(data / "elsewhere"))


@pytest.mark.parametrize("content", ["not json", "{}", '{"frames": []}', '{"frames": [{}]}'])
def test_damaged_transforms(refuse: Callable[..., str], data: Path, content: str) -> None:
    (data / "transforms.json").write_text(content)
    assert "transforms.json" in refuse()


def test_frame_without_a_pose(refuse: Callable[..., str], data: Path) -> None:
    transforms = json.loads((data / "transforms.json").read_text())
    del transforms["frames"][3]["transform_matrix"]
    (data / "transforms.json").write_text(json.dumps(transforms))
    assert "cannot be read" in refuse()


def test_missing_image(refuse: Callable[..., str], data: Path) -> None:
    image(data).unlink()
    assert "005.png: no such image" in refuse()


def test_empty_image(refuse: Callable[..., str], data: Path) -> None:
    image(data).write_bytes(b"")
    assert "005.png: an empty file" in refuse()


@pytest.mark.parametrize("name", ["000.png", "005.png"])
def test_truncated_image(refuse: Callable[..., str], data: Path, name: str) -> None:
    path = data / "images" / name
    path.write_bytes(path.read_bytes()[:60])
    assert f"{name}: a damaged image" in refuse()


def test_image_of_another_size_than_its_camera(
    refuse: Callable[..., str], data: Path, tmp_path: Path
) -> None:
    other = write_capture(tmp_path / "wide", [(48, 32)])
    shutil.copy(other / "images" / "000.png", image(data))
    assert "48 x 32 pixels" in refuse()


def test_fewer_views_than_the_batch_is_said(
    tmp_path: Path, data: Path, tiny_epsilon: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(data, tmp_path / "out", tiny_epsilon, "--pipeline.datamanager.edit.batch-size", "16")
    prepare(parse(words))
    assert "10 training views, fewer than the batch of 16" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["missing", "empty", "damaged", "foreign"])
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
