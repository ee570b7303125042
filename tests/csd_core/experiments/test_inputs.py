from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from csd_core.errors import UserError
from csd_core.experiments.inputs import read_inputs, render_clips, render_panoramas


def save(path: Path, size: tuple[int, int], value: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 60, 20)).save(path)


def read(folder: Path, is_video: bool = False, short_side: int | None = None, count: int = 9):
    return read_inputs(folder, is_video=is_video, short_side=short_side, num_inputs=count, num_frames=2)


def test_rendered_inputs_are_the_same_every_time() -> None:
    first, again = render_panoramas(2, (48, 16)), render_panoramas(2, (48, 16))
    assert [one.sha256 for one in first] == [one.sha256 for one in again]
    assert first[0].sha256 != first[1].sha256
    assert [tuple(frame.shape) for frame in first[0].frames] == [(3, 16, 48)]
    assert float(first[0].frames[0].std()) > 0.05


def test_rendered_clips_move_a_little_from_frame_to_frame() -> None:
    (clip,) = render_clips(1, 24, 3)
    first, second, third = clip.frames
    near, far = (float((frame - first).abs().mean()) for frame in (second, third))
    assert 0 < near < far < 0.2


def test_pictures_of_a_folder_are_read_in_order_and_resized(tmp_path: Path) -> None:
    save(tmp_path / "in" / "b.png", (40, 20))
    save(tmp_path / "in" / "a.jpg", (60, 20), 10)
    (tmp_path / "in" / "notes.txt").write_text("text")
    inputs = read(tmp_path / "in", short_side=10)
    assert [one.name for one in inputs] == ["a", "b"]
    assert [tuple(one.frames[0].shape) for one in inputs] == [(3, 10, 30), (3, 10, 20)]
    assert [one.name for one in read(tmp_path / "in", count=1)] == ["a"]
    whole = read(tmp_path / "in")[1].frames[0]
    levels = (whole * 255).round().permute(1, 2, 0).byte().numpy()
    assert np.array_equal(levels, np.asarray(Image.open(tmp_path / "in" / "b.png")))


def test_clips_are_folders_of_frames_or_the_folder_itself(tmp_path: Path) -> None:
    for name in ("one", "two"):
        for k in range(3):
            save(tmp_path / "in" / name / f"{k}.png", (24, 16), 50 * k)
    both = read(tmp_path / "in", is_video=True)
    assert [(one.name, len(one.frames)) for one in both] == [("one", 2), ("two", 2)]
    (alone,) = read(tmp_path / "in" / "one", is_video=True)
    assert torch.equal(torch.stack(alone.frames), torch.stack(both[0].frames))


@pytest.mark.parametrize("is_video", [False, True])
def test_a_folder_without_inputs_is_refused(tmp_path: Path, is_video: bool) -> None:
    with pytest.raises(UserError, match="inputs: expected a folder, got"):
        read(tmp_path / "none", is_video)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="inputs: expected a folder of"):
        read(tmp_path / "empty", is_video)
