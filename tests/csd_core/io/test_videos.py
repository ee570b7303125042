import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import av
import av.error
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from csd_core.errors import UserError
from csd_core.io import videos
from csd_core.io.images import Picture, write_picture
from csd_core.io.videos import Video, VideoWriter, check_can_write, open_masks, read_video

NTSC = Fraction(30000, 1001)
MILLI = Fraction(1, 1000)
UNEVEN = [Fraction(k, 1000) for k in (0, 40, 80, 200, 210, 333, 500, 540)]
SPACES = {"bt709": 1, "bt601": 6}


@pytest.fixture(autouse=True)
def silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Neither FFmpeg nor an encoder writes anything."""
    yield
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def pictures(count: int = 12, height: int = 32, width: int = 48) -> list[np.ndarray]:
    """Smooth frames, each brighter than the one before, uint8 (height, width, 3)."""
    y, x = np.mgrid[:height, :width]
    base = np.stack([x * 100 / width, y * 100 / height, 40 + 0 * x], axis=2)
    return [(base + k * 120 / max(count, 12)).astype(np.uint8) for k in range(count)]


def clip(
    path: Path,
    frames: Sequence[np.ndarray] | None = None,
    *,
    rate: Fraction | None = NTSC,
    times: list[Fraction] | None = None,
    end: Fraction | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    sound: Sequence[str] = (),
    sound_from: float = 0.0,
    space: int = 6,
    full: bool = False,
    tag: bool = True,
    rotation: int | None = None,
    mirror: bool = False,
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    language: str = "und",
    container_options: dict[str, str] | None = None,
) -> Path:
    """A video written by PyAV alone: by default lossy but fine, 12 frames of 48 x 32."""
    frames = pictures() if frames is None else frames
    unit = 1 / rate if rate else MILLI
    times = times or [k * unit for k in range(len(frames))]
    ends = [*times[1:], end or times[-1] + (1 / rate if rate else times[-1] - times[-2])]
    with av.open(path, "w", options=container_options) as container:
        container.metadata.update(metadata or {})
        stream: Any = container.add_stream(codec, rate=rate or 24, options=options or fine(codec))
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        context = stream.codec_context
        context.time_base, context.framerate = unit, rate or Fraction(0)
        context.max_b_frames = 0 if times[1:] and rate is None else context.max_b_frames
        context.sample_aspect_ratio = aspect or Fraction(1)
        if pixels in ("rgb24", "bgr0"):
            context.colorspace = 0
        elif tag:
            context.colorspace, context.color_range = space, 2 if full else 1
        if rotation is not None:
            stream.set_display_rotation(rotation, hflip=mirror)
        voices: list[Any] = [container.add_stream(name, rate=48000) for name in sound]
        for voice in voices:
            voice.metadata["language"] = language
        lengths = {round(a / unit): round((b - a) / unit) for a, b in zip(times, ends, strict=True)}
        for pixels_, time in zip([*frames], times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels_, "rgb24")
            if frame.format.name != pixels:
                frame = frame.reformat(
                    format=pixels,
                    dst_colorspace={1: 1, 6: 5}[space],
                    dst_color_range=2 if full else 1,
                    interpolation=videos._EXACT,
                )
            frame.pts, frame.time_base = round(time / unit), unit
            container.mux([longer(packet, lengths) for packet in stream.encode(frame)])
        container.mux([longer(packet, lengths) for packet in stream.encode()])
        for k, voice in enumerate(voices):
            sing(container, voice, float(ends[-1]), 440 + 110 * k, sound_from)
    return path


def fine(codec: str) -> dict[str, str]:
    return {"libx264": {"crf": "4", "preset": "veryfast"}, "libvpx-vp9": {"crf": "4", "cpu-used": "8"}}.get(
        codec, {}
    )


def longer(packet: Any, lengths: dict[int, int]) -> Any:
    packet.duration = lengths[packet.pts]
    return packet


def sing(container: Any, stream: Any, seconds: float, hertz: float, start: float) -> None:
    """A tone, not repetitive, so that no two packets are the same."""
    t = np.arange(int(48000 * seconds)) / 48000
    wave = (np.sin(2 * np.pi * hertz * t * (1 + t)) * 9000).astype(np.int16)
    context = stream.codec_context
    resampler = av.AudioResampler(context.format, context.layout, 48000, frame_size=context.frame_size or 960)
    tone = av.AudioFrame.from_ndarray(wave[None], "s16", "mono")
    tone.sample_rate, tone.pts, tone.time_base = 48000, round(start * 48000), Fraction(1, 48000)
    for part in [*resampler.resample(tone), *resampler.resample(None)]:
        container.mux(stream.encode(part))
    container.mux(stream.encode())


def stamps(path: Path) -> list[Fraction]:
    """Times of all frames, by PyAV alone."""
    with av.open(path) as container:
        return [frame.pts * frame.time_base for frame in cast(Any, container.decode(video=0))]


def heard(path: Path, k: int = 0) -> list[tuple[Fraction, bytes]]:
    """Packets of sound and when they are heard."""
    with av.open(path) as container:
        packets = container.demux(container.streams.audio[k])
        return [(p.pts * p.time_base, bytes(p)) for p in packets if p.pts is not None and p.size]


def decoded(path: Path, **colours: Any) -> list[np.ndarray]:
    """Pixels by PyAV alone."""
    with av.open(path) as container:
        return [f.to_ndarray(format="rgb24", **colours) for f in container.decode(video=0)]


def copy(video: Video, output: Path, **settings: Any) -> list[str]:
    """Write the frames as they are; what check_can_write says."""
    notes = check_can_write(output, video, **settings)
    with VideoWriter(output, video, **settings) as writer:
        for frame in video.frames():
            writer.write(frame)
    assert [file for file in output.parent.iterdir() if file.name.startswith(".")] == []
    return notes


def write(output: Path, video: Video, frames: Iterable[np.ndarray], then: Callable[[], Any] = str) -> None:
    """Write frames, and do something before the writer is done."""
    with VideoWriter(output, video) as writer:
        for frame in frames:
            writer.write(frame)
        then()


def apart(one: Any, other: Any) -> float:
    """Mean difference of levels."""
    return float(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).mean())


def refused(path: Path, **settings: Any) -> str:
    """The one line that read_video says."""
    with pytest.raises(UserError) as error:
        read_video(path, **settings)
    assert ": expected " in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def not_written(output: Path, video: Video, **settings: Any) -> str:
    """The one line that check_can_write says."""
    with pytest.raises(UserError) as error:
        check_can_write(output, video, **settings)
    assert ": expected " in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


# Reading


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mov", "libx264", "yuv444p"),
        ("a.mkv", "libx264", "yuv420p"),
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
    assert video.rate == NTSC
    assert video.times == tuple(k / NTSC for k in range(12))
    assert video.end == 12 / NTSC
    assert video.indices == tuple(range(12))
    assert not video.has_sound
    assert video.aspect == 1
    assert video.notes == ()
    for _ in range(2):  # from the beginning again
        frames = list(video.frames())
        assert [(f.shape, f.dtype) for f in frames] == [((32, 48, 3), np.uint8)] * 12
        assert apart(frames, pictures()) < 4


@pytest.mark.parametrize(
    "rate", [Fraction(24), Fraction(25), Fraction(24000, 1001), Fraction(60), Fraction(15, 2)]
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_rates_are_exact(tmp_path: Path, rate: Fraction, suffix: str) -> None:
    video = read_video(clip(tmp_path / f"a{suffix}", rate=rate))
    expected = None if (suffix, rate) == (".mkv", Fraction(15, 2)) else rate
    assert video.rate == (expected or video.rate)
    assert all(abs(a - b) < MILLI for a, b in zip(video.times, (k / rate for k in range(12)), strict=True))


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mp4", "libx264"), (".mov", "libx264"), (".mkv", "libx264"), (".webm", "libvpx-vp9")],
)
def test_times_that_vary(tmp_path: Path, suffix: str, codec: str) -> None:
    path = clip(tmp_path / f"a{suffix}", pictures(8), rate=None, times=UNEVEN, end=Fraction(1), codec=codec)
    video = read_video(path)
    assert video.rate is None
    assert video.times == tuple(UNEVEN)
    assert video.end == 1
    part = read_video(path, frames=slice(3, 7, 2))
    assert part.times == (0, Fraction(133, 1000))
    assert part.end == Fraction(540 - 200, 1000)
    assert (part.start, part.sound_from, part.sound_to) == (Fraction(200, 1000),) * 2 + (Fraction(540, 1000),)


@pytest.mark.parametrize(
    ("frames", "indices"),
    [
        (slice(None), range(12)),
        (slice(2, 5), range(2, 5)),
        (slice(None, None, 2), range(0, 12, 2)),
        (slice(1, None, 5), range(1, 12, 5)),
        (slice(10, 99), range(10, 12)),
        (slice(-3, None), range(9, 12)),
        (slice(3, 4), range(3, 4)),
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


def test_frames_are_decoded_when_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    real = videos._upright

    def upright(*args: Any) -> Any:
        counted.append(1)
        return real(*args)

    tiny = [np.full((16, 16, 3), k % 200, np.uint8) for k in range(300)]
    video = read_video(clip(tmp_path / "a.mp4", tiny))
    assert video.num_frames == 300
    monkeypatch.setattr(videos, "_upright", upright)
    frames = video.frames()
    assert not counted
    next(frames)
    assert len(counted) == 1
    cast(Any, frames).close()
    list(read_video(video.path, frames=slice(0, 5)).frames())
    assert len(counted) == 1 + 300 + 5  # nothing behind the last one that is wanted


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_rotation_is_applied(tmp_path: Path, rotation: int, mirror: bool) -> None:
    frames = pictures(2)
    path = clip(tmp_path / "a.mp4", frames, rotation=rotation, mirror=mirror, aspect=Fraction(4, 3))
    video = read_video(path)
    turned = [np.rot90(frame, rotation // 90) for frame in frames]
    turned = [frame[:, ::-1] for frame in turned] if mirror else turned
    assert video.size == turned[0].shape[:2]
    assert apart(list(video.frames()), turned) < 4
    assert video.aspect == (Fraction(3, 4) if rotation % 180 else Fraction(4, 3))
    copy(video, tmp_path / "b.mp4")
    with av.open(tmp_path / "b.mp4") as container:
        frame = next(container.decode(video=0))
        assert (frame.height, frame.width, frame.rotation) == (*video.size, 0)
        assert container.streams.video[0].sample_aspect_ratio == video.aspect


def save_animation(path: Path, frames: list[Image.Image], lengths: list[int]) -> Path:
    lossless: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=lengths, **lossless)
    return path


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animations(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(frame).quantize(200).convert("RGB") for frame in pictures(4)]
    path = save_animation(tmp_path / f"a{suffix}", frames, [100, 50, 70, 300])
    video = read_video(path)
    assert video.times == tuple(Fraction(k, 100) for k in (0, 10, 15, 22))
    assert (video.end, video.rate, video.notes) == (Fraction(52, 100), None, ())
    assert apart(list(video.frames()), [np.array(frame) for frame in frames]) < 1


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_what_is_transparent_becomes_white(tmp_path: Path, suffix: str) -> None:
    clear = [np.dstack([frame, np.full((32, 48), 255, np.uint8)]) for frame in pictures(3)]
    clear[2][:, :9, 3] = 0
    clear[2][:, 9:20, 3] = 100
    path = save_animation(tmp_path / f"a{suffix}", [Image.fromarray(frame) for frame in clear], [100] * 3)
    video = read_video(path)
    assert video.notes == ("what is transparent becomes white",)
    last = list(video.frames())[2]
    assert (last[:, :9] == 255).all()
    np.testing.assert_allclose(last[:, 9:20], pictures(3)[2][:, 9:20] * (100 / 255) + 155, atol=1)
    assert apart(last[:, 20:], pictures(3)[2][:, 20:]) < 2
    assert video.notes[0] in check_can_write(tmp_path / "b.mp4", video)


def test_a_gif_with_a_clear_ground(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (48, 32)) for _ in range(3)]
    for k, frame in enumerate(frames):
        frame.paste((200, 10, 10, 255), (k * 8, 0, k * 8 + 8, 32))
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100, disposal=2)
    last = list(read_video(tmp_path / "a.gif").frames())[2]
    assert last[0, 17].tolist() == [200, 10, 10]
    assert (last[:, 24:] == 255).all()


def folder(path: Path, frames: Sequence[np.ndarray], suffix: str = ".png") -> Path:
    path.mkdir()
    for k, frame in enumerate(frames):
        write_picture(path / f"f{k}{suffix}", Picture(frame))
    return path


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    path = folder(tmp_path / "in", pictures())
    (path / "notes.txt").write_text("none")
    write_picture(path / ".hidden.png", Picture(pictures()[0][:9]))
    (path / "deeper.png").mkdir()
    video = read_video(path, frames=slice(1, 11, 3))
    np.testing.assert_array_equal(list(video.frames()), pictures()[1:11:3])  # 2 is before 10
    assert (video.total, video.rate, video.end) == (12, 8, Fraction(11, 24))
    assert "a folder has no times: 24 frames per second are assumed" in video.notes


def test_pictures_of_16_bits_and_with_alpha(tmp_path: Path) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(3, axis=2)
    path = tmp_path / "in"
    path.mkdir()
    write_picture(path / "1.png", Picture(levels))
    write_picture(path / "2.tif", Picture(levels, alpha=np.full((256, 256), 65535, np.uint16)))
    write_picture(path / "3.png", Picture(levels, alpha=np.zeros((256, 256), np.uint16)))
    video = read_video(path)
    plain, opaque, clear = video.frames()
    np.testing.assert_array_equal(plain, np.rint(levels / 257))
    np.testing.assert_array_equal(opaque, plain)
    assert (clear == 255).all()
    assert "what is transparent becomes white" in video.notes


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".jpg", ".gif", ".bmp"])
def test_a_still_picture_is_one_frame(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(pictures()[0]).save(tmp_path / f"a{suffix}")
    video = read_video(tmp_path / f"a{suffix}")
    assert (video.num_frames, video.size, video.times) == (1, (32, 48), (0,))
    assert video.end > 0
    assert apart(next(video.frames()), pictures()[0]) < 5


# Bad input


def test_what_is_no_video(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "a.mp4")
    (tmp_path / "a.mp4").touch()
    assert "an empty file" in refused(tmp_path / "a.mp4")
    for name in ("a.txt", "b.mp4", "c", "d.webp", "e.png", "f.gif"):
        (tmp_path / name).write_text("a text\n" * 200)
        assert "expected a" in refused(tmp_path / name)
    (tmp_path / "g.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\na.mp4\n#EXT-X-ENDLIST\n")
    assert "expected a" in refused(tmp_path / "g.m3u8")
    (tmp_path / "empty").mkdir()
    assert "expected pictures" in refused(tmp_path / "empty")


def test_sound_and_covers_are_no_video(tmp_path: Path) -> None:
    with av.open(tmp_path / "a.m4a", "w", format="mp4") as container:
        sing(container, container.add_stream("aac", rate=48000), 0.3, 440, 0)
    assert "sound or a cover alone" in refused(tmp_path / "a.m4a")
    with av.open(tmp_path / "b.m4a", "w", format="mp4") as container:
        voice = container.add_stream("aac", rate=48000)
        cover: Any = container.add_stream("mjpeg")
        cover.height, cover.width, cover.pix_fmt = 32, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(pictures()[0], "rgb24")))
        container.mux(cover.encode())
        sing(container, voice, 0.3, 440, 0)
    assert "sound or a cover alone" in refused(tmp_path / "b.m4a")


@pytest.mark.parametrize(
    ("name", "codec", "sound", "options"),
    [
        ("a.mp4", "libx264", "aac", {}),
        ("a.mp4", "libx264", "aac", {"movflags": "faststart"}),
        ("a.mp4", "libx264", "", {"movflags": "faststart"}),
        ("a.mp4", "libx264", "aac", {"movflags": "frag_keyframe+empty_moov"}),
        ("a.mkv", "libx264", "aac", {}),
        ("a.mkv", "ffv1", "", {}),
        ("a.webm", "libvpx-vp9", "libopus", {}),
        ("a.avi", "mpeg4", "", {}),
    ],
)
def test_a_file_that_is_cut_off(
    tmp_path: Path, name: str, codec: str, sound: str, options: dict[str, str]
) -> None:
    noise = list(np.random.default_rng(0).integers(0, 256, (48, 32, 48, 3), dtype=np.uint8))
    path = clip(
        tmp_path / name, noise, codec=codec, sound=[sound] if sound else [], container_options=options
    )
    assert read_video(path).total == 48
    data = path.read_bytes()
    for part in (0.3, 0.6, 0.8):
        path.write_bytes(data[: int(len(data) * part)])
        assert "cut off" in refused(path)


def test_a_stream_that_does_not_know_its_size(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mkv", container_options={"live": "1"})
    assert read_video(path).total == 12


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_an_animation_that_is_cut_off(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(frame) for frame in pictures(4)]
    path = save_animation(tmp_path / f"a{suffix}", frames, [100] * 4)
    data = path.read_bytes()
    for length in (len(data) // 3, len(data) * 2 // 3, len(data) - 20):
        path.write_bytes(data[:length])
        assert "cut off" in refused(path)


def test_damage_inside_a_file(tmp_path: Path) -> None:
    noise = list(np.random.default_rng(0).integers(0, 256, (12, 32, 48, 3), dtype=np.uint8))
    path = clip(tmp_path / "a.mp4", noise)
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    path.write_bytes(data)
    assert "damaged" in refused(path)


def test_frames_of_different_sizes(tmp_path: Path) -> None:
    path = folder(tmp_path / "in", pictures(3))
    write_picture(path / "f1.png", Picture(pictures()[0][:20]))
    said = refused(path)
    assert "48x32 in f0.png and 48x20 in f1.png" in said
    small, large = clip(tmp_path / "a.ts", pictures(3)), clip(tmp_path / "b.ts", pictures(3, 64, 64))
    (tmp_path / "c.ts").write_bytes(small.read_bytes() + large.read_bytes())
    assert "48x32 in frame 0 and 64x64 in frame 3" in refused(tmp_path / "c.ts")


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip(tmp_path / "a.mp4")
    assert "48x32, 1536 pixels, more than the limit of 1535; raise it with --max-pixels" in refused(
        path, max_pixels=1535
    )
    assert read_video(path, max_pixels=1536, max_frames=12).total == 12
    assert "--max-frames" in refused(path, max_frames=11)
    assert "--frames" in refused(path, max_frames=11)
    assert read_video(path, frames=slice(1, None), max_frames=11).num_frames == 11
    assert read_video(path, frames=slice(-5, 10), max_frames=3).num_frames == 3
    counted = []
    real = videos._upright
    monkeypatch.setattr(videos, "_upright", lambda *args: (counted.append(1), real(*args))[1])
    refused(path, max_frames=2)
    assert len(counted) == 3
    for suffix in (".webp", ".gif"):
        save_animation(tmp_path / f"a{suffix}", [Image.fromarray(f) for f in pictures(2)], [100] * 2)
        assert "--max-pixels" in refused(tmp_path / f"a{suffix}", max_pixels=1535)
    assert "--max-pixels" in refused(folder(tmp_path / "in", pictures(2)), max_pixels=1535)


def test_an_empty_selection(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", pictures(5))
    assert "got 10:20 of 5 frames" in refused(path, frames=slice(10, 20))
    assert "got 3:3:2 of 5 frames" in refused(path, frames=slice(3, 3, 2))
    assert "--frames" in refused(path, frames=slice(None, None, -1))


def test_a_file_that_changes_meanwhile(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "a.mp4"))
    clip(tmp_path / "a.mp4", pictures(5))
    with pytest.raises(UserError, match="expected 12 frames as before"):
        list(video.frames())
    clip(tmp_path / "a.mp4", pictures(12, 16, 16))
    with pytest.raises(UserError, match="expected 48x32, got 16x16"):
        list(video.frames())


# Writing


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


def test_the_quality(tmp_path: Path) -> None:
    noise = list(np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype=np.uint8))
    video = read_video(folder(tmp_path / "in", noise))
    sizes = []
    for crf in (0, 18, None, 40):
        copy(video, tmp_path / "a.mp4", crf=crf)
        sizes.append((tmp_path / "a.mp4").stat().st_size)
    assert sizes[0] > sizes[1] == sizes[2] > sizes[3]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_varying_times_are_kept(tmp_path: Path, suffix: str) -> None:
    source = clip(tmp_path / "a.mp4", pictures(8), rate=None, times=UNEVEN, end=Fraction(1))
    video, output = read_video(source), tmp_path / f"b{suffix}"
    copy(video, output)
    assert stamps(output) == UNEVEN
    again = read_video(output)
    assert (again.times, again.end, again.rate) == (video.times, video.end, None)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_last_frame_that_lasts(tmp_path: Path, suffix: str) -> None:
    times = [Fraction(k, 25) for k in range(6)]
    source = clip(tmp_path / "a.mp4", pictures(6), rate=None, times=times, end=Fraction(2))
    video = read_video(source)
    assert (video.rate, video.end) == (25, 2)
    copy(video, tmp_path / f"b{suffix}")
    again = read_video(tmp_path / f"b{suffix}")
    assert (again.rate, again.end, again.times) == (25, 2, tuple(times))


def test_every_second_frame_has_half_the_rate(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", rate=Fraction(30))
    copy(read_video(path, frames=slice(4, None, 2)), tmp_path / "b.mp4")
    assert stamps(tmp_path / "b.mp4") == [Fraction(k, 15) for k in range(4)]
    with av.open(tmp_path / "b.mp4") as container:
        assert container.streams.video[0].average_rate == 15


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


def test_the_input_is_not_overwritten(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "a.mp4", pictures(2)))
    assert "the input itself" in not_written(tmp_path / "a.mp4", video)
    (tmp_path / "b.mp4").mkdir()
    assert "got a folder" in not_written(tmp_path / "b.mp4", video)


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "a.mp4", pictures(2)))
    assert "one of .mp4 .mov .mkv .webm .gif .webp, or no suffix, got .wmv" in not_written(
        tmp_path / "b.wmv", video
    )
    for name in ("nope", "aac"):
        said = not_written(tmp_path / "b.mp4", video, codec=name)
        assert said.startswith("--codec: expected a video encoder")
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


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv", "b.gif", "b.webp", "b"])
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
    plan, sink = cast(Any, None), videos._Sink(cast(Any, None))
    full = av.error.OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space left") as error, videos._encoding(tmp_path, plan, sink):
        raise full
    assert type(error.value) is OSError


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


# Colours

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


# Sound


@pytest.mark.parametrize(
    ("source", "codec", "sound", "output"),
    [
        ("a.mp4", "libx264", "aac", "b.mp4"),
        ("a.mp4", "libx264", "aac", "b.mov"),
        ("a.mp4", "libx264", "aac", "b.mkv"),
        ("a.mkv", "libx264", "flac", "b.mkv"),
        ("a.mkv", "libx264", "flac", "b.mp4"),
        ("a.webm", "libvpx-vp9", "libopus", "b.webm"),
        ("a.webm", "libvpx-vp9", "libopus", "b.mp4"),
        ("a.mkv", "libx264", "libmp3lame", "b.mp4"),
        ("a.mov", "libx264", "pcm_s16le", "b.mov"),
    ],
)
def test_sound_is_copied(tmp_path: Path, source: str, codec: str, sound: str, output: str) -> None:
    path = clip(tmp_path / source, pictures(24), codec=codec, sound=[sound, sound])
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
    copy(video, tmp_path / output, sound=False)
    with av.open(tmp_path / output) as container:
        assert not container.streams.audio


def heard_apart(before: Any, after: Any) -> Fraction:
    return max(abs(one - other) for (one, _), (other, _) in zip(before, after, strict=True))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_that_begins_later(tmp_path: Path, suffix: str) -> None:
    path = clip(tmp_path / f"a{suffix}", pictures(24), sound=["flac"], sound_from=0.25)
    assert abs(heard(path)[0][0] - Fraction(1, 4)) <= MILLI
    copy(read_video(path), tmp_path / f"b{suffix}")
    assert heard_apart(heard(path), heard(tmp_path / f"b{suffix}")) <= MILLI


@pytest.mark.parametrize("output", ["b.mp4", "b.mkv"])
@pytest.mark.parametrize("frames", [slice(6, 18), slice(6, None), slice(None, 12), slice(6, 18, 3)])
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
    said = not_written(tmp_path / "b.webm", video)
    assert (
        "expected sound that .webm holds, got aac; write a .mkv, or leave the sound out with --no-sound"
        in said
    )
    copy(video, tmp_path / "b.webm", sound=False)


def test_the_language_of_the_sound(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", sound=["aac"], language="deu")
    for suffix in (".mp4", ".mkv"):
        copy(read_video(path), tmp_path / f"b{suffix}")
        with av.open(tmp_path / f"b{suffix}") as container:
            assert container.streams.audio[0].metadata["language"] in ("deu", "ger")


# Masks


def levels(count: int = 12) -> list[np.ndarray]:
    """A white bar that moves over black."""
    masks = [np.zeros((32, 48, 3), np.uint8) for _ in range(count)]
    for k, mask in enumerate(masks):
        mask[:, 2 * k : 2 * k + 16] = 255
    return masks


def test_a_still_mask_repeats(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "a.mp4"), frames=slice(3, 8))
    for name in ("mask.png", "mask.gif", "mask.webp"):
        Image.fromarray(levels()[0]).save(tmp_path / name, lossless=True)
        masks = open_masks(tmp_path / name, video)
        assert masks.still
        for _ in range(2):
            np.testing.assert_array_equal(list(masks), [levels()[0][..., 0] / np.float32(255)] * 5)
        assert next(iter(masks)).dtype == np.float32


def test_moving_masks(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "a.mp4"), frames=slice(3, 9, 2))
    expected = np.array([mask[..., 0] for mask in levels()[3:9:2]]) / np.float32(255)
    whole = [
        folder(tmp_path / "whole", levels()),
        clip(tmp_path / "whole.mkv", levels(), codec="ffv1", pixels="bgr0"),
    ]
    part = [folder(tmp_path / "part", levels()[3:9:2]), clip(tmp_path / "part.mp4", levels()[3:9:2])]
    for path in (*whole, *part):
        masks = open_masks(path, video)
        assert not masks.still
        for _ in range(2):
            found = list(masks)
            assert {mask.dtype for mask in found} == {np.dtype(np.float32)}
            assert [mask.shape for mask in found] == [(32, 48)] * 3
            if path.suffix != ".mp4":
                np.testing.assert_array_equal(found, expected)
            else:
                assert np.abs(np.array(found) - expected).mean() < 0.02
                assert (np.array(found)[:, :, 40:] == 0).all()  # free of noise
                assert (np.array(found) <= 1).all()


def test_masks_of_a_lossy_video_are_cleared_of_noise(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "a.mp4", pictures(2)))
    noisy = [np.where(mask == 255, 252, 3).astype(np.uint8) for mask in levels(2)]
    noisy[0][:4] = 100
    path = clip(tmp_path / "b.mp4", noisy, codec="libx264rgb", pixels="rgb24", options={"crf": "0"})
    first, second = open_masks(path, video)
    assert (first[:4] == np.float32(100) / np.float32(255)).all()
    np.testing.assert_array_equal(second, levels(2)[1][..., 0] / 255)
    exact = clip(tmp_path / "c.mkv", noisy, codec="ffv1", pixels="bgr0")
    assert next(iter(open_masks(exact, video))).max() == np.float32(252) / np.float32(255)


def test_a_mask_of_one_frame_may_be_black(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "a.mp4", pictures(3)))
    path = folder(tmp_path / "masks", [np.zeros((32, 48, 3), np.uint8), *levels(2)])
    assert not next(iter(open_masks(path, video))).any()
    clear = np.dstack([np.full((32, 48, 3), 255, np.uint8), levels(1)[0][..., 0]])
    Image.fromarray(clear).save(path / "f0.png")
    np.testing.assert_array_equal(next(iter(open_masks(path, video))), levels(1)[0][..., 0] / 255)


def no_masks(path: Path, video: Video, **settings: Any) -> str:
    with pytest.raises(UserError) as error:
        open_masks(path, video, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


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


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    video = read_video(clip(tmp_path / "a.mp4"), frames=slice(0, 4))
    path = clip(tmp_path / "b.mp4", pictures(12, 16, 16))
    assert "expected 48x32 as the video, got 16x16" in no_masks(path, video)
    Image.fromarray(levels()[0][:20]).save(tmp_path / "c.png")
    assert "expected 48x32" in no_masks(tmp_path / "c.png", video)
    for count in (5, 13):
        path = folder(tmp_path / f"masks{count}", levels(count))
        said = no_masks(path, video)
        assert f"12 masks, one for each frame of the video, or 4 for those selected, got {count}" in said
    path = folder(tmp_path / "black", [np.zeros((32, 48, 3), np.uint8)] * 4)
    assert "white where to edit" in no_masks(path, video)
    assert "no such file" in no_masks(tmp_path / "none.png", video)
    assert "--max-pixels" in no_masks(path, video, max_pixels=9)
