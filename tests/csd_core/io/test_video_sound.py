from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from csd_core.io.videos import read_video
from tests.csd_core.io.clips import MILLI, NTSC, clip, copy, heard, not_written, pictures, stamps


@pytest.mark.parametrize(
    ("source", "codec", "sound", "output"),
    [
        ("a.mp4", "libx264", "aac", "b.mp4"),
        ("a.mp4", "libx264", "aac", "b.mkv"),
        ("a.mkv", "libx264", "flac", "b.mp4"),
        ("a.webm", "libvpx-vp9", "libopus", "b.webm"),
        ("a.webm", "libvpx-vp9", "libopus", "b.mp4"),
        ("a.mov", "libx264", "pcm_s16le", "b.mov"),
    ],
)
def test_sound_is_copied(tmp_path: Path, source: str, codec: str, sound: str, output: str) -> None:
    path = clip(tmp_path / source, pictures(24), codec=codec, sound=[sound, sound], language="deu")
    video = read_video(path)
    assert video.has_sound
    copy(video, tmp_path / output)
    for k in range(2):
        before, after = heard(path, k), heard(tmp_path / output, k)
        if (source, output) == ("a.mp4", "b.mkv"):  # the start of the encoder, before the first frame
            assert before.pop(0)[0] == Fraction(-1024, 48000)
        assert [data for _, data in after] == [data for _, data in before]
        assert heard_apart(before, after) <= MILLI
    assert abs(stamps(tmp_path / output)[0] - stamps(path)[0]) <= MILLI
    with av.open(tmp_path / output) as container:
        languages = {stream.metadata.get("language", "deu") for stream in container.streams.audio}
        assert languages <= {"deu", "ger"}  # FFmpeg writes none into the .mov
    copy(video, tmp_path / output, sound=False)
    with av.open(tmp_path / output) as container:
        assert not container.streams.audio


def heard_apart(before: Any, after: Any) -> Fraction:
    return max(abs(one - other) for (one, _), (other, _) in zip(before, after, strict=True))


def test_sound_before_the_first_frame(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.ts", pictures(24), sound=["aac"])
    video = read_video(path)
    assert video.start > 0  # times of this format begin anywhere
    for name in ("b.mp4", "b.mkv"):
        copy(video, tmp_path / name)
        after = {data: time for time, data in heard(tmp_path / name)}
        # an MPEG stream has 7 bytes more before each packet
        shifts = [after[data[7:]] - time for time, data in heard(path) if data[7:] in after]
        assert len(shifts) == len(after) >= 30
        assert max(abs(shift + video.start) for shift in shifts) <= MILLI
        assert stamps(tmp_path / name)[0] == 0


@pytest.mark.parametrize("output", ["b.mp4", "b.mkv"])
@pytest.mark.parametrize("frames", [slice(6, None), slice(None, 12), slice(6, 18, 3)])
def test_sound_is_cut_to_the_selection(tmp_path: Path, frames: slice, output: str) -> None:
    path = clip(tmp_path / "a.mp4", pictures(24), sound=["aac"])
    copy(read_video(path, frames=frames), tmp_path / output)
    start = Fraction(frames.start or 0) / NTSC
    end = Fraction(frames.stop) / NTSC if frames.stop else Fraction(100)
    begin = start if frames.start or output == "b.mkv" else Fraction(-1)
    expected = [(time - start, data) for time, data in heard(path) if begin <= time < end]
    after = heard(tmp_path / output)
    assert [data for _, data in after] == [data for _, data in expected]
    assert heard_apart(expected, after) <= MILLI
    assert stamps(tmp_path / output)[0] == 0


def test_sound_that_the_container_does_not_hold(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "a.mp4", sound=["aac"]))
    expected = (
        "expected sound that .webm holds, got aac; write a .mkv, or leave the sound out with --no-sound"
    )
    assert expected in not_written(tmp_path / "b.webm", video)
    copy(video, tmp_path / "b.webm", sound=False)
