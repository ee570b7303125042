import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from csd_core.mini_editor.raycast import View
from csd_nerf.commands.demo_scene import demo_scene, orbit, write_drawn
from csd_nerf.commands.drawn_captures import exposures, rough_poses, walk, walk_scene


def test_held_out_photos_have_the_middle_exposure_and_others_change() -> None:
    factors = exposures(32)
    held_out = np.flatnonzero(factors == 1)
    assert len(held_out) == 3
    assert 0.6 < factors.min() < 0.75
    assert 1.25 < factors.max() < 1.45


def test_exposure_is_a_factor_on_the_photo(tmp_path: Path) -> None:
    views = orbit(2, 24, seed=0)
    write_drawn(tmp_path / "plain", demo_scene(), views)
    write_drawn(tmp_path / "dark", demo_scene(), views, exposures=[1.0, 0.5])
    plain, dark = (
        [np.asarray(Image.open(tmp_path / name / "images" / f"{k:04d}.png"), float) for k in range(2)]
        for name in ("plain", "dark")
    )
    np.testing.assert_array_equal(plain[0], dark[0])
    assert np.abs(plain[1] / 2 - dark[1]).max() <= 1


def test_poses_are_rough_by_what_was_asked_and_only_on_paper(tmp_path: Path) -> None:
    views = walk(200)
    poses = rough_poses(views, degrees=0.5, units=0.02)
    turned = [
        np.degrees(np.arccos(np.clip((np.trace(p[:3, :3].T @ v.camera_to_world[:3, :3]) - 1) / 2, -1, 1)))
        for p, v in zip(poses, views, strict=True)
    ]
    assert np.sqrt(np.mean(np.square(turned))) == pytest.approx(0.5 * np.sqrt(3), rel=0.15)
    moved = np.stack([p[:3, 3] - v.camera_to_world[:3, 3] for p, v in zip(poses, views, strict=True)])
    assert moved.std() == pytest.approx(0.02, rel=0.15)
    small = [View(*view[:1], 20.0, 20.0, 10.0, 6.0, 20, 12) for view in views[:2]]
    write_drawn(tmp_path / "true", demo_scene(), small)
    write_drawn(tmp_path / "rough", demo_scene(), small, poses=poses[:2])
    assert (tmp_path / "true/images/0001.png").read_bytes() == (
        tmp_path / "rough/images/0001.png"
    ).read_bytes()
    written = json.loads((tmp_path / "rough/transforms.json").read_text())["frames"][1]["transform_matrix"]
    np.testing.assert_allclose(written, poses[1])


def test_the_walk_sees_sky_far_houses_and_near_things() -> None:
    scene = walk_scene()
    distances = [float(np.hypot(*shape.center[:2])) for shape in scene.objects]
    assert max(distances) > 50
    assert min(distances) < 3
    heights = [view.camera_to_world[2, 3] for view in walk()]
    assert 1.3 < min(heights) < max(heights) < 1.6
    pitches = [np.degrees(np.arcsin(-view.camera_to_world[2, 2])) for view in walk()]
    assert max(np.abs(pitches)) < 20  # the horizon is in every photo
