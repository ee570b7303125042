"""The demo's capture: nerfstudio reads it, and it shows what the instructions change."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from csd_core.mini_editor.edits import affected_mask
from csd_core.mini_editor.raycast import render
from csd_nerf.commands.demo_scene import demo_scene, write_demo_scene


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
