from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from csd_core.io.video_times import begin_again, following, rising
from csd_core.io.videos import read_video
from tests.csd_core.io.clips import NTSC, clip, copy, folder, heard, pictures, refused, stamps
from tests.csd_core.io.odd_clips import cut, healthy, join, packets, shift, textured


@pytest.mark.parametrize(
    ("stamps", "times", "wrong"),
    [
        ([0, 1, 1, 3], [0, 1, 2, 3], [2]),
        ([0, 1, 2, 1, 4], [0, 1, 2, 3, 4], [3]),
        ([0, 1, 9, 3, 4], [0, 1, 2, 3, 4], [2]),
        ([None, 1, None, 3, None], [0, 1, 2, 3, 4], [0, 2, 4]),
        ([None, None], [0, 1], [0, 1]),
        ([0, 5, 5, 5, 8], [0, 5, 6, 7, 8], [2, 3]),
        ([], [], []),
    ],
)
def test_what_does_not_rise_is_put_between_its_neighbours(
    stamps: Sequence[Any], times: list[int], wrong: list[int]
) -> None:
    assert rising(stamps, 1) == (times, wrong)


def test_as_few_times_as_possible_are_changed() -> None:
    """Compared with trying all subsets."""
    random = np.random.default_rng(0)
    for _ in range(300):
        given = random.integers(0, 8, random.integers(1, 9)).tolist()
        times, wrong = rising(given, 1)
        assert all(before < after for before, after in pairwise(times))
        assert [times[k] for k in range(len(given)) if k not in wrong] == [
            stamp for k, stamp in enumerate(given) if k not in wrong
        ]
        kept = len(given) - len(wrong)
        longer = combinations(given, kept + 1)
        assert not any(all(a < b for a, b in pairwise(some)) for some in longer)


def test_parts_of_a_joined_file_follow_each_other() -> None:
    given = [10, 11, 12, 13, 10, None, 11, 12, 2, 3]
    assert begin_again(given) == [4, 8]
    assert following(given, [4, 8], 1) == ([10, 11, 12, 13, 14, None, 15, 16, 17, 18], (0, 4, 15))
    for glitch in ([0, 1, 9, 3, 4], [0, 1, 2, 0, 4, 5], [0, 1, 1, 1, 4], [5, 5, 5, 5, 5, 5]):
        assert begin_again(glitch) == []


@pytest.mark.parametrize("by", [{4: -231}, {4: -300}, {4: 1}])
def test_one_bad_time_of_many(tmp_path: Path, by: dict[int, int]) -> None:
    """A repeated time, one that runs backward, and one that is good."""
    times = [Fraction(k * k * 33, 1000) for k in range(10)]
    path = clip(tmp_path / "a.mkv", pictures(10), rate=None, times=times, end=Fraction(3), sound=["aac"])
    video = read_video(shift(path, 0, by))
    if by[4] < 0:
        times[4] = (times[3] + times[5]) / 2
        (note,) = video.notes
        assert "1 of 10 frames, the first is frame 4" in note
    else:
        times[4] += Fraction(1, 1000)
        assert video.notes == ()
    assert (video.times, video.end) == (tuple(times), 3)
    copy(video, tmp_path / "b.mkv")
    assert max(abs(a - b) for a, b in zip(stamps(tmp_path / "b.mkv"), times, strict=True)) <= Fraction(
        1, 1000
    )
    assert heard(tmp_path / "b.mkv")[-1][0] > Fraction(29, 10)


def test_a_constant_rate_survives_a_repeated_time(tmp_path: Path) -> None:
    video = read_video(shift(clip(tmp_path / "a.mkv", options={"bf": "0"}), 0, {5: -34}))
    assert (video.rate, video.end) == (NTSC, 12 / NTSC)
    assert "frame 5" in video.notes[0]


def test_a_rate_is_assumed_where_most_times_are_bad(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mkv")
    shift(path, 0, {k: -int(1000 * k / NTSC) for k in range(12)})
    video = read_video(path)
    assert video.rate is not None
    (note,) = video.notes
    assert note.startswith(f"the video does not state when each frame is shown: {video.rate} frames")
    given = read_video(path, frame_rate=NTSC)
    assert (given.rate, given.end, given.notes) == (NTSC, 12 / NTSC, ())


@pytest.mark.parametrize("params", ["bframes=3", "bframes=8:b-pyramid=normal:b-adapt=0", "bframes=0"])
def test_an_avi_whose_frames_are_reordered(tmp_path: Path, params: str) -> None:
    path = clip(tmp_path / "a.avi", textured(), options={"x264-params": params})
    video = read_video(path)
    assert (video.rate, video.end, video.notes) == (NTSC, 24 / NTSC, ())


def test_joined_transport_streams(tmp_path: Path) -> None:
    parts = [clip(tmp_path / f"{k}.ts", pictures(24), sound=["aac"]) for k in range(2)]
    path = join(tmp_path / "a.ts", *parts)
    video = read_video(path)
    assert (video.total, video.rate, video.end) == (48, NTSC, 48 / NTSC)
    notes = copy(video, tmp_path / "b.mp4")
    assert any("packets were lost or files joined at 0.7" in note for note in notes)
    assert any("times begin again at 0.80 s" in note for note in notes)
    assert any("neighbours, 1 are left out" in note for note in notes)
    before, after = heard(parts[0]), heard(tmp_path / "b.mp4")
    assert len(after) == 2 * len(before) - 1
    steps = [b[0] - a[0] for a, b in pairwise(after)]
    assert min(steps) > Fraction(1, 100)
    assert max(steps) < Fraction(3, 100)
    # the sound of the second part stays with its pictures
    late = read_video(path, frames=slice(24, None))
    copy(late, tmp_path / "c.mp4")
    assert heard(tmp_path / "c.mp4")[0][0] < Fraction(3, 100)
    assert len(heard(tmp_path / "c.mp4")) in range(len(before) - 4, len(before))


def test_one_of_the_parts_has_no_sound(tmp_path: Path) -> None:
    parts = [clip(tmp_path / f"{k}.ts", pictures(24), sound=["aac"][k:]) for k in range(2)]
    notes = copy(read_video(join(tmp_path / "a.ts", *parts)), tmp_path / "b.mp4")
    assert any("where those of the pictures do not: check that they fit" in note for note in notes)


def test_the_rate_of_a_folder(tmp_path: Path) -> None:
    path = folder(tmp_path / "in", pictures(3))
    video = read_video(path, frame_rate=NTSC)
    assert (video.rate, video.end, video.notes) == (NTSC, 3 / NTSC, ())
    assert copy(video, tmp_path / "b.mp4") == []
    assert read_video(tmp_path / "b.mp4").rate == NTSC
    assert "--frame-rate: expected none" in refused(tmp_path / "b.mp4", frame_rate=NTSC)
    assert read_video(path / "f0.png").notes == ()


@pytest.mark.parametrize(
    ("params", "codec"),
    [
        ("open-gop=1:bframes=3:scenecut=0", "libx264"),
        ("bframes=3:b-pyramid=strict", "libx264"),
        ("intra-refresh=1:bframes=0", "libx264"),
        ("slices=4", "libx264"),
        ("open-gop=1:bframes=3:log-level=none", "libx265"),
        ("", "mpeg2video"),
        ("", "mpeg4"),
        ("", "libvpx-vp9"),
        ("", "libvpx"),
    ],
)
def test_whole_videos_are_whole_and_may_begin_between_key_frames(
    tmp_path: Path, params: str, codec: str
) -> None:
    suffix = ".webm" if codec.startswith("libvpx") else ".mkv"
    path = healthy(tmp_path / f"a{suffix}", params, codec)
    whole = read_video(path)
    assert (whole.total, whole.notes) == (40, ())
    frames = [frame.astype(int) for frame in whole.frames()]
    for first in (3, 10, 13):
        part = read_video(cut(path, tmp_path / f"b{suffix}", first))
        assert 10 <= part.total <= 40 - first
        assert len(packets(part.path)) == 40 - first
        begins = part.total == 40 - first
        assert begins == (part.notes == ())
        assert begins or "begins between key frames" in part.notes[0]
        for ours, theirs in zip(part.frames(), frames[-part.total :], strict=True):
            assert np.abs(ours - theirs).mean() < 1
