"""Rendered captures: nerfstudio reads them, and they show what was asked for."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from csd_core.mini_editor.edits import affected_mask
from csd_core.mini_editor.raycast import View, render
from csd_nerf.commands.demo_scene import demo_scene, orbit, write_demo_scene, write_drawn
from csd_nerf.commands.drawn_captures import exposures, rough_poses, walk


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo_scene(tmp_path_factory.mktemp("demo") / "scene", num_views=12, size=32)


def photos(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path), float) for path in sorted((folder / "images").iterdir())])


def test_nerfstudio_reads_it_and_holds_views_out(scene: Path):
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    parser = NerfstudioDataParserConfig(data=scene).setup()
    train, held_out = parser.get_dataparser_outputs("train"), parser.get_dataparser_outputs("val")
    assert (len(train.image_filenames), len(held_out.image_filenames)) == (11, 1)
    assert (int(train.cameras.width[0]), int(train.cameras.height[0])) == (32, 32)


def test_photos_show_the_scene_from_the_cameras_in_the_file(scene: Path):
    transforms = json.loads((scene / "transforms.json").read_text())
    fx, fy, cx, cy, width, height = (transforms[key] for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"))
    for photo, frame in list(zip(photos(scene), transforms["frames"], strict=True))[::5]:
        pose = np.array(frame["transform_matrix"], np.float32)
        expected = render(demo_scene(), pose, fx, fy, cx, cy, width, height, samples=2)
        np.testing.assert_allclose(photo / 255, expected, atol=0.51 / 255)


def test_the_scene_shows_what_local_instructions_change(scene: Path):
    images = torch.from_numpy(photos(scene)).permute(0, 3, 1, 2) / 255
    for name in ("red to blue", "orange to green", "blue to pink"):
        assert np.mean([float(affected_mask(name, image).float().mean()) for image in images]) > 0.01, name


def test_same_seed_same_photos(scene: Path, tmp_path: Path):
    again = write_demo_scene(tmp_path / "again", num_views=12, size=32)
    other = write_demo_scene(tmp_path / "other", num_views=12, size=32, seed=1)
    np.testing.assert_array_equal(photos(again), photos(scene))
    assert (photos(other) != photos(scene)).any()


def test_exposure_is_a_factor_on_the_photo(tmp_path: Path):
    views = orbit(2, 24, seed=0)
    plain = photos(write_drawn(tmp_path / "plain", demo_scene(), views))
    dark = photos(write_drawn(tmp_path / "dark", demo_scene(), views, exposures=[1.0, 0.5]))
    np.testing.assert_array_equal(plain[0], dark[0])
    assert np.abs(plain[1] / 2 - dark[1]).max() <= 1
    factors = exposures(32)
    assert int((factors == 1).sum()) == 3, "held-out photos have the middle exposure"
    assert 0.6 < factors.min() < 0.75 < 1.25 < factors.max() < 1.45


def test_rough_poses_change_the_file_and_not_the_photos(tmp_path: Path):
    views = walk(200)
    poses = rough_poses(views, degrees=0.5, units=0.02)
    moved = np.stack(
        [pose[:3, 3] - view.camera_to_world[:3, 3] for pose, view in zip(poses, views, strict=True)]
    )
    assert moved.std() == pytest.approx(0.02, rel=0.15)
    small = [View(view.camera_to_world, 20.0, 20.0, 10.0, 6.0, 20, 12) for view in views[:2]]
    true = write_drawn(tmp_path / "true", demo_scene(), small)
    rough = write_drawn(tmp_path / "rough", demo_scene(), small, poses=poses[:2])
    np.testing.assert_array_equal(photos(true), photos(rough))
    written = json.loads((rough / "transforms.json").read_text())["frames"][1]["transform_matrix"]
    np.testing.assert_allclose(written, poses[1])
