"""A run opened again, its novel views, and csd-evaluate scene on them."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from csd_core.errors import UserError
from csd_core.evaluation.metrics.depth import reprojection_error
from csd_core.io.files import file_hash
from csd_nerf.commands.evaluate import main, scene_before
from csd_nerf.runs.held_out import measure_edit, render_held_out
from csd_nerf.runs.novel_views import (
    base_checkpoint,
    cameras_from_file,
    find_run,
    latest_checkpoint,
    load_weights,
    novel_cameras,
    open_scene,
    render_views,
)
from tests.csd_nerf.conftest import PROMPT, arguments, parse, train, write_capture

CAPTIONS = ["--source-caption", "a photo", "--target-caption", "a photo in the snow", "--clip", "mini"]


def short_run(folder: Path, capture: Path, editor: Path) -> Path:
    """A run with one round of edits."""
    more = ("--base-steps", "3", "--max-num-iterations", "5")
    return Path(train(parse(arguments(capture, folder, editor, *more))).base_dir)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, capture: Path, tiny_epsilon: Path) -> Path:
    return short_run(tmp_path_factory.mktemp("run"), capture, tiny_epsilon)


@pytest.fixture(scope="module")
def scene(run: Path) -> Any:
    return open_scene(run)


def test_cameras_lie_between_those_of_the_capture(scene: Any) -> None:
    cameras = novel_cameras(scene, 6)
    captured = scene.pipeline.datamanager.train_dataset.cameras
    assert cameras.camera_to_worlds.shape == (6, 3, 4)
    places, known = cameras.camera_to_worlds[..., 3], captured.camera_to_worlds[..., 3]
    apart = torch.cdist(places, known)
    assert float(apart.min()) > 1e-3  # none of them was seen in training
    steps = (places[1:4] - places[:3]).norm(dim=1)
    assert torch.allclose(steps, steps[:1].expand(3), rtol=0.05)  # a steady way from one to the next
    assert torch.equal(novel_cameras(scene, 6).camera_to_worlds, cameras.camera_to_worlds)


def test_cameras_are_no_wider_than_asked(scene: Any) -> None:
    wide, small, large = (novel_cameras(scene, 2, width) for width in (None, 16, 640))
    assert [int(c.width[0]) for c in (wide, small, large)] == [32, 16, 32]
    assert float(small.fx[0]) == pytest.approx(float(wide.fx[0]) / 2)


def test_renders_are_nerfactos_own(scene: Any) -> None:
    cameras = novel_cameras(scene, 2)
    views = render_views(scene.pipeline, cameras)
    outputs = scene.pipeline.model.get_outputs_for_camera(cameras[1:2])
    assert torch.equal(views.frames[1], outputs["rgb"].permute(2, 0, 1).clamp(0, 1))
    assert torch.equal(views.depths[1], outputs["depth"][..., 0])
    errors = reprojection_error(views.frames, views.depths, views.cameras)
    assert errors.shape == (1,)


def test_the_rays_of_the_reprojection_are_nerfstudios(scene: Any) -> None:
    """Points at a depth along the ray, by depth.py and by nerfstudio's own rays."""
    from csd_core.evaluation.metrics.depth import _points

    cameras = novel_cameras(scene, 2)
    views = render_views(scene.pipeline, cameras)
    rays = cameras.generate_rays(camera_indices=1, keep_shape=True)
    expected = rays.origins + rays.directions * views.depths[1][..., None]
    assert torch.allclose(_points(views.depths[1], views.cameras, 1), expected, atol=1e-4)


def test_other_weights_in_an_opened_run(run: Path, tmp_path: Path) -> None:
    scene = open_scene(run)
    cameras = novel_cameras(scene, 1)
    after = render_views(scene.pipeline, cameras).frames
    load_weights(scene.pipeline, base_checkpoint(run))
    before = render_views(scene.pipeline, cameras).frames
    assert not torch.equal(before, after)
    checkpoint = torch.load(base_checkpoint(run), weights_only=False)
    name = next(key for key in checkpoint["pipeline"] if key.endswith("weight"))
    checkpoint["pipeline"][name] = torch.zeros(3)
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="another scene"):
        load_weights(scene.pipeline, tmp_path / "other.ckpt")


def test_a_path_of_the_viewer(scene: Any, tmp_path: Path) -> None:
    pose = np.eye(4)
    keyframe = {"camera_to_world": pose.flatten().tolist(), "fov": 50, "aspect": 1.5}
    content = {
        "camera_type": "perspective",
        "render_height": 40,
        "render_width": 60,
        "camera_path": [keyframe] * 3,
    }
    path = tmp_path / "camera_path.json"
    path.write_text(json.dumps(content))
    cameras = cameras_from_file(path, 30)
    assert (len(cameras), int(cameras.width[0]), int(cameras.height[0])) == (3, 30, 20)
    path.write_text("{}")
    with pytest.raises(UserError, match=r"camera_path\.json"):
        cameras_from_file(path)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.yml"):
        find_run(tmp_path)
    (tmp_path / "config.yml").write_text("")
    with pytest.raises(UserError, match="let the run finish"):
        open_scene(tmp_path)
    with pytest.raises(UserError, match=r"before the edit.*--source"):
        base_checkpoint(tmp_path)


# The command --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run against its scene before the edit."""
    output = tmp_path_factory.mktemp("evaluation") / "report"
    words = ["scene", "--edited", str(run), "--output", str(output), "--num-views", "3", "--width", "16"]
    assert main([*words, *CAPTIONS]) == 0
    return output


def test_a_scene_is_measured_on_renders(report: Path, run: Path) -> None:
    content = json.loads((report / "report.json").read_text())
    measures = {measure["key"]: measure for measure in content["measures"]}
    assert len(measures["directional_similarity"]["values"]) == 3
    assert len(measures["image_consistency"]["values"]) == 2
    assert len(content["cameras"]) == 3
    scene = open_scene(run)
    cameras = novel_cameras(scene, 3, 16)
    after = render_views(scene.pipeline, cameras)
    load_weights(scene.pipeline, base_checkpoint(run))
    before = render_views(scene.pipeline, cameras)
    for key, frames in (("depth_error", after.frames), ("source_depth_error", before.frames)):
        expected = reprojection_error(frames, before.depths, before.cameras).tolist()
        assert measures[key]["values"] == pytest.approx(expected, rel=1e-4)
    for name, views in (("source", before), ("edited", after)):
        kept = sorted((report / "frames" / name).glob("*.png"))
        assert len(kept) == 3
        pixels = torch.from_numpy(np.array(Image.open(kept[2]))).permute(2, 0, 1) / 255
        assert float((pixels - views.frames[2]).abs().max()) < 0.6 / 255
    assert (content["held_out"]["prompt"], content["held_out"]["views"]) == (PROMPT, 1)
    read = (latest_checkpoint(run / "config.yml"), base_checkpoint(run))
    assert content["inputs"] == {str(path): file_hash(path) for path in read}


def test_held_out_photos_are_compared_with_the_true_edit(run: Path, tmp_path: Path) -> None:
    """Of a run that was moved, by an instruction with known captions, from a named checkpoint."""
    moved, output = tmp_path / "moved", tmp_path / "report"
    shutil.copytree(run, moved)
    words = ["scene", "--edited", str(moved), "--output", str(output), "--num-views", "2", "--width", "16"]
    named = ["--source", str(base_checkpoint(run)), "--prompt", "make it night", "--clip", "mini"]
    assert main([*words, *named]) == 0
    content = json.loads((output / "report.json").read_text())
    expected = measure_edit(render_held_out(run / "config.yml"), "make it night")
    assert content["held_out"] == asdict(expected)
    assert expected.whole is not None
    assert content["captions"] == {"source": "a photo", "target": "a photo at night"}
    page = (output / "report.html").read_text()
    assert f"{expected.whole.gain:+.2f}" in page
    with Image.open(output / "before_after.png") as picture:
        assert picture.width >= 3 * 32
    assert main([*words, *named]) == 0  # the report is replaced


def test_a_run_against_itself_is_compared_with_the_scene_before_its_edit(run: Path) -> None:
    for source in (None, run, run / "config.yml"):
        assert scene_before(run / "config.yml", source) == base_checkpoint(run)


def test_a_run_is_compared_with_another_of_its_capture(
    run: Path, tiny_epsilon: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["scene", "--num-views", "2", "--width", "16", "--output", str(tmp_path / "report"), *CAPTIONS]
    other = shutil.copytree(run, tmp_path / "other")
    assert main([*words, "--edited", str(run), "--source", str(other)]) == 0
    measures = json.loads((tmp_path / "report" / "report.json").read_text())["measures"]
    assert next(m for m in measures if m["key"] == "image_similarity")["mean"] == pytest.approx(1)
    elsewhere = write_capture(tmp_path / "elsewhere", [(32, 32)] * 5, radius=2.0)
    stranger = short_run(tmp_path / "stranger", elsewhere, tiny_epsilon)
    capsys.readouterr()
    assert main([*words, "--edited", str(run), "--source", str(stranger)]) == 2
    assert "a run of the capture of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--edited", "/nowhere"], "config.yml"),
        (["--num-views", "0"], "num-views"),
        (["--width", "3"], "width"),
        (["--target-caption", ""], "--target-caption"),
        (["--path", "/nowhere.json"], "/nowhere.json"),
    ],
)
def test_bad_input_is_one_line(
    run: Path, words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["scene", "--edited", str(run), "--output", str(tmp_path / "report"), *CAPTIONS, *words]
    assert main(given) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert said in line
    assert not (tmp_path / "report").exists()
