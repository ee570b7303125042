from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from csd_core.io.videos import read_video
from tests.csd_core.io.clips import NTSC, UNEVEN, apart, clip, copy, decoded, folder, pictures, stamps


@pytest.mark.parametrize(
    ("name", "codec", "known"),
    [
        ("b.mkv", "ffv1", "ffv1"),
        ("b.mp4", "libx265", "hevc"),
        ("b.mp4", "libsvtav1", "av1"),
        ("b.mp4", "mpeg4", "mpeg4"),
        ("b.webm", "vp9", "vp9"),
        ("b.webm", "libvpx", "vp8"),
        ("b.mov", "prores_ks", "prores"),
        ("b.mov", "mjpeg", "mjpeg"),
        ("b.mp4", "libx264rgb", "h264"),
    ],
)
def test_other_codecs(tmp_path: Path, name: str, codec: str, known: str) -> None:
    frames = pictures(4, 64, 64)
    video = read_video(clip(tmp_path / "a.mkv", frames, codec="ffv1", pixels="bgr0"))
    copy(video, tmp_path / name, codec=codec)
    with av.open(tmp_path / name) as container:
        name_ = container.streams.video[0].codec_context.codec.canonical_name
    assert name_ == known
    again = read_video(tmp_path / name)
    assert (again.rate, again.end, again.total) == (NTSC, 4 / NTSC, 4)
    if codec == "ffv1":
        np.testing.assert_array_equal(decoded(tmp_path / name), frames)
    assert apart(list(again.frames()), frames) < 5


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 12])
def test_x265_takes_few_frames(tmp_path: Path, count: int) -> None:
    """Of one or two frames out of order it gives the packets random times."""
    video = read_video(folder(tmp_path / "in", pictures(count, 64, 64)))
    for _ in range(15):
        copy(video, tmp_path / "b.mp4", codec="libx265")
    assert len(stamps(tmp_path / "b.mp4")) == count


def test_the_quality(tmp_path: Path) -> None:
    noise = list(np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype=np.uint8))
    video = read_video(folder(tmp_path / "in", noise))
    sizes = []
    for crf in (0, 18, None, 40):
        copy(video, tmp_path / "a.mp4", crf=crf)
        sizes.append((tmp_path / "a.mp4").stat().st_size)
    assert sizes[0] > sizes[1] == sizes[2] > sizes[3]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
@pytest.mark.parametrize(("times", "rate"), [(UNEVEN, None), ([Fraction(k, 25) for k in range(6)], 25)])
def test_times_and_a_last_frame_that_lasts_are_kept(
    tmp_path: Path, suffix: str, times: list[Fraction], rate: int | None
) -> None:
    source = clip(tmp_path / "a.mp4", pictures(len(times)), rate=None, times=times, end=Fraction(2))
    copy(read_video(source), tmp_path / f"b{suffix}")
    assert stamps(tmp_path / f"b{suffix}") == times
    for path in (source, tmp_path / f"b{suffix}"):
        video = read_video(path)
        assert (video.times, video.end, video.rate) == (tuple(times), 2, rate)


SPACES = {"bt709": 1, "bt601": 6}
FLAT = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (20, 90, 200), (230, 180, 40)]


@pytest.mark.parametrize(("space", "full"), [("bt709", False), ("bt601", True)])
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


def test_hdr_is_noted(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", options={"crf": "4", "color_trc": "smpte2084"})
    video = read_video(path)
    assert "HDR" in video.notes[0]
    copy(video, tmp_path / "b.mp4")
    with av.open(tmp_path / "b.mp4") as container:
        assert next(container.decode(video=0)).color_trc == 16
