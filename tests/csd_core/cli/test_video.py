import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from csd_core.canvas.video import VideoEdit
from csd_core.cli import video as module
from csd_core.cli.video import VideoOptions, edit_video, main
from csd_core.cli.watch import Watch
from csd_core.command import run_command
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine.checkpoint import Checkpoint
from csd_core.engine.config import EditConfig
from csd_core.engine.plan import count_evaluations
from csd_core.errors import NonFiniteError
from csd_core.io.files import file_hash
from csd_core.io.images import Picture, write_picture
from csd_core.io.video_writer import VideoWriter
from csd_core.machine import PACKAGES
from tests.programs import running, wait_for

NTSC = Fraction(30000, 1001)
SIZE = (45, 61)


def moving(count: int = 6, size: tuple[int, int] = SIZE, seed: int = 0) -> np.ndarray:
    """Frames (count, H, W, 3) cut one after the other, 3 pixels apart, from blurred noise."""
    height, width = size
    wide = np.random.default_rng(seed).integers(0, 256, (height, width + 3 * count, 3), np.uint8)
    wide = cv2.blur(wide, (5, 5))
    return np.stack([wide[:, 3 * k : 3 * k + width] for k in range(count)])


def folder(path: Path, frames: np.ndarray) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for k, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{k}.png")
    return path


def clip(path: Path, frames: np.ndarray, *, sound: bool = False) -> Path:
    """A video written by PyAV alone, 30000/1001 frames per second; in a .mkv without loss."""
    exact = path.suffix == ".mkv"
    with av.open(path, "w") as container:
        options = {} if exact else {"crf": "4", "preset": "veryfast"}
        stream: Any = container.add_stream("ffv1" if exact else "libx264", rate=NTSC, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0" if exact else "yuv420p"
        voice: Any = container.add_stream("aac", rate=48000) if sound else None
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
        if sound:
            t = np.arange(round(48000 * len(frames) / NTSC)) / 48000
            wave = (np.sin(2 * np.pi * 440 * t * (1 + t)) * 0.3).astype(np.float32)
            tone = av.AudioFrame.from_ndarray(wave[None], "fltp", "mono")
            tone.sample_rate = 48000
            for part in av.AudioResampler("fltp", voice.layout, 48000, frame_size=1024).resample(tone):
                container.mux(voice.encode(part))
            container.mux(voice.encode())
    return path


def frames_of(path: Path) -> np.ndarray:
    """Frames (N, H, W, 3), by Pillow or PyAV alone."""
    if path.is_dir():
        return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in sorted(path.iterdir())])
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def contents(path: Path) -> list[bytes]:
    """Bytes of all files of a folder, or of a file; of an mp4 its frames: libx264 varies between runs."""
    if path.suffix == ".mp4":
        return [frames_of(path).tobytes()]
    return [file.read_bytes() for file in sorted(path.iterdir())] if path.is_dir() else [path.read_bytes()]


def exact(output: str) -> list[object]:
    """Options for frames without loss, whatever libx264 does."""
    return ["--crf", 0] if output.endswith(".mp4") else []


def heard(path: Path) -> list[bytes]:
    """Packets of sound."""
    with av.open(path) as container:
        return [bytes(p) for p in container.demux() if p.stream.type == "audio" and p.size]


class Command:
    """csd-edit-video in a folder of its own, with the tiny model: 6 frames of 45 x 61, folder to folder."""

    def __init__(self, folder_: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.model, self._capsys = folder_, model, capsys
        self.source = moving()
        self.video = folder(folder_ / "in", self.source)
        self.output = folder_ / "out" / "edited"
        self.out = self.err = ""

    def args(self, *options: object, prompt: str | None = "make it red", steps: int | None = 3) -> list[str]:
        args = ["--video", self.video, "--output", self.output, "--model", self.model, "--device", "cpu"]
        args += [] if prompt is None else ["--prompt", prompt]
        args += [] if steps is None else ["--num-steps", steps]
        return [str(arg) for arg in (*args, *options)]

    def __call__(self, *options: object, **rest: Any) -> int:
        code = run_command(VideoOptions, edit_video, self.args(*options, **rest))
        self.out, self.err = self._capsys.readouterr()
        return code

    def edited(self, *options: object, **rest: Any) -> np.ndarray:
        assert self(*options, **rest) == 0, self.err
        return frames_of(self.output)

    def refused(self, *options: object, **rest: Any) -> str:
        """What the command says when it ends with 2; checks that it is one line and nothing was written."""
        before = sorted(self.folder.rglob("*"))
        code = self(*options, **rest)
        assert code == 2, self.err
        lines = [line for line in self.err.splitlines() if not line.startswith("note: ")]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        assert self.out == ""
        assert sorted(self.folder.rglob("*")) == before
        return lines[0]

    def manifest(self) -> dict[str, Any]:
        return json.loads(self.output.with_name(self.output.name + ".json").read_text())

    def beside(self) -> list[str]:
        return sorted(path.name for path in self.output.parent.iterdir())

    def use(self, name: str, frames: np.ndarray, **told: Any) -> np.ndarray:
        path = self.folder / name
        self.video = clip(path, frames, **told) if path.suffix else folder(path, frames)
        self.source = frames
        return frames

    def mask(self, levels: np.ndarray, name: str = "mask.png") -> tuple[str, Path]:
        path = self.folder / name
        write_picture(path, Picture(np.dstack([levels] * 3)))
        return "--mask", path


@pytest.fixture(scope="module", autouse=True)
def loaded_once() -> Iterator[None]:
    """Models are loaded once for all tests of this file, but for those in a process of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InstructPix2Pix, "from_pretrained", cache(InstructPix2Pix.from_pretrained))
        yield


@pytest.fixture
def command(tmp_path: Path, tiny_epsilon: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, tiny_epsilon, capsys)


FINISHED = ["edited", "edited.json"]


# Any video, in and out.


@pytest.mark.parametrize("size", [(33, 57), (57, 33), (20, 27), (7, 40), (1, 1), (32, 48)])
def test_any_size_comes_back_in_its_size(command: Command, size: tuple[int, int]) -> None:
    source = command.use("frames", moving(3, size))
    edited = command.edited(steps=1)
    assert edited.shape == source.shape
    assert command.beside() == FINISHED
    assert "edited: 15 evaluations" in command.out


def test_a_video_keeps_its_rate_and_its_sound(command: Command) -> None:
    source = command.use("in.mp4", moving(8, (44, 60)), sound=True)
    command.output = command.folder / "edited.mp4"
    edited = command.edited(steps=1)
    assert edited.shape == source.shape
    with av.open(command.output) as container:
        assert container.streams.video[0].average_rate == NTSC
        assert container.streams.video[0].codec_context.name == "h264"
    assert heard(command.video)
    assert heard(command.output) == heard(command.video)
    assert "note" not in command.err
    command.edited("--no-sound", steps=1)
    with av.open(command.output) as container:
        assert [stream.type for stream in container.streams] == ["video"]


@pytest.mark.parametrize(
    ("name", "output"),
    [("in.mp4", "out.gif"), ("in.mkv", "out.mkv"), ("in.mp4", "out"), ("frames", "out.webp")],
)
def test_one_kind_becomes_another(command: Command, name: str, output: str) -> None:
    command.use(name, moving(4, (20, 28)))
    command.output = command.folder / output
    assert command(steps=1) == 0
    if output.endswith("webp"):
        with Image.open(command.output) as image:
            assert (getattr(image, "n_frames", 1), image.size) == (4, (28, 20))
    else:
        assert frames_of(command.output).shape == (4, 20, 28, 3)


def test_a_gif_becomes_a_video(command: Command) -> None:
    first, *others = (Image.fromarray(frame) for frame in moving(4, (20, 28)))
    command.video, command.output = command.folder / "in.gif", command.folder / "out.mp4"
    first.save(command.video, save_all=True, append_images=others, duration=40)
    assert command.edited(steps=1).shape == (4, 20, 28, 3)
    with av.open(command.output) as container:
        assert container.streams.video[0].average_rate == 25


def test_codec_and_quality_are_passed_on(command: Command) -> None:
    expected = command.edited(steps=1)
    command.output = command.folder / "edited.mkv"
    np.testing.assert_array_equal(command.edited("--codec", "ffv1", steps=1), expected)
    sizes = []
    for crf in (5, 45):
        command.edited("--crf", crf, steps=1)
        sizes.append(command.output.stat().st_size)
    assert sizes[0] > 1.5 * sizes[1]
    assert "--codec" in command.refused("--codec", "nothing")
    assert "--crf" in command.refused("--crf", 99)
    assert "--crf" in command.refused("--output", command.folder / "pngs", "--crf", 20)


@pytest.mark.parametrize(
    ("selection", "chosen"), [("1:5:2", [1, 3]), ("4:", [4, 5]), (":", range(6)), (":2", [0, 1])]
)
def test_a_part_of_the_frames(command: Command, selection: str, chosen: Sequence[int]) -> None:
    source = command.source
    part = command.edited("--frames", selection)
    assert command.manifest()["frames"] == len(chosen)
    command.use("part", source[list(chosen)])
    np.testing.assert_array_equal(part, command.edited())


@pytest.mark.parametrize(
    "selection", ["a:b", "", "3", "5:2", "6:", "::0", ":0:0", "-3:", ":-1", "::-1", "1:2:3:4"]
)
def test_a_selection_that_is_none_is_one_line(command: Command, selection: str) -> None:
    said = command.refused(f"--frames={selection}")
    assert "frames" in said
    assert selection in said


def test_too_much_is_refused(command: Command) -> None:
    said = command.refused("--max-frames", 5)
    assert "at most 5 frames" in said
    assert "--frames" in said
    assert "--max-pixels" in command.refused("--max-pixels", 45 * 61 - 1)
    assert command("--max-frames", 2, "--frames", "1:3", "--max-pixels", 45 * 61, steps=1) == 0


# What is edited.


def test_an_edit_edits_more_than_its_model_loses(command: Command) -> None:
    still = command.edited("--learning-rate", 1e-9)
    np.testing.assert_array_equal(still, command.source)
    edited = command.edited("--learning-rate", 2)
    assert np.abs(edited.astype(int) - command.source).mean() > 2


@pytest.mark.parametrize("detail", ["none", "residual"])
def test_options_change_the_result(command: Command, detail: str) -> None:
    assert (command.edited(steps=2) != command.edited("--detail", detail, steps=2)).any()


def test_the_resolution_is_that_of_the_short_side(command: Command) -> None:
    for resolution, size in ((None, [32, 43]), (20, [20, 27]), (45, [45, 61])):
        given = [] if resolution is None else ["--resolution", resolution]
        assert command.edited(*given, steps=1).shape == (6, *SIZE, 3)
        assert command.manifest()["size_of_the_edit"] == size


def test_the_seed_decides_and_the_split_does_not(command: Command) -> None:
    first = command.edited(steps=2)
    np.testing.assert_array_equal(command.edited(steps=2), first)
    assert (command.edited("--seed", 1, steps=2) != first).any()
    split = command.edited("--max-batch", 4, steps=2)
    assert np.abs(split.astype(int) - first).max() <= 1


# Masks.


def soft_mask() -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[10:30, 20:40], mask[10:30, 40:45] = 255, 128
    return mask


@pytest.mark.parametrize("method", ["csd", "ip2p-frame"])
def test_where_the_mask_is_black_nothing_changes(command: Command, method: str) -> None:
    source, mask = command.source.astype(int), soft_mask()
    free = command.edited("--method", method).astype(int)
    edited = command.edited("--method", method, *command.mask(mask)).astype(int)
    np.testing.assert_array_equal(edited[:, mask == 0], source[:, mask == 0])
    np.testing.assert_array_equal(edited[:, mask == 255], free[:, mask == 255])
    mixed = source + 128 / 255 * (free - source)
    np.testing.assert_allclose(edited[:, mask == 128], mixed[:, mask == 128], atol=0.8)
    assert (free[:, mask == 255] != source[:, mask == 255]).mean() > 0.5


@pytest.mark.parametrize(
    ("name", "codec", "told"), [("a.mp4", [], True), ("b", [], False), ("c.mkv", ["--codec", "ffv1"], False)]
)
def test_a_mask_and_a_lossy_encoder_are_told_of(
    command: Command, name: str, codec: list[str], told: bool
) -> None:
    command.output = command.folder / name
    assert command(*codec, *command.mask(soft_mask()), steps=1) == 0
    assert ("lossy: outside the mask" in command.err) == told


@pytest.mark.parametrize("name", ["masks", "masks.mkv"])
@pytest.mark.parametrize("selection", [None, "1:6:2"])
def test_each_frame_has_its_mask(command: Command, name: str, selection: str | None) -> None:
    masks = np.stack([np.roll(soft_mask(), 3 * k, axis=0) for k in range(6)])
    path = command.folder / name
    levels = np.stack([masks] * 3, axis=-1)
    path = clip(path, levels) if path.suffix else folder(path, levels)
    chosen = [] if selection is None else ["--frames", selection]
    picked = slice(None) if selection is None else slice(1, 6, 2)
    edited = command.edited("--mask", path, *chosen)
    free, source, masks = command.edited(*chosen), command.source[picked], masks[picked]
    np.testing.assert_array_equal(edited[masks == 0], source[masks == 0])
    np.testing.assert_array_equal(edited[masks == 255], free[masks == 255])
    assert (free[masks == 255] != source[masks == 255]).mean() > 0.5


def test_a_mask_that_does_not_fit_is_one_line(command: Command) -> None:
    assert "61x45" in command.refused(*command.mask(np.full((45, 60), 255, np.uint8)))
    assert "empty" in command.refused(*command.mask(np.zeros(SIZE, np.uint8)))
    masks = folder(command.folder / "masks", np.full((5, *SIZE, 3), 255, np.uint8))
    assert "6 masks" in command.refused("--mask", masks)
    (masks / "4.png").write_bytes(b"no picture")
    assert "4.png" in command.refused("--mask", masks)
    assert "no such" in command.refused("--mask", command.folder / "none.png")


# The methods.


@pytest.mark.parametrize(
    ("method", "each"), [("csd", 5), ("no-svgd", 5), ("sds", 3), ("dds", 6), ("ip2p-frame", 3)]
)
def test_every_method_counts_its_evaluations(command: Command, method: str, each: int) -> None:
    options = ["--source-prompt", "a film"] if method == "dds" else []
    edited = command.edited("--method", method, *options)
    assert edited.shape == command.source.shape
    manifest = command.manifest()
    assert manifest["evaluations"] == each * 6 * 3
    assert manifest["options"]["method"] == method
    assert ("sampling" in manifest) == (method == "ip2p-frame")
    assert ("edit" in manifest) == (method != "ip2p-frame")
    assert command.beside() == FINISHED


def test_without_svgd_each_frame_is_edited_by_itself(command: Command) -> None:
    for method, others in (("no-svgd", False), ("csd", True)):
        command.use("one", moving())
        before = command.edited("--method", method)
        command.use("two", np.concatenate([moving()[:2], moving(seed=1)[2:3], moving()[3:]]))
        changed = (command.edited("--method", method) != before).any(axis=(1, 2, 3))
        assert changed.tolist() == [k == 2 or others for k in range(6)]


def test_the_learning_rate_of_no_svgd_is_that_of_csd_fitted_unless_it_is_given(command: Command) -> None:
    rates = {}
    for method in ("csd", "no-svgd"):
        for rate in (None, 0.7):
            given = [] if rate is None else ["--learning-rate", rate]
            command.edited("--method", method, "--batch-size", 3, *given, steps=1)
            rates[method, rate] = command.manifest()["edit"]["learning_rate"]
    assert rates["csd", None] == 0.5
    assert rates["no-svgd", None] == pytest.approx(0.5 * 2 / (3 + 1))
    assert rates["csd", 0.7] == rates["no-svgd", 0.7] == 0.7


def test_dds_needs_to_know_what_the_video_shows(command: Command) -> None:
    assert "source_prompt: expected what the source shows" in command.refused("--method", "dds")


def test_frames_by_themselves_are_what_diffusers_makes_of_them(command: Command) -> None:
    from csd_core.method.schedule import step_generator

    frames = command.use("frames", moving(3, (36, 48)))
    edited = command.edited(
        *("--method", "ip2p-frame", "--resolution", 36, "--detail", "none", "--seed", 3),
        *("--guidance-scale", 4, "--dtype", "float32"),
    )
    pipeline: Any = InstructPix2Pix.from_pretrained(str(command.model)).pipeline()
    for frame, made in zip(frames, edited, strict=True):
        expected = pipeline(
            prompt="make it red",
            image=Image.fromarray(frame),
            num_inference_steps=3,
            guidance_scale=4,
            image_guidance_scale=1.5,
            generator=step_generator(3, 0),
            output_type="np",
        ).images[0]
        np.testing.assert_allclose(made / 255, expected, atol=1e-3 + 0.5 / 255)


@pytest.mark.parametrize("option", [("--resume",), ("--dry-run",), ("--preview-every", 1)])
def test_what_needs_an_optimisation_is_refused(command: Command, option: Sequence[object]) -> None:
    name = str(option[0]).removeprefix("--").replace("-", "_")
    said = command.refused("--method", "ip2p-frame", *option)
    assert f"{name}: expected a method other than ip2p-frame" in said


def test_one_frame_is_edited_by_plain_score_distillation(command: Command) -> None:
    command.use("one", moving(1))
    alone = command.edited("--learning-rate", 0.5)
    assert "note: this is one frame: it has none to agree with" in command.err
    np.testing.assert_array_equal(command.edited("--learning-rate", 0.5, "--method", "no-svgd"), alone)
    command.video = command.video / "0.png"  # a still picture is a video of one frame
    np.testing.assert_array_equal(command.edited("--learning-rate", 0.5), alone)
    command.use("two", moving(2))
    command.edited(steps=1)
    assert "one frame" not in command.err


# What the manifest says.


def test_the_manifest_has_every_setting_and_figure(command: Command) -> None:
    option, mask = command.mask(soft_mask())
    command.edited(
        "--guidance-scale", 3, "--t-range", 0.1, 0.4, "--seed", 5, "--negative-prompt", "snow", option, mask
    )
    manifest = command.manifest()
    assert manifest["command"] == "csd-edit-video"
    assert set(manifest["options"]) == set(VideoOptions.__dataclass_fields__)
    assert manifest["options"]["seed"] == manifest["edit"]["seed"] == 5
    assert manifest["options"]["learning_rate"] is None
    assert manifest["edit"]["learning_rate"] == 0.5
    assert manifest["edit"]["t_range"] == [0.1, 0.4]
    assert manifest["edit"]["num_steps"] == 3
    assert set(manifest["edit"]) == set(vars(EditConfig()))
    assert (manifest["frames"], manifest["size_of_the_edit"]) == (6, [32, 43])
    assert set(manifest["versions"]) == set(PACKAGES)
    assert manifest["machine"]["python"]
    assert manifest["seconds"] > 0
    assert set(manifest["inputs"]) == {str(command.video), str(mask)}
    assert manifest["inputs"][str(mask)] == file_hash(mask)
    before = manifest["inputs"][str(command.video)]
    Image.fromarray(command.source[1]).save(command.video / "3.png")
    command.edited(steps=1)
    assert command.manifest()["inputs"][str(command.video)] != before


def test_evaluations_are_those_planned_and_those_counted(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = 0
    predict = InstructPix2Pix.predict_noise

    def counting(self: InstructPix2Pix, x_t: Tensor, *rest: Tensor) -> Tensor:
        nonlocal counted
        counted += len(x_t)
        return predict(self, x_t, *rest)

    monkeypatch.setattr(InstructPix2Pix, "predict_noise", counting)
    command.edited("--batch-size", 4, steps=4)
    manifest = command.manifest()
    edit = EditConfig(**{**manifest["edit"], "t_range": tuple(manifest["edit"]["t_range"])})
    assert manifest["evaluations"] == counted == count_evaluations(edit, {"make it red": [1.0] * 6}, 6)
    command("--batch-size", 4, "--dry-run", steps=4)
    assert f"evaluations   {manifest['evaluations']}\n" in command.out


def test_the_default_is_as_many_steps_as_the_preset_says(command: Command) -> None:
    command.use("frames", moving(30, (8, 8)))
    assert command("--dry-run", "--resolution", 8, steps=None) == 0
    assert "264 with 8 frames each: a frame moves in 66.0 of them" in command.out


# --dry-run.


def test_a_dry_run_says_what_it_takes_and_writes_nothing(command: Command) -> None:
    before = sorted(command.folder.rglob("*"))
    assert command("--dry-run", "--frames", "1:", steps=None) == 0
    assert sorted(command.folder.rglob("*")) == before
    lines = dict(line.split(maxsplit=1) for line in command.out.splitlines() if "edited at" not in line)
    assert list(lines) == ["frames", "steps", "evaluations", "time", "memory"]
    assert lines["frames"] == "5 of 6, 61 x 45 pixels"
    assert "edited at     43 x 32 pixels\n" in command.out
    assert int(lines["evaluations"]) == 5 * (3 * 200 + 2 * 8)  # 8: pairs of timestep and noise
    assert "GiB on cpu" in lines["memory"]


def test_a_dry_run_leaves_an_unfinished_edit_alone(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    stop(command, monkeypatch)
    before = command.beside()
    assert command("--dry-run", "--preview-every", 1) == 0
    assert command.beside() == before
    assert "unfinished" not in command.err


# Progress and previews.


def watched(monkeypatch: pytest.MonkeyPatch, look: Callable[[Watch], object]) -> None:
    """Call `look` after every step."""
    done = Watch.__call__

    def call(self: Watch, step: int, canvas: Tensor) -> bool:
        end = done(self, step, canvas)
        look(self)
        return end

    monkeypatch.setattr(Watch, "__call__", call)


def press_ctrl_c(after: int) -> Callable[[Watch], None]:
    def look(watch: Watch) -> None:
        if watch.steps_done == after:
            os.kill(os.getpid(), signal.SIGINT)

    return look


@pytest.mark.parametrize(("method", "total"), [("csd", "3/3"), ("ip2p-frame", "6/6")])
def test_progress_is_shown(command: Command, method: str, total: str) -> None:
    command.edited("--method", method)
    assert f"edit: 100%|██████████| {total} [" in command.err
    assert "write: 100%|██████████| 6/6 [" in command.err


@pytest.mark.parametrize(
    ("output", "name"), [("edited", "edited-preview.png"), ("edited.v2.mkv", "edited.v2.preview.png")]
)
def test_previews_are_there_during_the_edit_and_gone_after_it(
    command: Command, monkeypatch: pytest.MonkeyPatch, output: str, name: str
) -> None:
    command.output = command.output.with_name(output)
    preview, seen = command.output.with_name(name), {}

    def look(watch: Watch) -> None:
        if preview.is_file():
            seen[watch.steps_done] = np.asarray(Image.open(preview))

    watched(monkeypatch, look)
    assert command("--preview-every", 2, steps=5) == 0
    assert list(seen) == [2, 3, 4, 5]
    np.testing.assert_array_equal(seen[2], seen[3])
    assert (seen[2] != seen[4]).any()
    assert all(strip.shape == (32, 6 * 43, 3) for strip in seen.values())
    assert command.beside() == [output, f"{output}.json"]


def test_without_previews_a_file_of_their_name_is_left_alone(command: Command) -> None:
    mask = command.output.with_name("edited-preview.png")
    mask.parent.mkdir()
    write_picture(mask, Picture(np.full((*SIZE, 3), 255, np.uint8)))
    command.edited("--mask", mask, steps=1)
    assert mask.is_file()
    assert "the input itself" in command.refused("--preview-every", 1, "--mask", mask)


# Stopping and going on.


def uninterrupted(command: Command, *options: object, **rest: Any) -> list[bytes]:
    assert command(*options, **rest) == 0, command.err
    whole = contents(command.output)
    for path in command.output.parent.rglob("*"):
        if path.is_file():
            path.unlink()
    if command.output.is_dir():
        command.output.rmdir()
    return whole


@pytest.mark.parametrize(
    ("output", "partly", "options"),
    [
        ("edited", "edited-step-4", ()),
        ("edited.mp4", "edited.step-4.mp4", ("--batch-size", 4, "--preview-every", 2)),
    ],
)
def test_a_stopped_edit_goes_on_to_the_same_frames(
    command: Command, output: str, partly: str, options: Sequence[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    command.output, options = command.output.with_name(output), [*options, *exact(output)]
    whole = uninterrupted(command, *options, steps=6)
    with monkeypatch.context() as patch:
        watched(patch, press_ctrl_c(after=3))
        assert command(*options, steps=6) == 130
    said = command.err.splitlines()[-1]
    assert said.startswith("stopped after step 4 of 6")
    assert str(command.output.with_name(partly)) in said
    assert "--resume" in said
    assert "Traceback" not in command.err
    assert command.out == ""
    kept = [name for name in command.beside() if "preview" not in name]
    assert kept == sorted([partly, f"{output}.unfinished.safetensors"])
    unfinished = frames_of(command.output.with_name(partly))
    assert unfinished.shape == (6, *SIZE, 3)

    assert command("--resume", *options, steps=6) == 0
    assert "going on after step 4" in command.err
    assert (frames_of(command.output) != unfinished).any()
    assert contents(command.output) == whole
    assert command.beside() == sorted([output, f"{output}.json", partly])
    drawn = 3 if "--batch-size" in options else 6  # two batches of three
    assert command.manifest()["evaluations"] == 2 * drawn * 5


def test_an_output_of_before_stays_until_the_edit_is_done(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.output = command.folder / "edited.mp4"
    command.output.write_bytes(b"before")
    stop(command, monkeypatch)
    assert command.output.read_bytes() == b"before"


def test_ctrl_c_twice_ends_without_a_traceback(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(watch: Watch) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    watched(monkeypatch, look)
    assert command() == 130
    assert "Traceback" not in command.err
    assert command.err.splitlines()[-1] == "interrupted"
    assert not command.output.exists()


def stop(command: Command, monkeypatch: pytest.MonkeyPatch, *options: object, **rest: Any) -> None:
    with monkeypatch.context() as patch:
        watched(patch, press_ctrl_c(after=1))
        assert command(*options, **rest) == 130


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--seed", 1), "seed 0, not 1"),
        (("--frames", "0:5"), "frames ':', not '0:5'"),
        (("--method", "sds"), "method 'csd', not 'sds'"),
        (("--resolution", 40), "resolution None, not 40"),
        (("--num-steps", 7), "num_steps 3, not 7"),
    ],
)
def test_going_on_with_another_setting_is_refused(
    command: Command, options: Sequence[object], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(command, monkeypatch, "--resume")
    said = command.refused("--resume", *options)
    assert f"was begun with {named}; " in said


def test_going_on_with_another_input_is_refused(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = folder(command.folder / "masks", np.full((6, *SIZE, 3), 255, np.uint8))
    stop(command, monkeypatch, "--mask", masks)
    for changed in (masks, command.video):
        was = (changed / "3.png").read_bytes()
        write_picture(changed / "3.png", Picture(np.full((*SIZE, 3), 128, np.uint8)))
        said = command.refused("--resume", "--mask", masks)
        assert f"begun with contents of {changed} " in said
        (changed / "3.png").write_bytes(was)
    command.edited("--resume", "--mask", masks)
    assert "going on after step 2" in command.err


def test_going_on_is_free_in_what_the_result_does_not_hang_on(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(command, monkeypatch)
    other = ("--max-batch", 4, "--preview-every", 1, "--max-frames", 99, "--learning-rate", 0.5)
    command.edited("--resume", *other)
    assert "going on after step 2" in command.err


def test_an_unfinished_edit_is_replaced_but_not_unsaid(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(command, monkeypatch)
    command.edited()
    checkpoint = command.output.with_name("edited.unfinished.safetensors")
    assert f"note: {checkpoint} is an unfinished edit" in command.err
    assert command.beside() == ["edited", "edited-step-2", "edited.json"]


def test_nothing_to_resume_begins_anew(command: Command) -> None:
    command.edited()
    whole = contents(command.output)
    command.edited("--resume")
    assert "nothing to resume" in command.err
    assert contents(command.output) == whole


@pytest.mark.parametrize("output", ["edited", "edited.mp4"])
def test_an_edit_that_cannot_be_written_leaves_what_was_there_and_can_be_resumed(
    command: Command, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    command.output = command.output.with_name(output)
    lossless = exact(output)
    command.edited(*lossless, steps=1)
    before, write = contents(command.output), VideoWriter.write
    whole = sorted(command.folder.rglob("*"))

    def full(self: VideoWriter, pixels: np.ndarray) -> None:
        write(self, pixels)
        if self._written == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(VideoWriter, "write", full)
        assert command(*lossless) == 2
    line = command.err.splitlines()[-1]
    assert line.startswith("error: [Errno 28] No space left on device: ")
    assert "free some" in line
    checkpoint = command.output.with_name(f"{output}.unfinished.safetensors")
    assert sorted(command.folder.rglob("*")) == sorted([*whole, checkpoint])
    assert contents(command.output) == before
    assert command("--resume", *lossless) == 0
    assert "going on after step 3" in command.err  # of 3
    assert command.manifest()["evaluations"] == 0
    resumed = contents(command.output)
    assert resumed != before
    assert command(*lossless) == 0
    assert contents(command.output) == resumed


def test_nan_keeps_the_state_before_it(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: VideoEdit, *_: object, **__: object) -> Tensor:
        raise NonFiniteError(2, 3, self.latents[0])

    monkeypatch.setattr(VideoEdit, "run", run)
    assert command() == 2
    partly = command.output.with_name("edited-step-2")
    (said,) = [line for line in command.err.splitlines() if line.startswith("error: ")]
    assert "step 2 " in said
    assert str(partly) in said
    np.testing.assert_array_equal(frames_of(partly), command.source)
    assert not command.output.exists()


KILLED = """
import sys, time
from csd_core.cli import video, watch
watch.SAVE_SECONDS, done = 0.0, watch.Watch.__call__
watch.Watch.__call__ = lambda self, step, canvas: (done(self, step, canvas), time.sleep(0.5))[0]
sys.exit(video.main())
"""


def test_a_killed_process_loses_nothing_but_the_last_steps(command: Command) -> None:
    args, checkpoint = command.args(steps=6), command.output.with_name("edited.unfinished.safetensors")
    with running([sys.executable, "-c", KILLED, *args], stderr=subprocess.PIPE) as process:
        wait_for(checkpoint.is_file, process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not command.output.exists()
    found = Checkpoint(checkpoint, {"prompt": "another"})
    with pytest.raises(ValueError, match="was begun with"):
        found.load()  # whole, not damaged
    kept, resumed = checkpoint.read_bytes(), {}
    for output in ("edited", "edited.mp4"):
        command.output = command.output.with_name(output)
        command.output.with_name(f"{output}.unfinished.safetensors").write_bytes(kept)
        assert command("--resume", *exact(output), steps=6) == 0
        assert "going on after step" in command.err
        resumed[output] = contents(command.output)
    assert command("--crf", 0, steps=6) == 0
    assert contents(command.output) == resumed["edited.mp4"]
    command.output = command.output.with_name("edited")
    assert command(steps=6) == 0
    assert contents(command.output) == resumed["edited"]


# Bad input.


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (("--resolution", 0), "resolution"),
        (("--resolution", 3), "resolution"),
        (("--num-steps", 0), "num_steps"),
        (("--seed", -1), "seed"),
        (("--preview-every", -1), "preview_every"),
        (("--max-frames", 0), "max_frames"),
        (("--max-batch", 0), "max_batch"),
        (("--batch-size", 0), "batch_size"),
        (("--learning-rate", 0), "learning_rate"),
        (("--guidance-scale", "nan"), "guidance_scale"),
        (("--guidance-scale", 0.5, "--method", "ip2p-frame"), "guidance_scale"),
        (("--num-steps", 1000, "--method", "ip2p-frame"), "num_inference_steps"),
        (("--t-range", 0.5, 0.2), "t_range"),
        (("--max-pixels", 0), "max_pixels"),
        (("--model", "/no/such/model"), "/no/such/model"),
        (("--device", "abacus"), "device"),
        (("--video", "/no/such/video.mp4"), "/no/such/video.mp4"),
    ],
)
def test_a_bad_option_is_one_line(command: Command, options: Sequence[object], name: str) -> None:
    assert name in command.refused(*options)


@pytest.mark.parametrize("prompt", [None, "", "  "])
def test_an_instruction_is_needed(command: Command, prompt: str | None) -> None:
    assert "prompt: expected an instruction" in command.refused(prompt=prompt)


@pytest.mark.parametrize("content", [b"", b"not a video\n", "truncated", "sound alone"])
def test_a_bad_video_is_one_line(command: Command, content: bytes | str) -> None:
    bad = command.folder / "bad.mp4"
    if isinstance(content, bytes):
        bad.write_bytes(content)
    elif content == "truncated":
        whole = clip(bad, moving(8, (44, 60))).read_bytes()
        bad.write_bytes(whole[: len(whole) // 2])
    else:
        with av.open(bad, "w") as container:
            voice: Any = container.add_stream("aac", rate=48000)
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.sample_rate = 48000
            for part in av.AudioResampler("fltp", voice.layout, 48000).resample(silence):
                container.mux(voice.encode(part))
            container.mux(voice.encode())
    assert str(bad) in command.refused("--video", bad)


def test_a_bad_folder_is_one_line(command: Command) -> None:
    empty = command.folder / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("none")
    assert str(empty) in command.refused("--video", empty)
    Image.fromarray(moving(1, (20, 20))[0]).save(command.video / "6.png")
    said = command.refused()
    assert "61x45" in said
    assert "20x20" in said
    assert "6.png" in said
    (command.video / "6.png").write_bytes((command.video / "5.png").read_bytes()[:500])
    assert "6.png" in command.refused()


@pytest.mark.parametrize(
    "name", ["out.avi", "in", "in/edited", "in/edited.mp4", "", "in/0.png", "in/0.png/out.mp4", "more.mp4"]
)
def test_a_bad_output_is_one_line(command: Command, name: str) -> None:
    (command.folder / "more.mp4").mkdir()
    assert str(command.folder / name) in command.refused("--output", command.folder / name)


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_an_output_without_a_name_is_one_line(
    command: Command, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (command.folder / "here").mkdir()
    monkeypatch.chdir(command.folder / "here")
    assert f"{name}: expected a name" in command.refused("--output", name)


def test_a_folder_with_other_files_is_not_replaced(command: Command) -> None:
    command.edited(steps=1)
    (command.output / "notes.txt").write_text("mine")
    assert "notes.txt" in command.refused()
    (command.output / "notes.txt").unlink()
    command.use("fewer", moving(2))
    assert len(command.edited(steps=1)) == 2  # nothing of the six frames of before


def test_no_input_is_replaced_with_the_folder_it_is_in(command: Command) -> None:
    command.output.mkdir(parents=True)
    mask = command.output / "0.png"
    write_picture(mask, Picture(np.full((*SIZE, 3), 255, np.uint8)))
    assert "a folder around an input" in command.refused("--mask", mask)
    assert mask.is_file()


def test_the_output_is_no_input(command: Command) -> None:
    command.use("in.mp4", moving(3, (44, 60)))
    assert "the input itself" in command.refused("--output", command.video)
    masks = clip(command.folder / "masks.mkv", np.full((3, 44, 60, 3), 255, np.uint8))
    assert "the input itself" in command.refused("--mask", masks, "--output", masks)


def test_verbose_shows_the_traceback(command: Command) -> None:
    assert command("--verbose", "--resolution", 0) == 2
    assert "Traceback" in command.err
    assert command.err.splitlines()[-1].startswith("error: resolution")


def test_the_command_is_installed(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    monkeypatch.setattr(sys, "argv", ["csd-edit-video", *command.args(steps=1)])
    assert main() == 0
    assert len(frames_of(command.output)) == 6
    assert module.content_hash(command.output) != module.content_hash(command.video)
