import errno
import os
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import av
import av.error
import numpy as np
import pytest
from PIL import Image

from csd_core.errors import UserError
from csd_core.io import video_muxer
from csd_core.io.video_writer import check_can_write
from csd_core.io.videos import read_video
from tests.csd_core.io.clips import (
    UNEVEN,
    apart,
    clip,
    copy,
    decoded,
    folder,
    pictures,
    stamps,
    write,
)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_an_animation_is_written(tmp_path: Path, suffix: str) -> None:
    source = clip(tmp_path / "a.mp4", pictures(8), rate=None, times=UNEVEN, end=Fraction(1), sound=["aac"])
    video, output = read_video(source), tmp_path / f"b{suffix}"
    notes = copy(video, output)
    assert any("no sound" in note for note in notes)
    assert any("rounded" in note for note in notes) == (suffix == ".gif")
    with Image.open(output) as image:
        lengths, frames = [], []
        for k in range(8):
            image.seek(k)
            image.load()
            lengths.append(int(image.info["duration"]))
            frames.append(np.array(image.convert("RGB")))
        assert cast(Any, image).n_frames == 8
        assert image.info["loop"] == 0
    unit = 10 if suffix == ".gif" else 1
    ticks = [round(float(time) * 1000 / unit) for time in (*UNEVEN, Fraction(1))]
    if suffix == ".gif":
        ticks[4] += 1  # less than 2/100 s is not shown
    assert lengths == [(b - a) * unit for a, b in pairwise(ticks)]
    assert apart(frames, list(video.frames())) < 5


def test_a_gif_that_is_too_fast(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "a.mp4", rate=Fraction(100)))
    assert any("slower" in note for note in copy(video, tmp_path / "b.gif"))
    assert stamps(tmp_path / "b.gif") == [Fraction(k, 50) for k in range(12)]


def test_metadata(tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mp4", metadata={"title": "A täle", "comment": "none"})
    for name in ("b.mp4", "b.mkv", "b.webm"):
        copy(read_video(source), tmp_path / name)
        with av.open(tmp_path / name) as container:
            told = {key.lower(): value for key, value in container.metadata.items()}
        assert (told["title"], told["comment"]) == ("A täle", "none")


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_pixels_that_are_not_square(tmp_path: Path, suffix: str) -> None:
    video = read_video(clip(tmp_path / "a.mp4", aspect=Fraction(4, 3)))
    assert video.aspect == Fraction(4, 3)
    assert copy(video, tmp_path / f"b{suffix}") == []
    with av.open(tmp_path / f"b{suffix}") as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


def test_pixels_that_become_square(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "a.mp4", aspect=Fraction(4, 3)))
    assert "does not keep that pixels are not square" in check_can_write(tmp_path / "b.webm", video)[0]


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_the_index_comes_first(tmp_path: Path, suffix: str) -> None:
    video, output = read_video(clip(tmp_path / "a.mp4", sound=["aac"])), tmp_path / f"b{suffix}"
    copy(video, output)
    data = output.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    assert apart(decoded(output), list(video.frames())) < 4


class Full:
    """A file on a disk that is full after some bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: Any) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 3000, 60_000])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".webp"])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, room: int) -> None:
    noise = list(np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), dtype=np.uint8))
    video, output = read_video(folder(tmp_path / "in", noise)), tmp_path / f"b{suffix}"
    output.write_text("old")
    real = Path.open

    def opened(path: Path, mode: str = "r", *args: Any, **settings: Any) -> Any:
        file = real(path, mode, *args, **settings)
        return Full(file, room) if mode == "w+b" else file

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(OSError, match="No space left") as error:
        write(output, video, noise)
    assert error.value.errno == errno.ENOSPC
    assert not isinstance(error.value, UserError)
    monkeypatch.undo()
    assert output.read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir()) == [output.name, "in"]


def test_what_ffmpeg_says_of_a_full_disk(tmp_path: Path) -> None:
    plan, sink = cast(Any, None), video_muxer._Sink(cast(Any, None))
    full = av.error.OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space left") as error, video_muxer._encoding(tmp_path, plan, sink):
        raise full
    assert type(error.value) is OSError


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_the_same_frames_become_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    """So an edit that was resumed gives the same file."""
    sound = ["aac"] if suffix == ".mp4" else ["libopus"]
    video = read_video(
        clip(
            tmp_path / f"a{suffix}",
            pictures(30, 96, 160),
            codec="libx264" if suffix == ".mp4" else "libvpx-vp9",
            sound=sound,
        )
    )
    written = set()
    for k in range(6):
        copy(video, tmp_path / f"{k}{suffix}")
        written.add((tmp_path / f"{k}{suffix}").read_bytes())
    assert len(written) == 1
