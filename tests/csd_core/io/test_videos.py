import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from csd_core.errors import UserError
from csd_core.io import video_decoder
from csd_core.io.videos import read_video
from tests.csd_core.io.clips import (
    MILLI,
    NTSC,
    UNEVEN,
    apart,
    clip,
    folder,
    pictures,
    refused,
    save_animation,
)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mov", "libx264", "yuv444p"),
        ("a.mkv", "ffv1", "bgr0"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.avi", "mjpeg", "yuvj420p"),
        ("a.ts", "libx264", "yuv420p"),
    ],
)
def test_what_is_in_a_video(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    path = clip(tmp_path / name, codec=codec, pixels=pixels, full=pixels == "yuvj420p")
    video = read_video(path)
    assert (video.path, video.size, video.num_frames, video.total) == (path, (32, 48), 12, 12)
    assert video.times == tuple(k / NTSC for k in range(12))
    assert (video.rate, video.end, video.indices) == (NTSC, 12 / NTSC, tuple(range(12)))
    assert (video.has_sound, video.aspect, video.notes) == (False, 1, ())
    for _ in range(2):  # from the beginning again
        frames = list(video.frames())
        assert [(f.shape, f.dtype) for f in frames] == [((32, 48, 3), np.uint8)] * 12
        assert apart(frames, pictures()) < 4


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(24000, 1001), Fraction(60), Fraction(15, 2)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_rates_are_exact(tmp_path: Path, rate: Fraction, suffix: str) -> None:
    video = read_video(clip(tmp_path / f"a{suffix}", rate=rate))
    expected = None if (suffix, rate) == (".mkv", Fraction(15, 2)) else rate
    assert video.rate == (expected or video.rate)
    assert all(abs(a - b) < MILLI for a, b in zip(video.times, (k / rate for k in range(12)), strict=True))


def test_a_part_of_times_that_vary(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", pictures(8), rate=None, times=UNEVEN, end=Fraction(1))
    part = read_video(path, frames=slice(3, 7, 2))
    assert part.times == (0, Fraction(133, 1000))
    assert part.end == Fraction(540 - 200, 1000)
    assert (part.start, part.sound_from, part.sound_to) == (Fraction(200, 1000),) * 2 + (Fraction(540, 1000),)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.gif", "a"])
def test_a_video_is_sent_to_another_rank(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.gif":
        save_animation(path, [Image.fromarray(frame) for frame in pictures(4)], [100] * 4)
    else:
        (clip if path.suffix else folder)(path, pictures(4))
    video = read_video(path, frames=slice(1, 3))
    sent = pickle.loads(pickle.dumps(video))
    assert sent == video
    np.testing.assert_array_equal(list(sent.frames()), list(video.frames()))


@pytest.mark.parametrize(
    ("frames", "indices"),
    [
        (slice(2, 5), range(2, 5)),
        (slice(1, None, 5), range(1, 12, 5)),
        (slice(10, 99), range(10, 12)),
        (slice(-3, None), range(9, 12)),
    ],
)
def test_a_selection(tmp_path: Path, frames: slice, indices: range) -> None:
    path = clip(tmp_path / "a.mp4", codec="libx264rgb", pixels="rgb24", options={"crf": "0"})
    video = read_video(path, frames=frames)
    assert video.indices == tuple(indices)
    assert video.total == 12
    assert video.rate == NTSC / indices.step
    assert video.times == tuple((k - indices[0]) / NTSC for k in indices)
    assert video.end == Fraction(min(indices[-1] + indices.step, 12) - indices[0]) / NTSC
    np.testing.assert_array_equal(list(video.frames()), [pictures()[k] for k in indices])


def test_limits(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4")
    assert "got 20:30 of 12 frames" in refused(path, frames=slice(20, 30))
    assert "got 3:3:2 of 12 frames" in refused(path, frames=slice(3, 3, 2))
    assert "--frames" in refused(path, frames=slice(None, None, -1))
    assert "48x32, 1536 pixels, more than the limit of 1535; raise it with --max-pixels" in refused(
        path, max_pixels=1535
    )
    assert read_video(path, max_pixels=1536, max_frames=12).total == 12
    assert "choose a part with --frames START:STOP, or raise --max-frames" in refused(path, max_frames=11)
    assert read_video(path, frames=slice(1, None), max_frames=11).num_frames == 11
    assert read_video(path, frames=slice(-5, 10), max_frames=3).num_frames == 3
    for suffix in (".webp", ".gif"):
        save_animation(tmp_path / f"a{suffix}", [Image.fromarray(f) for f in pictures(2)], [100] * 2)
        assert "--max-pixels" in refused(tmp_path / f"a{suffix}", max_pixels=1535)
    assert "--max-pixels" in refused(folder(tmp_path / "in", pictures(2)), max_pixels=1535)


def test_frames_of_different_sizes(tmp_path: Path) -> None:
    path = folder(tmp_path / "in", [pictures()[0], pictures()[0][:20]])
    assert "48x32 in f0.png and 48x20 in f1.png" in refused(path)
    small, large = clip(tmp_path / "a.ts", pictures(3)), clip(tmp_path / "b.ts", pictures(3, 64, 64))
    (tmp_path / "c.ts").write_bytes(small.read_bytes() + large.read_bytes())
    assert "48x32 in frame 0 and 64x64 in frame 3" in refused(tmp_path / "c.ts")


def test_frames_are_decoded_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    real = video_decoder._upright
    video = read_video(clip(tmp_path / "a.mp4"), frames=slice(0, 5))
    monkeypatch.setattr(video_decoder, "_upright", lambda *args: (counted.append(1), real(*args))[1])
    frames = video.frames()
    assert not counted
    next(frames)
    assert len(counted) == 1
    assert len(list(frames)) == 4
    assert len(counted) == 5  # nothing after the last one that is wanted
    refused(video.path, max_frames=2)
    assert len(counted) == 5 + 3


def test_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "a.mp4"))
    clip(tmp_path / "a.mp4", pictures(5))
    with pytest.raises(UserError, match="expected 12 frames as before"):
        list(video.frames())
    clip(tmp_path / "a.mp4", pictures(12, 16, 16))
    with pytest.raises(UserError, match="expected 48x32, got 16x16"):
        list(video.frames())
