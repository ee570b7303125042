"""What a video holds besides pictures and sound: it is kept, or there is a note."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from av.container import OutputContainer
from av.error import InvalidDataError
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from csd_core.io.video_decoder import _not_kept
from csd_core.io.video_sound import CopiedSound
from csd_core.io.video_writer import VideoWriter, check_can_write
from csd_core.io.videos import read_video
from tests.csd_core.io.clips import (
    NTSC,
    clip,
    copy,
    folder,
    heard,
    not_written,
    one_line,
    pictures,
    refused,
)
from tests.csd_core.io.odd_clips import (
    clear,
    crowded,
    damage,
    mjpeg_with_exif,
    rename_codec,
    shift,
    textured,
    with_extra,
)


def titles(path: Path) -> list[tuple[str, Fraction, Fraction]]:
    """Title, start and end of the chapters of a file."""
    with av.open(path) as container:
        found: list[Any] = container.chapters()
    return [(c["metadata"]["title"], c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in found]


def test_chapters_are_kept_and_cut_to_the_selection(tmp_path: Path) -> None:
    path = crowded(tmp_path / "a.mkv")
    tenth = Fraction(1, 10)
    for suffix in (".mp4", ".mov", ".mkv", ".webm"):
        copy(read_video(path), tmp_path / f"b{suffix}")
        assert titles(tmp_path / f"b{suffix}") == titles(path)
        copy(read_video(path, frames=slice(4, 8, 2)), tmp_path / f"b{suffix}")
        assert titles(tmp_path / f"b{suffix}") == [
            ("Two", 0, 2 * tenth),
            ("Three", 2 * tenth, 4 * tenth),
        ]
    assert ".gif holds no chapters: they are left out" in check_can_write(
        tmp_path / "b.gif", read_video(path)
    )


def test_what_else_is_in_a_file_is_noted(tmp_path: Path) -> None:
    assert read_video(crowded(tmp_path / "a.mkv")).notes == (
        "the file has 2 tracks of pictures: track 0 alone is kept",
        "subtitles are left out",
        "attachments are left out",
    )
    assert read_video(with_extra(tmp_path / "a.ts", "data")).notes == (
        "tracks of data, such as positions or a time code, are left out",
    )
    assert read_video(with_extra(tmp_path / "a.mp4", "cover")).notes == ("covers are left out",)


@pytest.mark.parametrize(("unknown", "kept"), [([1], 1), ([0], 1), ([0, 1], 0)])
def test_sound_of_an_unknown_codec_is_left_out(tmp_path: Path, unknown: list[int], kept: int) -> None:
    path = clip(tmp_path / "a.mp4", sound=["aac", "aac"])
    whole = [heard(path, k) for k in range(2)]
    video = read_video(rename_codec(path, unknown))
    tracks = ", ".join(str(k + 1) for k in unknown)
    assert video.notes == (f"sound of an unknown codec is left out: track {tracks} of the file",)
    assert video.has_sound == bool(kept)
    copy(video, tmp_path / "b.mp4")
    with av.open(tmp_path / "b.mp4") as container:
        assert len(container.streams.audio) == kept
    if kept:
        assert heard(tmp_path / "b.mp4") == whole[1 - unknown[0]]


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_transparent_pixels_of_a_webm_become_white(tmp_path: Path, codec: str) -> None:
    video = read_video(clear(tmp_path / "a.webm", codec))
    assert video.notes == ("what is transparent becomes white",)
    for frame in video.frames():
        assert (frame[:, :30] > 250).all()
        assert np.abs(frame[:, 40:].mean((0, 1)) - (200, 40, 40)).max() < 8
    assert (next(video.frames(ground=0))[:, :30] < 5).all()


def test_bits_and_interlacing_are_noted(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "a.mkv", codec="ffv1", pixels="yuv420p10le"))
    assert video.notes == ("the video has 10 bits: frames are edited and written with 8",)
    video = read_video(clip(tmp_path / "a.mp4", options={"x264-params": "tff=1"}))
    (note,) = video.notes
    assert "interlaced" in note
    deep = folder(tmp_path / "deep", [])
    Image.fromarray(np.full((32, 48), 30000, np.uint16)).save(deep / "a.png")
    assert "pictures have 16 bits: they are edited and written with 8" in read_video(deep).notes


@pytest.mark.parametrize(
    ("loop", "source", "output", "kept"),
    [
        (None, ".gif", ".gif", None),
        (0, ".gif", ".gif", 0),
        (3, ".gif", ".gif", 3),
        (3, ".gif", ".webp", 4),
        (None, ".gif", ".webp", 1),
        (4, ".webp", ".gif", 3),
        (1, ".webp", ".gif", None),
        (0, ".webp", ".webp", 0),
        (4, ".png", ".webp", 4),
    ],
)
def test_an_animation_is_played_as_often_as_before(
    tmp_path: Path, loop: int | None, source: str, output: str, kept: int | None
) -> None:
    frames = [Image.fromarray(frame) for frame in pictures(3)]
    given: dict[str, Any] = {} if loop is None else {"loop": loop}
    path = tmp_path / f"a{source}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, **given)
    video = read_video(path)
    copy(video, tmp_path / f"b{output}")
    with Image.open(tmp_path / f"b{output}") as image:
        assert image.info.get("loop") == kept
    once = loop is None or (loop, source) == (1, ".webp")
    assert any("played" in note for note in copy(video, tmp_path / "b.mp4")) != once


def test_other_files_in_a_folder_are_counted(tmp_path: Path) -> None:
    path = folder(tmp_path / "in", pictures(2))
    for name in ("a.heic", "b.HEIC", "c.cr2", ".hidden.bmp", "readme"):
        (path / name).touch()
    left_out = "1 .cr2, 2 .heic, 1 without an ending"
    assert f"other files in the folder are left out: {left_out}" in read_video(path).notes
    for file in path.glob("*.png"):
        file.unlink()
    assert f"got {left_out}; convert them" in refused(path)


def test_metadata_that_the_output_does_not_hold_is_noted(tmp_path: Path) -> None:
    tags = {"title": "A", "camera": "Some"}
    video = read_video(clip(tmp_path / "a.mkv", metadata=tags))
    assert copy(video, tmp_path / "b.mkv") == []
    (note,) = copy(video, tmp_path / "b.mp4")
    assert note == ".mp4 does not hold all metadata, this is left out: CAMERA"
    assert ".gif holds no metadata: it is left out" in check_can_write(tmp_path / "b.gif", video)


def test_pictures_with_exif_inside_a_video(tmp_path: Path) -> None:
    """PyAV does not know what its frames hold beside their pixels."""
    video = read_video(mjpeg_with_exif(tmp_path / "a.avi", pictures(4)))
    assert (video.total, video.notes) == (4, ())


@pytest.mark.parametrize(
    ("kind", "words"),
    [("A53_CC", "closed captions: left out"), ("SPHERICAL", "that it is a 360-degree video: left out")],
)
def test_what_frames_carry_is_noted(kind: str, words: str) -> None:
    eight = VideoFrame(48, 32, "yuv420p")
    attributes = {name: getattr(eight, name) for name in ("format", "colorspace", "color_range", "height")}
    attributes |= {"color_trc": 1, "color_primaries": 1, "interlaced_frame": False}
    carrying: Any = SimpleNamespace(**attributes, side_data=[SimpleNamespace(type=Type[kind])])
    assert list(_not_kept(carrying)) == [words]


# Damage.


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_damaged_frames_are_refused_with_their_time(tmp_path: Path, suffix: str, codec: str) -> None:
    options = {"bf": "0", "g": "8", "b": "2M"}
    path = damage(clip(tmp_path / f"a{suffix}", textured(), codec=codec, options=options), 12)
    message = refused(path)
    assert "damaged frames at 0.40 s (frame 12); copy it again" in message
    assert "--allow-corrupt" in message
    video = read_video(path, allow_corrupt=True)
    assert (video.total, video.rate) == (24, NTSC)
    assert video.notes == ("damaged frames are edited as they are: 1, the first at 0.40 s (frame 12)",)
    copy(video, tmp_path / "b.mp4")


def test_frames_that_cannot_be_decoded_leave_a_gap(tmp_path: Path) -> None:
    path = damage(clip(tmp_path / "a.mp4", textured(), options={"bf": "0"}), 12, skip=0)
    assert "damaged frames at 0.40 s (Invalid data" in refused(path)
    video = read_video(path, allow_corrupt=True)
    assert "frames that are too damaged to be decoded are left out" in video.notes
    assert (video.total, video.end) == (23, 24 / NTSC)
    assert video.times[12] - video.times[11] == 2 / NTSC


# Failures of writing are found before an edit, or blamed on what causes them.


@pytest.mark.parametrize(
    ("by", "moved", "left_out"),
    [
        ({9: -22}, 1, 0),  # repeated
        ({9: -90}, 1, 0),
        ({9: -22, 10: -43, 11: -65}, 3, 0),
        ({9: 21}, 1, 0),
        ({9: -22, 10: -22, 11: -22}, 1, 0),
        (dict.fromkeys(range(9, 37), -44), 0, 2),  # all that follows is early
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_times_of_the_sound_are_repaired(
    tmp_path: Path, suffix: str, by: dict[int, int], moved: int, left_out: int
) -> None:
    path = clip(tmp_path / "a.mkv", pictures(24), sound=["aac"])
    before = heard(path)
    (note,) = copy(read_video(shift(path, 1, by)), tmp_path / f"b{suffix}")
    assert f"{moved} of its packets are moved" in note
    assert note.endswith(f"{left_out} are left out")
    after = {data: time for time, data in heard(tmp_path / f"b{suffix}")}
    assert len(after) == len(before) - left_out - (suffix == ".mkv")  # the first is from before the pictures
    assert all(abs(after[data] - time) < Fraction(68, 1000) for time, data in before if data in after)


def test_times_that_a_container_does_not_hold_are_found_before(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "a.mp4", pictures(3)))
    times = (Fraction(0), Fraction(1, 90000), Fraction(36000))
    slow = replace(video, times=times, end=times[-1] + 1, rate=None)
    assert "frames or times that it refuses" in not_written(tmp_path / "b.mp4", slow)
    copy(slow, tmp_path / "b.mkv")


@pytest.mark.parametrize(
    ("kind", "name", "blamed"),
    [
        (CopiedSound, "mux_to", "sound that .mp4 holds, got Invalid data; leave it out with --no-sound"),
        (VideoStream, "encode", "frames that libx264 takes, got Invalid data; choose another encoder"),
        (OutputContainer, "mux", "frames and sound that .mp4 holds, got Invalid data; write another kind"),
    ],
)
def test_who_is_to_blame(
    tmp_path: Path, kind: type, name: str, blamed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = read_video(clip(tmp_path / "a.mp4", sound=["aac"]))

    def fail(*_: Any) -> Any:
        raise InvalidDataError(1, "Invalid data")

    class Failing:
        """A stream or container of PyAV, whose classes cannot be changed."""

        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, attribute: str) -> Any:
            return fail if attribute == name else getattr(self._real, attribute)

    def write() -> None:
        with VideoWriter(tmp_path / "b.mp4", video) as writer:
            muxer: Any = writer._target
            if kind is CopiedSound:
                monkeypatch.setattr(kind, name, fail)
            elif kind is VideoStream:
                muxer._stream = Failing(muxer._stream)
            else:
                muxer._container = Failing(muxer._container)
            for frame in video.frames():
                writer.write(frame)

    assert blamed in one_line(write)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]
