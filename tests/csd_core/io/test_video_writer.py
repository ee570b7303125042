import resource
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from PIL import Image

from csd_core.errors import UserError
from csd_core.io.video_writer import VideoWriter
from csd_core.io.videos import read_video
from tests.csd_core.io.clips import (
    MILLI,
    NTSC,
    UNEVEN,
    apart,
    clip,
    copy,
    decoded,
    folder,
    not_written,
    pictures,
    stamps,
    write,
)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_a_video_is_written(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    source = clip(tmp_path / "a.mkv", pictures(12, *size), codec="ffv1", pixels="bgr0")
    video, output = read_video(source), tmp_path / "new" / f"b{suffix}"
    notes = copy(video, output)
    assert bool(notes) == (size == (33, 47) and suffix != ".webm")
    with av.open(output) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == ("vp9" if suffix == ".webm" else "h264")
        assert (stream.height, stream.width) == size
        even = "yuv420p" if size == (32, 48) or suffix == ".webm" else "yuv444p"
        assert stream.pix_fmt == even
        assert stream.guessed_rate == NTSC
    unit = Fraction(0) if suffix in (".mp4", ".mov") else MILLI / 2
    assert all(abs(a - b) <= unit for a, b in zip(stamps(output), video.times, strict=True))
    assert apart(decoded(output), pictures(12, *size)) < 4
    again = read_video(output)
    assert (again.rate, again.times, again.end) == (video.rate, video.times, video.end)


def test_a_folder_is_written(tmp_path: Path) -> None:
    video, output = read_video(clip(tmp_path / "a.mp4", sound=["aac"])), tmp_path / "new" / "frames"
    notes = copy(video, output)
    assert any("no sound" in note for note in notes)
    copy(video, output)  # over itself
    output.joinpath("00099.png").touch()
    copy(video, output)
    names = sorted(file.name for file in output.iterdir())
    assert names == [f"{k:05d}.png" for k in range(12)]
    written = [np.array(Image.open(output / name)) for name in names]
    np.testing.assert_array_equal(written, list(video.frames()))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.mp4", "new"]


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    video, output = read_video(clip(tmp_path / "a.mp4", pictures(2))), tmp_path / "frames"
    output.mkdir()
    (output / "diary.txt").write_text("dear")
    assert "'diary.txt'" in not_written(output, video)
    with pytest.raises(UserError, match=r"diary\.txt"), VideoWriter(output, video):
        pass
    (output / "diary.txt").unlink()
    meanwhile = partial((output / "diary.txt").write_text, "dear")
    with pytest.raises(UserError, match=r"diary\.txt"):
        write(output, video, video.frames(), meanwhile)
    assert [file.name for file in output.iterdir()] == ["diary.txt"]
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "file").touch()
    assert "got a file" in not_written(tmp_path / "file", video)
    source = read_video(folder(tmp_path / "in", pictures(2)))
    assert "numbered PNGs alone" in not_written(tmp_path / "in", source)
    for k in range(2):
        (tmp_path / "in" / f"f{k}.png").rename(tmp_path / "in" / f"{k}.png")
    assert "the input" in not_written(tmp_path / "in", read_video(tmp_path / "in"))
    assert "the input" in not_written(tmp_path / "in", read_video(tmp_path / "in" / "1.png"))


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "a.mp4", pictures(2)))
    assert "the input itself" in not_written(tmp_path / "a.mp4", video)
    expected = "one of .mp4 .mov .mkv .webm .gif .webp, or no suffix, got .wmv"
    assert expected in not_written(tmp_path / "b.wmv", video)
    for name in ("nope", "aac"):
        assert "--codec: expected a video encoder" in not_written(tmp_path / "b.mp4", video, codec=name)
    assert "it has no pixel format" in not_written(tmp_path / "b.mkv", video, codec="rawvideo")
    for output, codec in (("b.webm", "libx264"), ("b.mp4", "prores_ks"), ("b.webm", "ffv1")):
        assert "choose another with --codec" in not_written(tmp_path / output, video, codec=codec)
    assert "sides of at least 64" in not_written(tmp_path / "b.mp4", video, codec="libx265")
    assert "a number from 0 to 51" in not_written(tmp_path / "b.mp4", video, crf=52)
    assert "a number from 0 to 63" in not_written(tmp_path / "b.webm", video, crf=-1)
    assert "--crf: expected none" in not_written(tmp_path / "b.mkv", video, codec="ffv1", crf=3)
    for name in ("b.gif", "b.webp", "b"):
        assert "--crf" in not_written(tmp_path / name, video, crf=3)
        assert "--codec" in not_written(tmp_path / name, video, codec="libx264")
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]
    with pytest.raises(UserError, match="--codec"):
        VideoWriter(tmp_path / "b.mp4", video, codec="nope")


def test_a_writer_wants_the_frames_of_the_video(tmp_path: Path) -> None:
    video, output = read_video(clip(tmp_path / "a.mp4", pictures(2))), tmp_path / "b.mp4"
    with pytest.raises(ValueError, match="expected 2 frames, got 1"), VideoWriter(output, video) as writer:
        writer.write(pictures()[0])
    with VideoWriter(output, video) as writer:
        for wrong in (pictures()[0][:9], pictures()[0].astype(np.float32)):
            with pytest.raises(ValueError, match="expected uint8"):
                writer.write(wrong)
        for frame in pictures(2):
            writer.write(frame)
        with pytest.raises(ValueError, match="got another"):
            writer.write(pictures()[0])
    assert len(stamps(output)) == 2


@pytest.mark.parametrize("name", ["b.mp4", "b.webp", "b"])
def test_a_failure_leaves_the_old_output(tmp_path: Path, name: str) -> None:
    video, output = read_video(clip(tmp_path / "a.mp4", sound=["aac"])), tmp_path / name
    copy(video, output)
    before = output.read_bytes() if output.is_file() else sorted(output.iterdir())

    def stop() -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write(output, video, pictures(1), stop)
    assert (output.read_bytes() if output.is_file() else sorted(output.iterdir())) == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.mp4", name]


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


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_metadata_and_the_shape_of_pixels(tmp_path: Path, suffix: str) -> None:
    tags, output = {"title": "A täle", "comment": "none"}, tmp_path / f"b{suffix}"
    video = read_video(clip(tmp_path / "a.mp4", aspect=Fraction(4, 3), metadata=tags))
    assert video.aspect == Fraction(4, 3)
    notes = copy(video, output)
    with av.open(output) as container:
        assert {key.lower(): value for key, value in container.metadata.items()}.items() >= tags.items()
        if suffix == ".webm":
            assert "does not keep that pixels are not square" in notes[0]
        else:
            assert (notes, container.streams.video[0].sample_aspect_ratio) == ([], Fraction(4, 3))


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_the_index_comes_first(tmp_path: Path, suffix: str) -> None:
    video, output = read_video(clip(tmp_path / "a.mp4", sound=["aac"])), tmp_path / f"b{suffix}"
    copy(video, output)
    data = output.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


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


@pytest.mark.parametrize(
    ("suffix", "codec", "sound"), [(".mp4", "libx264", "aac"), (".webm", "libvpx-vp9", "libopus")]
)
def test_the_same_frames_become_the_same_bytes(tmp_path: Path, suffix: str, codec: str, sound: str) -> None:
    """So an edit that was resumed gives the same file."""
    video = read_video(clip(tmp_path / f"a{suffix}", pictures(30, 96, 160), codec=codec, sound=[sound]))
    written = set()
    for k in range(6):
        copy(video, tmp_path / f"{k}{suffix}")
        written.add((tmp_path / f"{k}{suffix}").read_bytes())
    assert len(written) == 1
