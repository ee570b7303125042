"""A capture is looked at before anything is written: photos, masks, cameras."""

import copy
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from csd_core.errors import UserError
from csd_nerf.runs.checks import prepare
from tests.csd_nerf.conftest import (
    add_masks,
    arguments,
    change_transforms,
    left_half,
    parse,
    train,
    write_capture,
)

Check = Callable[..., str]


@functools.cache
def parsed(parser: tuple[str, ...]) -> Any:
    """The config of a command that ends in these words; parsing takes longer than the checks."""
    return parse([*arguments(Path("data"), Path("out"), Path("mini")), *parser])


@pytest.fixture
def check(tmp_path: Path, tiny_epsilon: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """Check a capture; the error, or what is printed where there is none."""

    def run(data: Path, *parser: str, **settings: Any) -> str:
        config = copy.deepcopy(parsed(parser))
        config.output_dir, manager = tmp_path / "out", config.pipeline.datamanager
        manager.data, manager.model = data, str(tiny_epsilon)
        vars(manager).update(settings)
        capsys.readouterr()
        failure = ""
        try:
            prepare(config)
        except UserError as error:
            failure = f"error: {error}"
        assert not (tmp_path / "out").exists(), "something was written"
        assert "\n" not in failure
        return failure or capsys.readouterr().out

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_capture(tmp_path / "scene", [(16, 12)] * 11)


def grey(level: int) -> Callable[[int, tuple[int, int]], Image.Image]:
    return lambda _, size: Image.new("L", size, level)


def test_masks_of_another_size_or_without_white_are_refused_by_name(check: Check, tmp_path: Path) -> None:
    small = write_capture(tmp_path / "small", [(16, 12)] * 3)
    add_masks(small, lambda _, size: left_half(0, (size[0] - 1, size[1])))
    assert "000.png: expected 16x12 as its photo, got 15x12; draw the mask on the photo itself" in check(
        small
    )
    black = write_capture(tmp_path / "black", [(16, 12)] * 3)
    add_masks(black, grey(0))
    assert "expected a mask with white where its photo counts, got a black one" in check(black)
    missing = write_capture(tmp_path / "missing", [(16, 12)] * 3)
    add_masks(missing, left_half)
    (missing / "masks" / "001.png").unlink()
    assert "001.png: expected a file, got none (masks holds 000.png, 002.png" in check(missing)


@pytest.mark.parametrize("sizes", [[(16, 12)] * 4, [(16, 12), (12, 16)] * 2])
def test_one_black_mask_is_a_warning_where_photos_are_sampled_together(
    check: Check, tmp_path: Path, sizes: list[tuple[int, int]]
) -> None:
    folder = write_capture(tmp_path / "scene", sizes)
    add_masks(folder, lambda k, size: grey(0 if k == 1 else 255)(k, size))
    found = check(folder)
    assert "001.png" in found
    assert "(1 of 4 are black)" in found
    assert found.startswith("error: ") == (len(set(sizes)) > 1)
    assert ("warning: " in found) == (len(set(sizes)) == 1)


def test_a_camera_that_is_far_away_is_named(check: Check, data: Path) -> None:
    assert "warning" not in check(data)
    change_transforms(data, lambda content: content["frames"][3]["transform_matrix"][0].__setitem__(3, 1e30))
    found = check(data)
    assert "warning: " in found
    assert "003.png: its camera is" in found
    assert found.count("times as far") == 1


def test_cameras_in_one_place_are_refused(check: Check, data: Path) -> None:
    def together(content: dict[str, Any]) -> None:
        for frame in content["frames"]:
            for row in range(3):
                frame["transform_matrix"][row][3] = 0.5

    change_transforms(data, together)
    assert "expected cameras in several places, got all of them in one; move the camera" in check(data)


def test_a_photo_of_two_frames_is_a_warning(check: Check, data: Path) -> None:
    change_transforms(data, lambda content: content["frames"][4].update(file_path="images/003.png"))
    assert "003.png is the photo of several frames" in check(data)


def test_an_unknown_camera_model_is_named(check: Check, data: Path, tmp_path: Path) -> None:
    change_transforms(data, lambda content: content.update(camera_model="FULL_OPENCV"))
    expected = "expected a camera model that nerfstudio knows, such as PINHOLE or OPENCV, got FULL_OPENCV"
    assert expected in check(data)
    folder = write_colmap(tmp_path / "colmap", (16, 12), "FULL_OPENCV 16 12 40 40 8 6 0 0 0 0 0 0 0 0")
    assert expected in check(folder, "colmap")


def test_photos_above_the_limit_are_refused(check: Check, data: Path) -> None:
    found = check(data, max_pixels=100)
    assert found.startswith("error: ")
    assert "more than the limit of 100; raise it with --pipeline.datamanager.max-pixels" in found


def test_a_missing_folder_of_smaller_photos_is_named(check: Check, data: Path) -> None:
    found = check(data, "nerfstudio-data", "--downscale-factor", "4")
    assert "expected a folder images_4, got none (there are images)" in found
    assert "leave --downscale-factor out" in found


def write_colmap(folder: Path, size: tuple[int, int], camera: str) -> Path:
    """A capture of COLMAP's text files, cameras on a ring that look at its middle."""
    model = folder / "colmap" / "sparse" / "0"
    model.mkdir(parents=True)
    (folder / "images").mkdir()
    (model / "cameras.txt").write_text(f"1 {camera}\n")
    (model / "points3D.txt").write_text("1 0 0 0 255 0 0 0.5 1 0\n")
    lines = []
    for k in range(11):
        Image.fromarray(np.full((size[1], size[0], 3), 20 * k, np.uint8)).save(folder / "images" / f"{k}.png")
        half = math.pi * k / 11
        lines.append(f"{k + 1} {math.cos(half)} 0 {math.sin(half)} 0 0.1 {0.02 * k} 3 1 {k}.png\n\n")
    (model / "images.txt").write_text("".join(lines))
    return folder


def test_wide_photos_of_colmap_are_not_asked_about(
    check: Check, tmp_path: Path, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nerfstudio asks on the terminal; and what is recommended instead works."""

    def no_terminal(*_: object) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", no_terminal)
    folder = write_colmap(tmp_path / "wide", (1610, 20), "PINHOLE 1610 20 900 900 805 10")
    found = check(folder, "colmap")
    assert found.startswith(f"error: {folder}: expected smaller photos in images_2, found no such folder")
    scale, parser = (
        found.index("camera-res-scale-factor 0.5 before colmap"),
        ("colmap", "--downscale-factor", "1"),
    )
    assert "--downscale-factor 1 after it" in found[scale:]
    words = arguments(
        folder, tmp_path / "run", tiny_epsilon, "--pipeline.datamanager.camera-res-scale-factor", "0.5"
    )
    config = parse([*words, *parser])
    config.max_num_iterations = config.base_steps = 1
    trainer = train(config)
    assert trainer.datamanager.photo(0).shape == (3, 10, 805)


def test_a_colmap_capture_with_a_damaged_model_is_one_line(check: Check, tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "scene", (16, 12), "PINHOLE 16 12 40 40 8 6")
    assert "error" not in check(folder, "colmap")
    path = folder / "colmap" / "sparse" / "0" / "images.txt"
    whole = path.read_text()
    path.write_text(whole.replace("3 1 4.png", "nan 1 4.png"))
    assert "expected a pose of finite numbers, got others" in check(folder, "colmap")
    path.write_text(whole[: len(whole) // 2 - 5])
    assert "expected a capture that ColmapDataParser reads, got another" in check(folder, "colmap")
    (path.parent / "cameras.txt").unlink()
    assert "Could not find cameras.txt" in check(folder, "colmap")


def test_a_small_capture_of_mixed_photos_with_masks_of_many_kinds_is_trained(
    tmp_path: Path, tiny_epsilon: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every kind at once: transparency in some photos, several sizes, colour masks, none held out."""
    folder = write_capture(tmp_path / "scene", [(16, 12), (12, 16)] * 2)
    with Image.open(folder / "images" / "001.png") as image:
        image.convert("LA").save(folder / "images" / "001.png")
    add_masks(folder, lambda k, size: left_half(k, size).convert(("RGB", "RGBA", "1", "P")[k]))
    config = parse(arguments(folder, tmp_path / "run", tiny_epsilon))
    trainer = train(config)
    assert "none of the 4 photos is held out" in capsys.readouterr().out
    assert trainer.datamanager.rounds_done == 3
    assert {trainer.datamanager.photo(k).shape for k in range(4)} == {(3, 12, 16), (3, 16, 12)}
