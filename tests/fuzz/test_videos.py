"""Videos and animations that are damaged: an edit that is right, or one line."""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from csd_core.cli.video import VideoOptions, edit_video
from csd_core.io.videos import read_video
from tests.csd_core.io.clips import clip, levels, pictures, save_animation
from tests.fuzz.mutations import damaged
from tests.fuzz.outcome import Fuzzed, Outcome

NUM_FRAMES, HEIGHT, WIDTH = 3, 32, 48
NAMES = [
    "sound.mp4",
    "sound.mkv",
    "vp9.webm",
    "h264.ts",
    "exact.mkv",
    "moving.gif",
    "moving.webp",
    "moving.png",
]


@cache
def whole(name: str) -> bytes:
    """A valid file of three frames."""
    frames = pictures(NUM_FRAMES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if name.startswith("moving"):
            save_animation(path, [Image.fromarray(frame) for frame in frames], [40] * NUM_FRAMES)
        elif name == "exact.mkv":
            clip(path, frames, codec="ffv1", pixels="bgr0")
        elif name == "vp9.webm":
            clip(path, frames, codec="libvpx-vp9")
        else:
            clip(path, frames, sound=["aac"] if name.startswith("sound") else [])
        return path.read_bytes()


def edit(fuzzed: Fuzzed, model: Path, video: Path, output: str, *options: object) -> tuple[Outcome, Path]:
    """A step of csd-edit-video."""
    path = fuzzed.folder / "out" / output
    args = ["--video", video, "--output", path, "--model", model, "--device", "cpu", "--num-steps", 1]
    args += ["--prompt", "make it red", "--max-frames", 50]
    return fuzzed.run(VideoOptions, edit_video, [*args, *options], path), path


def test_the_files_are_sound(fuzzed: Fuzzed, tiny_epsilon: Path) -> None:
    for name in NAMES:
        with fuzzed.example() as folder:
            (folder / name).write_bytes(whole(name))
            done, _ = edit(fuzzed, tiny_epsilon, folder / name, "edited.mkv")
            assert done.code == 0, (name, done)


@given(data=st.data(), name=st.sampled_from(NAMES), output=st.sampled_from(["e.mp4", "e.mkv", "e.gif", "e"]))
def test_a_video(fuzzed: Fuzzed, tiny_epsilon: Path, name: str, output: str, data: st.DataObject) -> None:
    content = data.draw(damaged(whole(name)))
    with fuzzed.example() as folder:
        (folder / name).write_bytes(content)
        done, path = edit(fuzzed, tiny_epsilon, folder / name, output)
        if done.code == 0:
            source, edited = read_video(folder / name), read_video(path)
            assert (edited.width, edited.height) == (source.width, source.height)
            assert edited.num_frames == source.num_frames


@given(data=st.data())
def test_a_mask(fuzzed: Fuzzed, tiny_epsilon: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        content = clip(
            Path(folder) / "mask.mkv", levels(NUM_FRAMES), codec="ffv1", pixels="bgr0"
        ).read_bytes()
    content = data.draw(damaged(content))
    with fuzzed.example() as folder:
        (folder / "mask.mkv").write_bytes(content)
        (folder / "exact.mkv").write_bytes(whole("exact.mkv"))
        options = "--mask", folder / "mask.mkv", "--codec", "ffv1"
        done, path = edit(fuzzed, tiny_epsilon, folder / "exact.mkv", "e.mkv", *options)
        if done.code == 0:
            frames = np.stack([*read_video(path).frames()])
            assert frames.shape == (NUM_FRAMES, HEIGHT, WIDTH, 3)
