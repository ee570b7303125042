"""transforms.json as programs of many kinds write it."""

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from csd_core.errors import UserError
from csd_nerf.nerfstudio_compat.transforms import frame_paths, read_transforms
from tests.csd_nerf.conftest import change_transforms, write_capture


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_capture(tmp_path / "scene", [(16, 12)] * 3)


def rewrite(data: Path, path_of: Callable[[int], str]) -> None:
    def change(content: dict[str, Any]) -> None:
        for index, frame in enumerate(content["frames"]):
            frame["file_path"] = path_of(index)

    change_transforms(data, change)


@pytest.mark.parametrize(
    "path_of",
    [
        lambda k: f"images/{k:03d}.png",
        lambda k: f"images\\{k:03d}.png",
        lambda k: f".\\images\\{k:03d}",
        lambda k: f"images/{k:03d}",
        lambda k: f"images/{k:03d}.PNG",
        lambda k: f"C:\\Users\\me\\scene\\images\\{k:03d}.png",
        lambda k: f"/home/somebody/scene/images/{k:03d}.png",
    ],
)
def test_a_path_with_one_meaning_is_found(data: Path, path_of: Callable[[int], str]) -> None:
    rewrite(data, path_of)
    wanted = [data / "images" / f"{k:03d}.png" for k in range(3)]
    assert frame_paths(data) == wanted
    assert frame_paths(data / "transforms.json") == wanted


def test_a_path_with_two_meanings_is_refused_and_one_with_none_is_kept(data: Path) -> None:
    rewrite(data, lambda k: f"images/{k:03d}")
    (data / "images" / "001.jpg").touch()
    with pytest.raises(UserError, match=r"frame 1 .*one file called 001, got 001.jpg and 001.png; write its"):
        frame_paths(data)
    (data / "images" / "001.jpg").rename(data / "001.png")
    (data / "images" / "001.png").unlink()
    # what lies elsewhere in the folder is no meaning of a relative path
    assert frame_paths(data)[1] == data / "images" / "001"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_read(data: Path, encoding: str) -> None:
    path = data / "transforms.json"
    plain = read_transforms(path)
    path.write_text(path.read_text(), encoding=encoding)
    assert path.read_bytes().startswith((codecs.BOM_UTF8, codecs.BOM_UTF16))
    assert read_transforms(path) == plain


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "nan": (lambda f: f["transform_matrix"][0].__setitem__(3, float("nan")), "4 x 4 finite numbers, got nan"),
    "infinite": (
        lambda f: f["transform_matrix"][1].__setitem__(3, 1e39),
        "4 x 4 finite numbers, got 1e[+]39",
    ),
    "no pose": (lambda f: f.pop("transform_matrix"), "4 x 4 finite numbers, got none"),
    "3 x 4": (lambda f: f["transform_matrix"].pop(), r"4 x 4 finite numbers, got \(3, 4\)"),
    "ragged": (lambda f: f["transform_matrix"][0].pop(), "4 x 4 finite numbers, got something else"),
    "text": (lambda f: f.update(transform_matrix="identity"), "4 x 4 finite numbers, got something else"),
    "singular": (lambda f: f.update(transform_matrix=[[0] * 4] * 4), "a rotation .* got a singular one"),
    "focal length": (lambda f: f.update(fl_x=float("inf")), "a positive number as fl_x, got inf"),
    "no size": (lambda f: f.pop("w"), "a positive number as w, got none"),
    "negative": (lambda f: f.update(h=-3), "a positive number as h, got -3"),
    "centre": (lambda f: f.update(cx=[1]), r"a finite number as cx, got \[1\]"),
    "distortion": (lambda f: f.update(k1=float("nan")), "a finite number as k1, got nan"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_frame_with_wrong_numbers_is_named(data: Path, name: str) -> None:
    damage, message = WRONG[name]
    change_transforms(data, lambda content: damage(content["frames"][1]))
    with pytest.raises(UserError, match=rf"frame 1 \(images/001.png\): expected .*{message}; \w+"):
        read_transforms(data / "transforms.json")


def test_intrinsics_of_all_frames_stand_at_the_top(data: Path) -> None:
    def lift(content: dict[str, Any]) -> None:
        content["fl_x"] = 40
        for frame in content["frames"]:
            del frame["fl_x"]

    change_transforms(data, lift)
    assert read_transforms(data / "transforms.json")["fl_x"] == 40
    change_transforms(data, lambda content: content.update(fl_x=None))
    with pytest.raises(UserError, match="fl_x, got none"):
        read_transforms(data / "transforms.json")


def test_a_capture_of_instant_ngp_is_told_its_data_parser(data: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["camera_angle_x"] = 0.7
        del content["frames"][0]["fl_x"]

    change_transforms(data, change)
    with pytest.raises(UserError, match="add instant-ngp-data at the end"):
        read_transforms(data / "transforms.json")


@pytest.mark.parametrize(
    "content",
    ["", "not json", "[]", "{}", '{"frames": []}', '{"frames": [3]}', '{"frames": [{}]}', "[" * 10000],
)
def test_what_is_no_list_of_frames_is_one_line(data: Path, content: str) -> None:
    (data / "transforms.json").write_text(content)
    with pytest.raises(UserError, match=r"transforms.json.*expected .* ns-process-data$") as caught:
        read_transforms(data / "transforms.json")
    assert "\n" not in str(caught.value)


def test_masks_are_of_all_frames_or_of_none(data: Path) -> None:
    change_transforms(data, lambda content: content["frames"][0].update(mask_path="images/000.png"))
    with pytest.raises(UserError, match="mask_path in every frame or in none, got it in 1 of 3"):
        read_transforms(data / "transforms.json")


def test_lists_of_splits_are_found_as_well(data: Path) -> None:
    change_transforms(data, lambda content: content.update(train_filenames=["images\\000.png", "images/001"]))
    found = read_transforms(data / "transforms.json")["train_filenames"]
    assert found == ["images/000.png", "images/001.png"]
    assert json.dumps(found)
