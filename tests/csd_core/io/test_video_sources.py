from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from csd_core.errors import UserError
from csd_core.io.images import Picture, write_picture
from csd_core.io.video_writer import check_can_write
from csd_core.io.videos import read_video
from tests.csd_core.io.clips import apart, clip, copy, folder, pictures, refused, save_animation, sing


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


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    path = folder(tmp_path / "in", pictures())
    (path / "notes.txt").write_text("none")
    write_picture(path / ".hidden.png", Picture(pictures()[0][:9]))
    (path / "deeper.png").mkdir()
    video = read_video(path, frames=slice(1, 11, 3))
    np.testing.assert_array_equal(list(video.frames()), pictures()[1:11:3])  # 2 is before 10
    assert (video.total, video.rate, video.end) == (12, 8, Fraction(11, 24))
    assert "a folder has no times: 24 frames per second are assumed; --frame-rate sets them" in video.notes


def test_pictures_of_16_bits_and_with_alpha(tmp_path: Path) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(3, axis=2)
    write_picture(tmp_path / "1.png", Picture(levels))
    write_picture(tmp_path / "2.png", Picture(levels, alpha=np.zeros((256, 256), np.uint16)))
    video = read_video(tmp_path)
    plain, clear = video.frames()
    np.testing.assert_array_equal(plain, np.rint(levels / 257))
    assert (clear == 255).all()
    assert "what is transparent becomes white" in video.notes


@pytest.mark.parametrize("suffix", [".png", ".gif", ".bmp"])
def test_a_still_picture_is_one_frame(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(pictures()[0]).save(tmp_path / f"a{suffix}")
    video = read_video(tmp_path / f"a{suffix}")
    assert (video.num_frames, video.size, video.times) == (1, (32, 48), (0,))
    assert video.end > 0
    assert apart(next(video.frames()), pictures()[0]) < 5


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
        voice = container.add_stream("aac", rate=48000)
        cover: Any = container.add_stream("mjpeg")
        cover.height, cover.width, cover.pix_fmt = 32, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(pictures()[0], "rgb24")))
        container.mux(cover.encode())
        sing(container, voice, 0.3, 440, 0)
    assert "sound or a cover alone" in refused(tmp_path / "a.m4a")


def test_damage_inside_a_file(tmp_path: Path) -> None:
    noise = list(np.random.default_rng(0).integers(0, 256, (12, 32, 48, 3), dtype=np.uint8))
    path = clip(tmp_path / "a.mp4", noise)
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    path.write_bytes(data)
    assert "damaged" in refused(path)


@pytest.mark.parametrize(
    ("name", "codec", "sound", "options"),
    [
        ("a.mp4", "libx264", ["aac"], {}),
        ("a.mp4", "libx264", ["aac"], {"movflags": "faststart"}),
        ("a.mp4", "libx264", [], {"movflags": "faststart"}),
        ("a.mp4", "libx264", ["aac"], {"movflags": "frag_keyframe+empty_moov"}),
        ("a.mkv", "libx264", ["aac"], {}),
        ("a.mov", "libx264", [], {"movflags": "faststart"}),
        ("a.webm", "libvpx-vp9", ["libopus"], {}),
        ("a.avi", "mpeg4", [], {}),
    ],
)
def test_a_file_that_is_cut_off(
    tmp_path: Path, name: str, codec: str, sound: list[str], options: dict[str, str]
) -> None:
    noise = list(np.random.default_rng(0).integers(0, 256, (48, 32, 48, 3), dtype=np.uint8))
    path = clip(tmp_path / name, noise, codec=codec, sound=sound, container_options=options)
    assert read_video(path).total == 48
    data = path.read_bytes()
    for part in (0.3, 0.6, 0.8):
        path.write_bytes(data[: int(len(data) * part)])
        assert "cut off" in refused(path)


def test_a_stream_that_does_not_know_its_size(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mkv", container_options={"live": "1"})
    assert read_video(path).total == 12


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_an_animation_that_is_cut_off_is_read_whole_or_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(frame) for frame in pictures(4, 8, 12)]
    path = save_animation(tmp_path / f"a{suffix}", frames, [100] * 4)
    data, whole = path.read_bytes(), list(read_video(path).frames())
    for length in (*range(20, len(data), 7), *range(len(data) - 40, len(data))):
        path.write_bytes(data[:length])
        with suppress(UserError):  # an APNG may lose what follows its pixels
            np.testing.assert_array_equal(list(read_video(path).frames()), whole)
    for length in (len(data) // 2, len(data) - 21):
        path.write_bytes(data[:length])
        assert "cut off" in refused(path)


def test_an_animation_with_a_picture_for_other_programs(tmp_path: Path) -> None:
    frames = [Image.fromarray(frame) for frame in pictures(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], default_image=True)
    np.testing.assert_array_equal(list(read_video(tmp_path / "a.png").frames()), pictures(3)[1:])
