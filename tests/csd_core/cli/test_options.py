from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro

from csd_core.cli.options import EditOptions, beside
from csd_core.cli.panorama import PanoramaOptions
from csd_core.cli.video import VideoOptions
from csd_core.denoisers.runtime import precision
from csd_core.engine.config import EditConfig
from csd_core.errors import UserError

PRECISION = precision.dtype_name(precision.default_dtype(torch.device("cpu")))
OPEN = ("guidance_scale", "image_guidance_scale", "batch_size", "learning_rate", "t_range", "noise_pool")


def options(tmp_path: Path, **settings: Any) -> EditOptions:
    return EditOptions(output=tmp_path / "out.png", **settings)


def test_what_is_left_open_is_none_for_the_preset(tmp_path: Path) -> None:
    settings = options(tmp_path).edit_settings()
    assert all(settings[name] is None for name in OPEN)
    assert options(tmp_path, t_range=(0.1, 0.3)).edit_settings()["t_range"] == (0.1, 0.3)


def test_settings_are_those_of_the_configs(tmp_path: Path) -> None:
    given = {"guidance_scale": 3.0, "image_guidance_scale": 1.2, "negative_prompt": "snow", "seed": 5}
    edit = options(tmp_path, batch_size=2, learning_rate=0.5, max_batch=3, **given).edit_settings()
    still_open = {"t_range": None, "noise_pool": None}
    assert edit == {**given, "batch_size": 2, "learning_rate": 0.5, "max_batch": 3, **still_open}
    assert set(edit) <= set(vars(EditConfig()))
    sampling = options(tmp_path, **given).sampling_settings()
    assert sampling == {**given, "max_batch": 16}


def test_files_beside_the_output() -> None:
    output = Path("folder/snow.v2.png")
    assert beside(output, ".json") == Path("folder/snow.v2.png.json")
    assert beside(output, "preview") == Path("folder/snow.v2.preview.png")
    assert beside(output, "step-12") == Path("folder/snow.v2.step-12.png")


def test_files_beside_a_folder_have_no_suffix_by_chance() -> None:
    output = Path("folder/snow")
    assert beside(output, ".json") == Path("folder/snow.json")
    assert beside(output, ".unfinished.safetensors") == Path("folder/snow.unfinished.safetensors")
    assert beside(output, "preview") == Path("folder/snow-preview")
    assert beside(output, "step-12") == Path("folder/snow-step-12")
    assert not beside(output, "step-12").suffix  # what was stopped is a folder again


@pytest.mark.parametrize(
    ("output", "preview"),
    [
        ("snow.mp4", "snow.preview.png"),
        ("snow.v2.gif", "snow.v2.preview.png"),
        ("snow", "snow-preview.png"),
    ],
)
def test_the_preview_of_a_video_is_a_picture(output: str, preview: str) -> None:
    chosen = VideoOptions(output=Path("folder") / output, video=Path("in.mp4"))
    assert chosen.preview == Path("folder") / preview
    assert chosen.may_be_folder == (output == "snow")
    assert EditOptions(output=Path("a/snow.png")).preview == Path("a/snow.preview.png")
    assert not EditOptions(output=Path("a/snow")).may_be_folder


def test_only_a_video_may_be_written_to_a_folder(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    VideoOptions(output=there, video=tmp_path / "in.mp4", prompt="red").check(tmp_path / "in.mp4")
    with pytest.raises(UserError, match="expected a file to write, got a folder"):
        EditOptions(output=there).check(tmp_path / "in.png")
    with pytest.raises(UserError, match="the input itself"):
        VideoOptions(output=there, video=there, prompt="red").check(there)


@pytest.mark.parametrize("name", ["detail", "codec", "crf", "sound", "max_frames"])
def test_how_frames_are_written_may_change_on_the_way(name: str, tmp_path: Path) -> None:
    plain = VideoOptions(output=tmp_path / "a.mp4", video=tmp_path / "in.mp4", prompt="red")
    other: dict[str, Any] = {"detail": "none", "codec": "ffv1", "crf": 9, "sound": False, "max_frames": 9}
    assert replace(plain, **{name: other[name]}).identity() == plain.identity()
    for decisive in ({"frames": "1:"}, {"resolution": 9}, {"method": "sds"}, {"source_prompt": "a"}):
        settings: dict[str, Any] = decisive
        assert replace(plain, **settings).identity() != plain.identity()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"seed": -1}, "seed"),
        ({"preview_every": -1}, "preview_every"),
        ({"max_batch": 0}, "max_batch"),
        ({"max_pixels": 0}, "max_pixels"),
    ],
)
def test_settings_out_of_range_are_named(tmp_path: Path, settings: dict[str, Any], name: str) -> None:
    with pytest.raises(UserError, match=f"^{name}: expected .*, got ") as raised:
        options(tmp_path, **settings).check(tmp_path / "in.png")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("source", ["out.png", "out.png.json", "out.preview.png"])
def test_no_input_is_written_over(tmp_path: Path, source: str) -> None:
    chosen = options(tmp_path, preview_every=1)
    chosen.check(tmp_path / "in.png", tmp_path / "mask.png")
    with pytest.raises(UserError, match="the input itself"):
        chosen.check(tmp_path / "in.png", tmp_path / source)


def test_without_previews_their_name_is_free(tmp_path: Path) -> None:
    options(tmp_path).check(tmp_path / "out.preview.png")


def test_all_options_are_json(tmp_path: Path) -> None:
    said = options(tmp_path, mask=tmp_path / "m.png", t_range=(0.1, 0.2)).as_json()
    assert set(said) == set(EditOptions.__dataclass_fields__)
    assert said["output"] == str(tmp_path / "out.png")
    assert said["t_range"] == [0.1, 0.2]


@pytest.mark.parametrize(
    "incidental",
    [
        {"preview_every": 3},
        {"max_batch": 3},
        {"max_batch": "auto"},
        {"compile": True},
        {"offload": True},
        {"local_files_only": True},
        {"max_pixels": 99},
        {"dry_run": True},
        {"resume": True},
        {"verbose": True},
        {"device": "cpu"},
        {"dtype": PRECISION},
    ],
)
def test_what_the_result_does_not_hang_on_is_no_part_of_its_identity(
    tmp_path: Path, incidental: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert options(tmp_path, **incidental).identity() == options(tmp_path).identity()


@pytest.mark.parametrize(
    "decisive",
    [
        {"prompt": "make it red"},
        {"model": "mini"},
        {"negative_prompt": "a"},
        {"guidance_scale": 3.0},
        {"image_guidance_scale": 3.0},
        {"batch_size": 3},
        {"learning_rate": 3.0},
        {"t_range": (0.1, 0.3)},
        {"seed": 3},
        {"mask": Path("m.png")},
        {"dtype": "float16"},
    ],
)
def test_what_the_result_hangs_on_is_its_identity(tmp_path: Path, decisive: dict[str, Any]) -> None:
    changed, before = options(tmp_path, **decisive).identity(), options(tmp_path).identity()
    assert [name for name in before if changed[name] != before[name]] == list(decisive)


def test_the_precision_is_what_suits_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert options(tmp_path).precision == options(tmp_path, device="cuda:1").precision == "float16"
    for native, expected in ((False, "float32"), (True, "bfloat16")):
        monkeypatch.setattr(precision, "has_native_bfloat16", lambda native=native: native)
        assert options(tmp_path, device="cpu").precision == expected
    assert options(tmp_path, dtype="bfloat16").precision == "bfloat16"
    assert options(tmp_path).identity() != options(tmp_path, device="cpu").identity()


def test_ways_to_compute_reach_the_model(tiny_epsilon: Path, tmp_path: Path) -> None:
    model = options(tmp_path, model=str(tiny_epsilon), device="cpu", compile=True, offload=True).load()
    assert model.compiled
    assert hasattr(model.pipeline().unet, "_hf_hook")


def test_the_model_is_loaded_as_asked(tiny_epsilon: Path, tmp_path: Path) -> None:
    model = options(tmp_path, model=str(tiny_epsilon), dtype="bfloat16", device="cpu").load()
    assert model.dtype == torch.bfloat16
    assert model.device == torch.device("cpu")


@pytest.mark.parametrize("kind", [PanoramaOptions, VideoOptions])
def test_every_option_is_explained(kind: type[EditOptions], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(kind, args=["--help"])
    said = capsys.readouterr().out
    for name in kind.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in said
