import resource
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import av
import av.error
import numpy as np
import pytest
from PIL import Image

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
    if suffix == ".webp":  # its encoder gives the last frame the mean of the others
        lengths[-1] = ticks[-1] - ticks[-2]
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


@contextmanager
def limited(room: int) -> Iterator[None]:
    """No file may be longer than this: what FFmpeg meets is what it meets on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 40_000])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".webp"])
def test_a_full_disk(tmp_path: Path, suffix: str, room: int) -> None:
    noise = list(np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), dtype=np.uint8))
    video, output = read_video(folder(tmp_path / "in", noise)), tmp_path / f"b{suffix}"
    output.write_text("old")
    with limited(room), pytest.raises(OSError, match="File too large") as error:
        write(output, video, noise)
    assert type(error.value) is OSError
    assert output.read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir()) == [output.name, "in"]


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
