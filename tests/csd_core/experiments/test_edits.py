from pathlib import Path
from typing import Any

import pytest

from csd_core.errors import UserError
from csd_core.experiments.edits import EditWork
from csd_core.experiments.grid import Cell
from csd_core.experiments.inputs import Input, read_frames, render_clips, render_panoramas
from csd_core.experiments.settings import Model, Prompt, Variant

SNOW = Prompt("snow", "red", "a photo", "a photo in the snow")
SAMPLING = {"num_inference_steps": 2}


@pytest.fixture(scope="module")
def picture() -> Input:
    return render_panoramas(1, (60, 36))[0]


@pytest.fixture(scope="module")
def clip() -> Input:
    return render_clips(1, 48, 3)[0]


def make(source: Input, model: Path, variant: Variant, seed: int = 0, **more: Any) -> Cell:
    return work_on(source, model, **more).plan(source, SNOW, variant, seed)


def work_on(source: Input, model: Path, *, is_video: bool = False, dtype: str = "float32") -> EditWork:
    return EditWork(Model.find(str(model)), {source.sha256: source}, is_video, dtype, 2, 4)


PANORAMA = [
    Variant("csd"),
    Variant("no-svgd"),
    Variant("sds", "", {"batch_size": 9, "bandwidth_factor": 3.0, "shared_noise": True}),
    Variant("csd", "small", {"size": (40, 36)}),
    Variant("csd", "none", {"borders": "none"}),
    Variant("ip2p-resize", "", SAMPLING),
    Variant("ip2p-patch", "", SAMPLING),
    Variant("ip2p-overlap", "", SAMPLING),
]


@pytest.mark.parametrize("variant", PANORAMA, ids=lambda variant: variant.name)
def test_a_picture_is_edited_by_every_method(
    tiny_epsilon: Path, picture: Input, tmp_path: Path, variant: Variant
) -> None:
    cell = make(picture, tiny_epsilon, variant)
    work = work_on(picture, tiny_epsilon)
    record = work(cell, tmp_path, "cpu")
    assert record["evaluations"] > 0
    (edited,) = read_frames(tmp_path / "frames")
    assert tuple(edited.shape[-2:]) == ((36, 40) if variant.setting == "small" else (36, 60))
    rows, columns = record["borders"]
    assert all(0 < y < edited.shape[-2] for y in rows)
    if variant.method in ("csd", "no-svgd", "sds") and not variant.setting:
        assert list(columns) == [16, 32, 44, 48]  # every 16 pixels, from 16 before the picture on
    if variant.method in ("ip2p-patch", "ip2p-resize") or variant.setting == "none":
        assert list(columns) == ([16, 28, 32, 48] if variant.setting == "none" else [28, 32])
    assert record["steps"] == 2


@pytest.mark.parametrize(
    "variant",
    [Variant("csd", "", {"detail": "none"}), Variant("no-svgd"), Variant("ip2p-frame", "", SAMPLING)],
    ids=lambda variant: variant.name,
)
def test_a_clip_is_edited_by_every_method(
    tiny_epsilon: Path, clip: Input, tmp_path: Path, variant: Variant
) -> None:
    cell = make(clip, tiny_epsilon, variant, is_video=True)
    work = work_on(clip, tiny_epsilon, is_video=True)
    record = work(cell, tmp_path, "cpu")
    assert record["evaluations"] > 0
    assert [tuple(frame.shape) for frame in read_frames(tmp_path / "frames")] == [(3, 48, 48)] * 3


@pytest.mark.parametrize(("name", "is_video"), [("borders", False), ("detail", True)])
def test_borders_and_detail_change_the_edit(
    tiny_epsilon: Path, picture: Input, clip: Input, tmp_path: Path, name: str, is_video: bool
) -> None:
    source, edits = clip if is_video else picture, []
    work = work_on(source, tiny_epsilon, is_video=is_video)
    for value in ("margin", "none") if name == "borders" else ("guided", "none"):
        cell = make(source, tiny_epsilon, Variant("csd", value, {name: value}), is_video=is_video)
        (tmp_path / value).mkdir()
        work(cell, tmp_path / value, "cpu")
        edits.append((tmp_path / value / "frames" / "00000.png").read_bytes())
    assert edits[0] != edits[1]


def test_the_key_depends_on_seed_setting_model_and_input(
    tiny_epsilon: Path, tiny_velocity: Path, picture: Input, clip: Input
) -> None:
    cells = [
        make(picture, tiny_epsilon, Variant("csd")),
        make(picture, tiny_epsilon, Variant("csd"), seed=1),
        make(picture, tiny_epsilon, Variant("csd", "", {"guidance_scale": 3.0})),
        make(picture, tiny_epsilon, Variant("csd", "", {"lr_factor": 2.0})),
        make(picture, tiny_epsilon, Variant("csd", "", {"num_steps": 3})),
        make(picture, tiny_epsilon, Variant("csd", "", {"borders": "none"})),
        make(picture, tiny_velocity, Variant("csd")),
        make(picture, tiny_epsilon, Variant("csd"), dtype="float16"),
        make(Input(picture.name, clip.arrays), tiny_epsilon, Variant("csd")),
    ]
    assert len({cell.key for cell in cells}) == len(cells)
    assert make(picture, tiny_epsilon, Variant("csd")).key == cells[0].key


def test_settings_out_of_range_are_refused_before_the_work(tiny_epsilon: Path, picture: Input) -> None:
    with pytest.raises(UserError, match="batch_size: expected at least 1, got 0"):
        make(picture, tiny_epsilon, Variant("csd", "", {"batch_size": 0}))
    with pytest.raises(UserError, match="guidance_scale"):
        make(picture, tiny_epsilon, Variant("ip2p-resize", "", {"guidance_scale": 0.5}))
