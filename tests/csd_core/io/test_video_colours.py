from pathlib import Path

import av
import av.error
import numpy as np
import pytest

from csd_core.io.videos import read_video
from tests.csd_core.io.clips import clip, copy

SPACES = {"bt709": 1, "bt601": 6}
FLAT = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (20, 90, 200), (230, 180, 40)]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("space", list(SPACES))
@pytest.mark.parametrize("output", ["b.mp4", "b.webm", "b.mkv"])
def test_colours_survive(tmp_path: Path, space: str, full: bool, output: str) -> None:
    frames = [np.full((32, 48, 3), colour, np.uint8) for colour in FLAT]
    path = clip(
        tmp_path / "a.mp4", frames, space=SPACES[space], full=full, pixels="yuv444p", options={"crf": "0"}
    )
    video = read_video(path)
    for frame, colour in zip(video.frames(), FLAT, strict=True):
        assert np.abs(frame.astype(int) - colour).max() <= 2
    copy(video, tmp_path / output, crf=1)
    for frame, colour in zip(read_video(tmp_path / output).frames(), FLAT, strict=True):
        assert np.abs(frame.astype(int) - colour).max() <= 3
    with av.open(tmp_path / output) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range) == (SPACES[space], 2 if full else 1)


@pytest.mark.parametrize(("height", "space"), [(32, 6), (720, 1)])
def test_a_video_without_tags(tmp_path: Path, height: int, space: int) -> None:
    frames = [np.full((height, 48, 3), colour, np.uint8) for colour in FLAT[:3]]
    video = read_video(clip(tmp_path / "a.mp4", frames, space=space, tag=False, options={"crf": "0"}))
    for frame, colour in zip(video.frames(), FLAT, strict=False):
        assert np.abs(frame.astype(int) - colour).max() <= 2
    copy(video, tmp_path / "b.mp4")
    with av.open(tmp_path / "b.mp4") as container:
        assert next(container.decode(video=0)).colorspace == space


def test_hdr_is_told(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", options={"crf": "4", "color_trc": "smpte2084"})
    video = read_video(path)
    assert "HDR" in video.notes[0]
    copy(video, tmp_path / "b.mp4")
    with av.open(tmp_path / "b.mp4") as container:
        assert next(container.decode(video=0)).color_trc == 16
