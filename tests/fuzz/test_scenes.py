"""Captures and checkpoints that are damaged, as ns-train csd-nerf2nerf meets them: usable, or one line."""

import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from csd_nerf.runs.checkpoint import STATE, read_checkpoint
from tests.csd_nerf.conftest import arguments, parse, train, write_capture
from tests.fuzz.mutations import damaged, miswritten
from tests.fuzz.outcome import Fuzzed

NUM_VIEWS, SIDE = 6, 12


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture with masks. Do not write into it."""
    folder = write_capture(tmp_path_factory.mktemp("fuzz") / "scene", [(SIDE, SIDE)] * NUM_VIEWS)
    content = json.loads((folder / "transforms.json").read_text())
    (folder / "masks").mkdir()
    for index, frame in enumerate(content["frames"]):
        frame["mask_path"] = f"masks/{index:03d}.png"
        Image.fromarray(np.full((SIDE, SIDE), 255, np.uint8)).save(folder / frame["mask_path"])
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, tiny_epsilon: Path, scene: Path) -> Any:
    """What ns-train makes of its arguments."""
    return parse(arguments(scene, tmp_path_factory.mktemp("fuzz") / "out", tiny_epsilon))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_epsilon: Path, scene: Path) -> Path:
    """A finished run of three steps and a round of edits."""
    steps = "--base-steps", "2", "--max-num-iterations", "3"
    config = parse(arguments(scene, tmp_path_factory.mktemp("fuzz") / "run", tiny_epsilon, *steps))
    train(config)
    return config.get_base_dir()


def check(fuzzed: Fuzzed, settings: Any, **changes: Any) -> Any:
    """The config of a run that was found good; None if it was refused in one line, with nothing written."""
    config = copy.deepcopy(settings)
    config.output_dir = fuzzed.folder / "out"
    for name, value in changes.items():
        setattr(config, name, value)
    config.pipeline.datamanager.data = config.data
    done = fuzzed.call(config.set_timestamp)
    assert not config.output_dir.exists()
    return None if done.code else config


def test_the_capture_and_the_run_are_sound(fuzzed: Fuzzed, settings: Any, run: Path) -> None:
    with fuzzed.example():
        assert check(fuzzed, settings) is not None
        assert check(fuzzed, settings, load_dir=run) is not None


@given(data=st.data(), what=st.sampled_from(["transforms", "photo", "mask", "missing"]))
def test_a_capture(fuzzed: Fuzzed, settings: Any, scene: Path, data: st.DataObject, what: str) -> None:
    files = {file.relative_to(scene): file.read_bytes() for file in scene.rglob("*.*")}
    if what == "transforms":
        text = data.draw(miswritten(json.loads(files[Path("transforms.json")])))
        files[Path("transforms.json")] = text.encode("utf-8", "surrogatepass")
    elif what == "missing":
        del files[data.draw(st.sampled_from(sorted(files)))]
    else:
        name = Path("images" if what == "photo" else "masks") / "001.png"
        files[name] = data.draw(damaged(files[name]))
    with fuzzed.example() as folder:
        for name, content in files.items():
            (folder / "scene" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "scene" / name).write_bytes(content)
        if config := check(fuzzed, settings, data=folder / "scene"):
            manager = config.pipeline.datamanager.setup(device="cpu")
            rays, batch = manager.next_train(0)
            for part in (rays.origins, rays.directions, batch["image"]):
                assert bool(part.isfinite().all())
            assert 0 <= float(batch["image"].min()) <= float(batch["image"].max()) <= 1


@given(data=st.data(), what=st.sampled_from(["bytes", "state", "config.yml", "dataparser_transforms.json"]))
def test_a_checkpoint(fuzzed: Fuzzed, settings: Any, run: Path, data: st.DataObject, what: str) -> None:
    (path,) = (run / "nerfstudio_models").iterdir()
    files = {name: (run / name).read_bytes() for name in ("config.yml", "dataparser_transforms.json")}
    name = f"nerfstudio_models/{path.name}"
    files[name] = path.read_bytes()
    if what == "bytes":
        files[name] = data.draw(damaged(files[name]))
    elif what == "state":
        files[name] = saved(data, read_checkpoint(path))
    elif what == "config.yml":
        files[what] = data.draw(damaged(files[what]))
    else:
        text = data.draw(miswritten(json.loads(files[what])))
        files[what] = text.encode("utf-8", "surrogatepass")
    with fuzzed.example() as folder:
        (folder / "run" / "nerfstudio_models").mkdir(parents=True)
        for file, content in files.items():
            (folder / "run" / file).write_bytes(content)
        check(fuzzed, settings, load_dir=folder / "run")


def saved(data: st.DataObject, checkpoint: dict[str, Any]) -> bytes:
    """A checkpoint without an entry, or with another in its place; of its own or of the schedule of edits."""
    holder = data.draw(st.sampled_from([checkpoint, checkpoint[STATE], checkpoint["pipeline"]]))
    key = data.draw(st.sampled_from(sorted(holder)))
    if data.draw(st.booleans()):
        del holder[key]
    else:
        holder[key] = data.draw(st.sampled_from([None, -1, 0, 10**9, "x", [], {}, torch.zeros(3), 0.5]))
    file = io.BytesIO()
    torch.save(checkpoint, file)
    return file.getvalue()
