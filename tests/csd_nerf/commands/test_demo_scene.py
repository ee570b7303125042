"""The demo's scene is a capture that nerfstudio reads, the same each time, and never half written."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from csd_core.mini_editor.raycast import render
from csd_nerf.commands import demo_scene
from csd_nerf.commands.demo_scene import orbit, write_demo_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo_scene(tmp_path_factory.mktemp("demo") / "scene", num_views=12, size=32)


def test_nerfstudio_reads_it_and_holds_views_out(scene: Path):
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    parser = NerfstudioDataParserConfig(data=scene).setup()
    train, held_out = parser.get_dataparser_outputs("train"), parser.get_dataparser_outputs("val")
    assert (len(train.image_filenames), len(held_out.image_filenames)) == (11, 1)
    assert not set(train.image_filenames) & set(held_out.image_filenames)
    assert (int(train.cameras.width[0]), int(train.cameras.height[0])) == (32, 32)


def test_photos_are_what_the_cameras_in_the_file_see(scene: Path):
    transforms = json.loads((scene / "transforms.json").read_text())
    fx, fy, cx, cy, width, height = (transforms[key] for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"))
    for frame in transforms["frames"][::5]:
        pose = np.array(frame["transform_matrix"], np.float32)
        expected = render(demo_scene.demo_scene(), pose, fx, fy, cx, cy, width, height, samples=2)
        with Image.open(scene / frame["file_path"]) as image:
            np.testing.assert_allclose(np.array(image) / 255, expected, atol=0.51 / 255)


def test_the_scene_shows_what_local_instructions_change(scene: Path):
    import torch

    from csd_core.mini_editor.edits import affected_mask

    for name in ("red to blue", "orange to green", "blue to pink"):
        shares = []
        for path in sorted((scene / "images").iterdir()):
            with Image.open(path) as image:
                pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
            shares.append(float(affected_mask(name, pixels).float().mean()))
        assert np.mean(shares) > 0.01, name


def test_same_seed_same_bytes(scene: Path, tmp_path: Path):
    again = write_demo_scene(tmp_path / "again", num_views=12, size=32)
    other = write_demo_scene(tmp_path / "other", num_views=12, size=32, seed=1)

    def contents(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    assert contents(again) == contents(scene)
    assert contents(other) != contents(scene)
    assert len(contents(scene)) == 12 + 1


def test_a_scene_that_breaks_off_leaves_the_old_one_and_nothing_else(tmp_path: Path, monkeypatch):
    folder = tmp_path / "scene"
    (folder / "images").mkdir(parents=True)
    (folder / "transforms.json").write_text("old")

    def break_off(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_scene, "render", break_off)
    with pytest.raises(KeyboardInterrupt):
        write_demo_scene(folder, num_views=2, size=8)
    assert (folder / "transforms.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]


def test_cameras_look_at_the_scene_from_all_sides():
    views = orbit(24, 128, seed=0)
    eyes = np.stack([view.camera_to_world[:3, 3] for view in views])
    back = np.stack([view.camera_to_world[:3, 2] for view in views])
    assert (np.einsum("ij,ij->i", back, eyes / np.linalg.norm(eyes, axis=1, keepdims=True)) > 0.95).all()
    azimuth = np.sort(np.arctan2(eyes[:, 1], eyes[:, 0]))
    assert np.diff(azimuth).max() < 2 * 2 * np.pi / 24
    assert eyes[:, 2].min() > 0.5  # above the table
    assert np.ptp(eyes[:, 2]) > 0.5  # from several heights


def test_one_view_is_no_scene():
    with pytest.raises(ValueError, match="at least 2"):
        orbit(1, 128, seed=0)
