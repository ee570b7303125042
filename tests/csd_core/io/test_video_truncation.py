from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from csd_core.io.videos import read_video
from tests.csd_core.io.clips import clip, pictures, refused, save_animation


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
    for length in (len(data) // 3, len(data) * 2 // 3, len(data) - 20, len(data) - 12, len(data) - 1):
        path.write_bytes(data[:length])
        assert "cut off" in refused(path)
