from pathlib import Path

import pytest

from csd_core.errors import UserError
from csd_core.experiments.edits import EditWork, plan, plan_extra
from csd_core.experiments.grid import Cell
from csd_core.experiments.inputs import Input, draw_clips, draw_panoramas, read_frames
from csd_core.experiments.settings import Model, Prompt, Variant

SNOW = Prompt("snow", "red", "a photo", "a photo in the snow")
SAMPLING = {"num_inference_steps": 2}


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Input:
    return draw_panoramas(tmp_path_factory.mktemp("picture"), 1, (60, 36))[0]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Input:
    return draw_clips(tmp_path_factory.mktemp("clip"), 1, 32, 3)[0]


def make(
    source: Input,
    model: Path,
    variant: Variant,
    seed: int = 0,
    is_video: bool = False,
    dtype: str = "float32",
) -> Cell:
    found = Model.find(str(model))
    return plan((source, SNOW, variant, seed), found, is_video=is_video, dtype=dtype, num_steps=2, stride=4)


PANORAMA = [
    Variant("csd"),
    Variant("no-svgd"),
    Variant("sds"),
    Variant("csd", "", {"batch_size": 9, "bandwidth_factor": 3.0, "shared_noise": True}),
    Variant("csd", "small", {"size": (40, 36)}),
    Variant("ip2p-resize", "", SAMPLING),
    Variant("ip2p-patch", "", SAMPLING),
    Variant("ip2p-overlap", "", SAMPLING),
]


@pytest.mark.parametrize("variant", PANORAMA, ids=lambda variant: variant.name)
def test_a_picture_is_edited_and_its_evaluations_were_foretold(
    tiny_epsilon: Path, picture: Input, tmp_path: Path, variant: Variant
) -> None:
    cell = make(picture, tiny_epsilon, variant)
    work = EditWork(str(tiny_epsilon), {picture.name: picture}, is_video=False)
    told = work(cell, tmp_path, "cpu")
    assert told["evaluations"] == work.evaluations(cell, work.load("cpu")) > 0
    (edited,) = read_frames(tmp_path / "frames")
    assert tuple(edited.shape[-2:]) == ((36, 40) if variant.setting == "small" else (36, 60))
    rows, columns = told["borders"]
    assert all(0 < y < edited.shape[-2] for y in rows)
    if variant.method in ("csd", "no-svgd", "sds") and not variant.setting:
        assert list(columns) == [16, 32, 44, 48]  # every 16 pixels, from 16 before the picture on
    if variant.method in ("ip2p-patch", "ip2p-resize"):
        assert list(columns) == [28, 32]
    assert told["steps"] == 2


@pytest.mark.parametrize("method", ["csd", "no-svgd", "sds", "ip2p-frame"])
def test_a_clip_is_edited_and_its_evaluations_were_foretold(
    tiny_epsilon: Path, clip: Input, tmp_path: Path, method: str
) -> None:
    cell = make(
        clip, tiny_epsilon, Variant(method, "", SAMPLING if method == "ip2p-frame" else {}), is_video=True
    )
    work = EditWork(str(tiny_epsilon), {clip.name: clip}, is_video=True)
    told = work(cell, tmp_path, "cpu")
    assert told["evaluations"] == work.evaluations(cell, work.load("cpu")) > 0
    assert [tuple(frame.shape) for frame in read_frames(tmp_path / "frames")] == [(3, 32, 32)] * 3


def test_the_key_knows_seed_setting_model_and_input(
    tiny_epsilon: Path, tiny_velocity: Path, picture: Input, clip: Input
) -> None:
    cells = [
        make(picture, tiny_epsilon, Variant("csd")),
        make(picture, tiny_epsilon, Variant("csd"), seed=1),
        make(picture, tiny_epsilon, Variant("csd", "", {"guidance_scale": 3.0})),
        make(picture, tiny_epsilon, Variant("csd", "", {"lr_factor": 2.0})),
        make(picture, tiny_epsilon, Variant("csd", "", {"num_steps": 3})),
        make(picture, tiny_epsilon, Variant("csd", "", {"size": (40, 36)})),
        make(picture, tiny_velocity, Variant("csd")),
        make(picture, tiny_epsilon, Variant("csd"), dtype="float16"),
        make(Input(picture.name, clip.folder, clip.sha256), tiny_epsilon, Variant("csd")),
    ]
    assert len({cell.key for cell in cells}) == len(cells)
    assert make(picture, tiny_epsilon, Variant("csd")).key == cells[0].key


def test_settings_out_of_range_are_refused_before_the_work(tiny_epsilon: Path, picture: Input) -> None:
    with pytest.raises(UserError, match="batch_size: expected at least 1, got 0"):
        make(picture, tiny_epsilon, Variant("csd", "", {"batch_size": 0}))
    with pytest.raises(UserError, match="guidance_scale"):
        make(picture, tiny_epsilon, Variant("ip2p-resize", "", {"guidance_scale": 0.5}))


def test_the_output_of_another_program_is_brought_to_the_size_of_the_source(
    tiny_epsilon: Path, clip: Input, tmp_path: Path
) -> None:
    (other,) = draw_clips(tmp_path / "other", 1, 48, 3)
    cell = plan_extra(clip, SNOW, "fatezero", other)
    work = EditWork(str(tiny_epsilon), {clip.name: clip}, True, extras={other.sha256: other.folder})
    assert work(cell, tmp_path, "cpu")["evaluations"] is None
    assert [tuple(frame.shape) for frame in read_frames(tmp_path / "frames")] == [(3, 32, 32)] * 3
