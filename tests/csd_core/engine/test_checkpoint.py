import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from csd_core.engine.checkpoint import Checkpoint
from csd_core.errors import UserError

SETTINGS: dict[str, Any] = {"prompt": "make it red", "t_range": (0.2, 0.5), "mask": None, "seed": 3}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.png.unfinished.safetensors"


def canvas() -> torch.Tensor:
    return torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(0))


def test_what_is_kept_comes_back_bit_by_bit(path: Path) -> None:
    Checkpoint(path, SETTINGS).save(7, canvas())
    found = Checkpoint(path, SETTINGS).load()
    assert found is not None
    assert found[0] == 7
    assert torch.equal(found[1], canvas())
    assert found[1].dtype == torch.float32


def test_a_part_of_a_larger_tensor_can_be_kept(path: Path) -> None:
    Checkpoint(path, SETTINGS).save(1, canvas().transpose(2, 3)[..., 1:])
    part = canvas().transpose(2, 3)[..., 1:]
    found = Checkpoint(path, SETTINGS).load()
    assert found is not None
    assert torch.equal(found[1], part)


def test_the_newest_counts_and_nothing_else_is_left(path: Path) -> None:
    checkpoint = Checkpoint(path, SETTINGS)
    checkpoint.save(1, canvas())
    checkpoint.save(2, canvas() + 1)
    found = checkpoint.load()
    assert found is not None
    assert found[0] == 2
    assert torch.equal(found[1], canvas() + 1)
    assert list(path.parent.iterdir()) == [path]


def test_where_there_is_none_there_is_none(path: Path) -> None:
    checkpoint = Checkpoint(path, SETTINGS)
    assert checkpoint.load() is None
    checkpoint.remove()
    checkpoint.save(1, canvas())
    checkpoint.remove()
    assert checkpoint.load() is None


def test_a_failed_save_keeps_the_one_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(_tensors: Any, file: Path, _metadata: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("no space left")

    checkpoint = Checkpoint(path, SETTINGS)
    checkpoint.save(1, canvas())
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", cut_off)
        with pytest.raises(OSError, match="no space"):
            checkpoint.save(2, canvas())
    found = checkpoint.load()
    assert found is not None
    assert found[0] == 1
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changed", "name", "before", "now"),
    [
        ({"prompt": "make it blue"}, "prompt", "'make it red'", "'make it blue'"),
        ({"t_range": (0.2, 0.6)}, "t_range", "[0.2, 0.5]", "[0.2, 0.6]"),
        ({"mask": "m.png"}, "mask", "None", "'m.png'"),
        ({"seed": 4}, "seed", "3", "4"),
        ({"wrap": True}, "wrap", "None", "True"),
    ],
)
def test_another_setting_is_named(
    path: Path, changed: dict[str, Any], name: str, before: str, now: str
) -> None:
    Checkpoint(path, SETTINGS).save(1, canvas())
    with pytest.raises(UserError) as raised:
        Checkpoint(path, {**SETTINGS, **changed}).load()
    said = str(raised.value)
    assert f"started with {name} {before}, not {now}" in said
    assert "--resume" in said
    assert "\n" not in said


def test_a_setting_that_is_gone_is_named(path: Path) -> None:
    Checkpoint(path, SETTINGS).save(1, canvas())
    with pytest.raises(UserError, match="started with seed 3, not None"):
        Checkpoint(path, {name: value for name, value in SETTINGS.items() if name != "seed"}).load()


def good() -> dict[str, str]:
    return {"settings": json.dumps(SETTINGS), "steps_done": "1"}


@pytest.mark.parametrize(
    "damage",
    ["empty", "text", "cut", "head", "no step", "no canvas", "nonsense", "[1]", "null", "[" * 9999],
)
def test_a_damaged_one_is_one_line(path: Path, damage: str) -> None:
    Checkpoint(path, SETTINGS).save(1, canvas())
    whole = path.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("this is not a checkpoint")
    elif damage == "cut":
        path.write_bytes(whole[:-40])
    elif damage == "head":
        path.write_bytes(whole[:20])
    elif damage == "no step":
        save_file({"canvas": canvas()}, path, {"settings": good()["settings"]})
    elif damage == "no canvas":
        save_file({"latents": canvas()}, path, good())
    else:
        save_file({"canvas": canvas()}, path, {**good(), "settings": damage})
    with pytest.raises(UserError, match=r"resume: .* is damaged \(.*\); delete it to start again") as raised:
        Checkpoint(path, SETTINGS).load()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("steps_done", "latents"),
    [
        ("-1", canvas()),
        ("4", canvas()),
        ("1", canvas().half()),
        ("1", canvas().int()),
        ("1", canvas().masked_fill(canvas() > 2, torch.nan)),
    ],
)
def test_steps_and_latents_that_no_edit_writes_are_damage(
    path: Path, steps_done: str, latents: torch.Tensor
) -> None:
    settings = {**SETTINGS, "num_steps": 3}
    save_file({"canvas": latents}, path, {"settings": json.dumps(settings), "steps_done": steps_done})
    with pytest.raises(UserError, match="is damaged"):
        Checkpoint(path, settings).load()


def test_latents_of_another_shape_are_damage(path: Path) -> None:
    checkpoint = Checkpoint(path, SETTINGS)
    checkpoint.check_shape(canvas(), (1, 4, 5, 6))
    for other in (canvas()[0], canvas()[..., 1:]):
        with pytest.raises(UserError, match=r"latents of shape .*, not \(1, 4, 5, 6\)\); delete it"):
            checkpoint.check_shape(other, (1, 4, 5, 6))


def test_a_file_of_another_program_is_damaged(path: Path) -> None:
    save_file({"canvas": canvas()}, path)
    with pytest.raises(UserError, match="is damaged"):
        Checkpoint(path, SETTINGS).load()
