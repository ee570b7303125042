import io
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from csd_core.errors import UserError
from csd_nerf.nerfstudio_compat.safe_globals import allow_numpy_scalars
from csd_nerf.runs.checkpoint import (
    find_checkpoint,
    keep_copy,
    random_state,
    read_checkpoint,
    set_random_state,
    write_checkpoint,
)

CONTENT = {"step": 3, "pipeline": {"w": torch.arange(4.0)}, "schedulers": {"lr": [np.float64(0.01)]}}


def draw() -> tuple[float, float, float]:
    return torch.rand(()).item(), float(np.random.rand()), random.random()


def test_every_generator_continues_from_its_state() -> None:
    buffer = io.BytesIO()
    torch.save(random_state(), buffer)
    expected = [draw() for _ in range(3)]
    buffer.seek(0)
    set_random_state(torch.load(buffer, weights_only=True))
    assert [draw() for _ in range(3)] == expected


@pytest.mark.parametrize("core", ["core", "_core"])
def test_numpy_scalars_load_under_either_name(tmp_path: Path, core: str) -> None:
    allow_numpy_scalars()
    path = tmp_path / "a.ckpt"
    torch.save({"lr": np.float64(0.5), "n": np.int64(3)}, path, _use_new_zipfile_serialization=False)
    mine = np.float64(0).__reduce__()[0].__module__.encode()  # type: ignore[union-attr]
    path.write_bytes(path.read_bytes().replace(mine, f"numpy.{core}.multiarray".encode()))
    assert torch.load(path, weights_only=True) == {"lr": 0.5, "n": 3}


def test_other_objects_are_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return print, ("executed",)

    torch.save({"pipeline": Evil(), "step": 0}, tmp_path / "a.ckpt", pickle_module=pickle)
    with pytest.raises(UserError, match="not a readable checkpoint"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    "change",
    [
        {"pipeline": None},
        {"pipeline": {3: torch.zeros(1)}},
        {"pipeline": {"w": None}},
        {"step": -1},
        {"step": "3"},
        {"csd": {}},
        {"csd": "x"},
        {"csd": {"base_steps": torch.zeros(3), "edit": {"configured": {"prompt": "snow"}}}},
        {"csd": {"base_steps": 3, "edit": {"configured": {"prompt": None}}}},
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    torch.save({**CONTENT, **change}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="expected a nerfstudio checkpoint"):
        read_checkpoint(tmp_path / "a.ckpt")


def test_half_of_the_appearance_of_an_older_run_is_no_reason_to_stop(tmp_path: Path) -> None:
    key = "_model.field.embedding_appearance.shown"
    torch.save({"pipeline": {key: torch.rand(4)}, "step": 0}, tmp_path / "a.ckpt")
    assert read_checkpoint(tmp_path / "a.ckpt")["pipeline"] == {}


def test_the_appearance_of_renders_of_an_older_run_is_read(tmp_path: Path) -> None:
    name, own, shown = "_model.field.embedding_appearance.", torch.rand(3, 4), torch.rand(4)
    old = {f"{name}shown": shown, f"{name}edited": torch.tensor([False, True, False])}
    torch.save({"pipeline": {f"{name}embedding.weight": own, **old}, "step": 0}, tmp_path / "a.ckpt")
    weights = read_checkpoint(tmp_path / "a.ckpt")["pipeline"]
    assert weights.keys() == {f"{name}embedding.weight"}
    assert torch.equal(weights[f"{name}embedding.weight"], shown.expand(3, 4))


def test_a_write_that_breaks_off_leaves_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run" / "nerfstudio_models"
    write_checkpoint(CONTENT, folder / "step-000000003.ckpt", only_latest=True)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(CONTENT, folder / "step-000000004.ckpt", only_latest=True)
    assert [path.name for path in folder.iterdir()] == ["step-000000003.ckpt"]


def test_a_checkpoint_replaces_older_ones_where_asked_and_not_its_copy(tmp_path: Path) -> None:
    folder, kept = tmp_path / "run" / "nerfstudio_models", tmp_path / "run" / "base_model"
    for step, only_latest, left in ((3, False, [3]), (4, False, [3, 4]), (5, True, [5])):
        path = folder / f"step-{step:09d}.ckpt"
        write_checkpoint({**CONTENT, "step": step}, path, only_latest=only_latest)
        assert sorted(path.name for path in folder.iterdir()) == [f"step-{k:09d}.ckpt" for k in left]
        if step == 3:
            keep_copy(path, kept)
    loaded = read_checkpoint(kept / "step-000000003.ckpt")
    assert (loaded["step"], loaded["schedulers"]) == (3, CONTENT["schedulers"])
    assert torch.equal(loaded["pipeline"]["w"], CONTENT["pipeline"]["w"])
    assert sorted(entry.name for entry in (tmp_path / "run").iterdir()) == ["base_model", "nerfstudio_models"]


def test_find_takes_the_latest_or_the_one_that_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "nerfstudio_models"
    folder.mkdir()
    for step in (5, 20, 100):
        (folder / f"step-{step:09d}.ckpt").touch()
    (folder / "step-last.ckpt").touch()
    assert find_checkpoint(folder, None, None) == folder / "step-000000100.ckpt"
    assert find_checkpoint(tmp_path, None, None) == folder / "step-000000100.ckpt"
    assert find_checkpoint(folder, 20, None) == folder / "step-000000020.ckpt"
    assert find_checkpoint(None, None, folder / "step-000000005.ckpt") == folder / "step-000000005.ckpt"
    assert find_checkpoint(None, None, None) is None
    with pytest.raises(UserError, match="step-000000021"):
        find_checkpoint(folder, 21, None)
    with pytest.raises(UserError, match="no such file"):
        find_checkpoint(None, None, tmp_path / "nothing.ckpt")
