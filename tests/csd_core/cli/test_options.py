from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from csd_core.cli.options import (
    EditOptions,
    MemoryOptions,
    MethodOptions,
    ModelOptions,
    OutputOptions,
    beside,
)
from csd_core.cli.panorama import PanoramaOptions
from csd_core.cli.run import load
from csd_core.cli.video import VideoOptions
from csd_core.denoisers.base import SamplingConfig
from csd_core.engine.config import MethodConfig
from csd_core.errors import UserError
from tests.csd_core.cli.commands import Command, PanoramaCommand, VideoCommand


def options(output: Path, **groups: Any) -> PanoramaOptions:
    return PanoramaOptions(image=Path("in.png"), output=output, prompt="make it red", **groups)


def video_options(output: Path) -> VideoOptions:
    return VideoOptions(video=Path("in.mp4"), output=output, prompt="make it red")


def test_every_setting_belongs_to_a_config() -> None:
    given = MethodOptions(t_range=(0.1, 0.3), num_steps=4)
    assert set(given.settings(16)) <= {field.name for field in fields(MethodConfig)}
    assert given.settings(16)["t_range"] == (0.1, 0.3)
    assert given.settings("auto")["chunk_size"] == "auto"
    assert given.settings(16)["learning_rate"] is None
    assert set(given.sampling(16)) == {field.name for field in fields(SamplingConfig)}
    assert given.sampling(16)["num_inference_steps"] == 4


def test_files_beside_the_output() -> None:
    output = Path("folder/snow.v2.png")
    assert beside(output, ".json") == Path("folder/snow.v2.png.json")
    assert beside(output, "preview") == Path("folder/snow.v2.preview.png")
    folder = Path("folder/snow")
    assert beside(folder, ".json") == Path("folder/snow.json")
    assert beside(folder, "step-12") == Path("folder/snow-step-12")  # without a suffix: a folder again


@pytest.mark.parametrize(
    ("output", "preview"), [("snow.v2.gif", "snow.v2.preview.png"), ("snow", "snow-preview.png")]
)
def test_the_preview_of_a_video_is_a_picture(output: str, preview: str) -> None:
    assert video_options(Path("folder") / output).preview == Path("folder") / preview


def test_only_a_video_may_be_written_to_a_folder(tmp_path: Path) -> None:
    video_options(tmp_path).check(tmp_path.parent / "in.mp4")
    with pytest.raises(UserError, match="expected a file to write, got a folder"):
        options(tmp_path).check(tmp_path / "in.png")


@pytest.mark.parametrize("source", ["out.png", "out.png.json", "out.preview.png"])
def test_no_input_is_written_over(tmp_path: Path, source: str) -> None:
    chosen = options(tmp_path / "out.png", writing=OutputOptions(preview_every=1))
    chosen.check(tmp_path / "in.png", tmp_path / "mask.png")
    with pytest.raises(UserError, match="the input itself"):
        chosen.check(tmp_path / "in.png", tmp_path / source)


@pytest.mark.parametrize("kind", [PanoramaCommand, VideoCommand])
def test_no_two_options_have_one_name(kind: type[Command]) -> None:
    chosen: EditOptions = kind.options(output=Path("out"), **{kind.source_option[2:]: Path("in")})
    groups = [getattr(chosen, field.name) for field in fields(chosen)]
    count = sum(len(fields(group)) if is_dataclass(group) else 1 for group in groups)
    assert len(chosen.as_json()) == count
    assert chosen.as_json()["output"] == "out"


def test_the_identity_leaves_out_what_the_result_does_not_depend_on() -> None:
    both = {"output", "device", "dtype", "local_files_only", "chunk_size", "compile", "offload", "max_pixels"}
    both |= {"preview_every", "dry_run", "resume", "verbose"}  # dtype: EditRun compares what it became
    for chosen, more in [
        (options(Path("out.png")), set[str]()),
        (
            video_options(Path("out.mp4")),
            {"max_frames", "codec", "crf", "sound", "frame_rate", "allow_corrupt"},
        ),
    ]:
        every, identity = chosen.as_json(), chosen.identity()
        assert every.keys() - identity.keys() == both | more
        assert identity.items() <= every.items()


def test_the_model_is_loaded_as_the_options_ask(tiny_epsilon: Path) -> None:
    model = ModelOptions(model=str(tiny_epsilon), device="cpu", dtype="bfloat16")
    loaded: Any = load(options(Path("a.png"), model=model, memory=MemoryOptions(compile=True, offload=True)))
    assert (loaded.dtype, loaded.device) == (torch.bfloat16, torch.device("cpu"))
    assert loaded.compiled
    assert loaded._offloaded is not None
