import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch import Tensor

from csd_core.canvas.panorama import Panorama
from csd_core.cli import panorama as module
from csd_core.cli.panorama import PanoramaOptions, edit_panorama, main
from csd_core.cli.watch import Watch
from csd_core.command import run_command
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.denoisers.runtime.precision import default_dtype, dtype_name
from csd_core.engine.checkpoint import Checkpoint
from csd_core.engine.config import EditConfig
from csd_core.engine.plan import count_evaluations
from csd_core.errors import NonFiniteError
from csd_core.io import files
from csd_core.io.images import read_picture
from csd_core.machine import PACKAGES
from tests.programs import running, wait_for

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

USUAL = dtype_name(default_dtype(torch.device("cpu")))


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> np.ndarray:
    levels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)
    return levels if len(shape) == 2 or shape[2] == 4 else cv2.blur(levels, (3, 3))


def save(path: Path, pixels: np.ndarray, **told: Any) -> Path:
    if pixels.dtype == np.uint16:
        assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    else:
        Image.fromarray(pixels).save(path, **told)
    return path


def pixels_of(path: Path) -> np.ndarray:
    return read_picture(path).pixels


class Command:
    """csd-edit-panorama in a folder of its own, with the tiny model; the image is 45 x 61 noise."""

    def __init__(self, folder: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.model, self._capsys = folder, model, capsys
        self.image = save(folder / "in.png", noise(45, 61, 3))
        self.output = folder / "out" / "edited.png"
        self.out = self.err = ""

    def args(self, *options: object, prompt: str | None = "make it red", steps: int | None = 3) -> list[str]:
        args = ["--image", self.image, "--output", self.output, "--model", self.model, "--stride", 4]
        args += ["--device", "cpu"]
        args += [] if prompt is None else ["--prompt", prompt]
        args += [] if steps is None else ["--num-steps", steps]
        return [str(arg) for arg in (*args, *options)]

    def __call__(self, *options: object, **rest: Any) -> int:
        code = run_command(PanoramaOptions, edit_panorama, self.args(*options, **rest))
        self.out, self.err = self._capsys.readouterr()
        return code

    def edited(self, *options: object, **rest: Any) -> np.ndarray:
        assert self(*options, **rest) == 0, self.err
        return pixels_of(self.output)

    def refused(self, *options: object, **rest: Any) -> str:
        """What the command says when it ends with 2; checks that it is one line and nothing was written."""
        before = sorted(self.folder.rglob("*"))
        code = self(*options, **rest)
        assert code == 2, self.err
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        assert self.out == ""
        assert sorted(self.folder.rglob("*")) == before
        return lines[0]

    def manifest(self) -> dict[str, Any]:
        return json.loads(self.output.with_name(self.output.name + ".json").read_text())

    def beside(self) -> list[str]:
        return sorted(path.name for path in self.output.parent.iterdir())

    def use(self, name: str, pixels: np.ndarray, **told: Any) -> np.ndarray:
        self.image = save(self.folder / name, pixels, **told)
        return pixels


@pytest.fixture
def command(tmp_path: Path, tiny_epsilon: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, tiny_epsilon, capsys)


FINISHED = ["edited.png", "edited.png.json"]


# Any image, in and out.


@pytest.mark.parametrize("size", [(33, 57), (57, 33), (32, 32), (20, 27), (9, 70), (1, 1), (48, 64)])
@pytest.mark.parametrize("borders", ["margin", "none"])
def test_any_size_comes_back_in_its_size(command: Command, size: tuple[int, int], borders: str) -> None:
    source = command.use("in.png", noise(*size, 3))
    edited = command.edited("--borders", borders, steps=2)
    assert edited.shape == source.shape
    assert edited.dtype == np.uint8
    assert command.beside() == FINISHED
    assert "edited.png: " in command.out
    assert "note" not in command.err


@pytest.mark.parametrize("size", [(33, 57), (20, 27), (27, 20), (1, 1)])
def test_any_ring_comes_back_in_its_size(command: Command, size: tuple[int, int]) -> None:
    source = command.use("in.png", noise(*size, 3))
    assert command.edited("--wrap", steps=2).shape == source.shape


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif"])
def test_formats(command: Command, suffix: str) -> None:
    command.output = command.folder / f"edited{suffix}"
    assert command.edited(steps=1).shape == (45, 61, 3)


@pytest.mark.parametrize("name", ["in.png", "in.jpg"])
def test_what_came_with_a_picture_stays_with_it(command: Command, name: str) -> None:
    exif = Image.Exif()
    exif[271] = "Maker"
    command.use(name, noise(45, 61, 3), icc_profile=SRGB, exif=exif)
    command.edited(steps=1)
    told = read_picture(command.output)
    assert told.icc_profile == SRGB
    assert told.exif is not None
    assert b"Maker" in told.exif


def test_a_turned_photo_is_edited_upright(command: Command) -> None:
    exif, mask = Image.Exif(), np.zeros((61, 45), np.uint8)
    exif[274], mask[:8] = 6, 255  # the image is to be turned by 90 degrees clockwise
    stored = command.use("in.png", noise(45, 61, 3), exif=exif)
    edited = command.edited("--mask", save(command.folder / "mask.png", mask), steps=2)
    assert edited.shape == (61, 45, 3)
    upright = np.rot90(stored, -1)
    np.testing.assert_array_equal(edited[8:], upright[8:])
    assert (edited[:8] != upright[:8]).any()


def test_transparency_stays(command: Command) -> None:
    source = command.use("in.png", noise(45, 61, 4))
    command.edited(steps=1)
    alpha = read_picture(command.output).alpha
    assert alpha is not None
    np.testing.assert_array_equal(alpha, source[..., 3])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_where_the_mask_is_black_nothing_changes(command: Command, dtype: Any) -> None:
    source = command.use("in.png", noise(45, 61, 3, dtype=dtype))
    soft = np.zeros((45, 61), np.uint8)
    soft[10:30, 20:40], soft[10:30, 40:45] = 255, 128
    hard = np.where(soft > 0, 255, 0).astype(np.uint8)
    edited = command.edited("--mask", save(command.folder / "soft.png", soft))
    wholly = command.edited("--mask", save(command.folder / "hard.png", hard))
    for result in (edited, wholly):
        assert result.dtype == dtype
        np.testing.assert_array_equal(result[soft == 0], source[soft == 0])
        assert (result[soft > 0] != source[soft > 0]).mean() > 0.9
    # the windows and steps differ where the mask is grey, so only which side it is on is certain
    half = 128 / 255 * np.abs(wholly[soft == 128].astype(float) - source[soft == 128])
    assert np.abs(edited[soft == 128].astype(float) - source[soft == 128]).mean() < 1.3 * half.mean()


def test_a_grey_mask_mixes(command: Command) -> None:
    """Steps are scaled by the mask and the decoded image is blended by it."""
    source, grey = pixels_of(command.image) / 255, np.full((45, 61), 64, np.uint8)
    seen: list[Tensor] = []

    class Seen(Panorama):
        def decode(self, canvas: Tensor) -> Tensor:
            seen.append(super().decode(canvas))
            return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Panorama", Seen)
        edited = command.edited("--mask", save(command.folder / "grey.png", grey))
    decoded = seen[-1][0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(edited / 255, source + 64 / 255 * (decoded - source), atol=0.51 / 255)


def test_16_bits_are_more_than_8(command: Command) -> None:
    command.use("in.png", noise(45, 61, 3, dtype=np.uint16))
    edited = command.edited(steps=1)
    assert edited.dtype == np.uint16
    assert len(np.unique(edited)) > 1000


# What the manifest says, and what the result hangs on.


def test_the_manifest_has_every_setting_and_figure(command: Command) -> None:
    command.edited("--guidance-scale", 3, "--t-range", 0.1, 0.4, "--seed", 5, "--negative-prompt", "snow")
    manifest = command.manifest()
    assert set(manifest["options"]) == set(PanoramaOptions.__dataclass_fields__)
    assert manifest["options"]["seed"] == manifest["edit"]["seed"] == 5
    assert manifest["options"]["learning_rate"] is None
    assert manifest["edit"]["learning_rate"] == 2.0
    assert manifest["edit"]["t_range"] == [0.1, 0.4]
    assert manifest["edit"]["num_steps"] == 3
    assert manifest["edit"]["negative_prompt"] == "snow"
    assert set(manifest["edit"]) == set(vars(EditConfig()))
    assert set(manifest["versions"]) == set(PACKAGES)
    assert manifest["machine"]["python"]
    assert manifest["inputs"] == {str(command.image): files.file_hash(command.image)}
    assert manifest["seconds"] > 0


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
    command.edited("--batch-size", 3, steps=4)
    manifest = command.manifest()
    edit = EditConfig(**{**manifest["edit"], "t_range": tuple(manifest["edit"]["t_range"])})
    windows = manifest["windows"]
    assert manifest["evaluations"] == counted
    assert counted == count_evaluations(edit, {"make it red": [1.0] * windows}, windows)
    assert f"{counted} evaluations" in command.out
    command("--batch-size", 3, "--dry-run", steps=4)
    assert f"evaluations   {manifest['evaluations']}\n" in command.out


def test_the_seed_decides(command: Command) -> None:
    command.edited()
    first = command.output.read_bytes()
    command.edited()
    assert command.output.read_bytes() == first
    command.edited("--seed", 1)
    assert command.output.read_bytes() != first


def test_an_edit_edits(command: Command) -> None:
    """More than encoding and decoding does."""
    edited = command.edited(steps=5).astype(float)
    model = InstructPix2Pix.from_pretrained(str(command.model))
    image = read_picture(command.image).to_tensor()[None, :, :44, :60]
    decoded = model.decode(model.encode(image))[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(edited[8:36, 8:52] - decoded[8:36, 8:52]).mean() > 2


def test_the_split_does_not_matter(command: Command) -> None:
    whole = command.edited("--max-batch", 64).astype(int)
    for max_batch in (1, 7):
        assert np.abs(command.edited("--max-batch", max_batch) - whole).max() <= 1


@pytest.mark.parametrize(
    "option", [("--borders", "lift"), ("--borders", "none"), ("--stride", 8), ("--wrap",)]
)
def test_options_change_the_result(command: Command, option: Sequence[object]) -> None:
    assert (command.edited() != command.edited(*option)).any()


# Previews.


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


def test_previews_are_there_during_the_edit_and_gone_after_it(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    preview, seen = command.output.with_name("edited.preview.png"), {}

    def look(watch: Watch) -> None:
        if preview.is_file():
            seen[watch.steps_done] = pixels_of(preview)

    watched(monkeypatch, look)
    final = command.edited("--preview-every", 2, steps=5)
    assert list(seen) == [2, 3, 4, 5]
    np.testing.assert_array_equal(seen[2], seen[3])
    assert (seen[2] != seen[4]).any()
    assert (seen[4] != final).any()
    assert all(image.shape == final.shape for image in seen.values())
    assert command.beside() == FINISHED


def test_a_preview_keeps_what_the_mask_keeps(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    mask, source = np.zeros((45, 61), np.uint8), pixels_of(command.image)
    mask[:20] = 255
    previews: list[np.ndarray] = []
    preview = command.output.with_name("edited.preview.png")
    watched(monkeypatch, lambda _: previews.append(pixels_of(preview)) if preview.is_file() else None)
    command.edited("--preview-every", 1, "--mask", save(command.folder / "mask.png", mask))
    assert previews
    np.testing.assert_array_equal(previews[-1][20:], source[20:])


def test_without_previews_a_file_of_their_name_is_left_alone(command: Command) -> None:
    command.output.parent.mkdir()
    command.image = save(command.output.with_name("edited.preview.png"), noise(45, 61, 3))
    command.edited(steps=1)
    assert command.image.is_file()
    assert "the input itself" in command.refused("--preview-every", 1)


# Stopping and going on.


def uninterrupted(command: Command, *options: object, **rest: Any) -> bytes:
    command.edited(*options, **rest)
    whole = command.output.read_bytes()
    for path in command.output.parent.iterdir():
        path.unlink()
    return whole


@pytest.mark.parametrize("options", [(), ("--batch-size", 3), ("--wrap", "--preview-every", 2)])
def test_a_stopped_edit_goes_on_to_the_same_bytes(
    command: Command, options: Sequence[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = uninterrupted(command, *options, steps=6)
    with monkeypatch.context() as patch:
        watched(patch, press_ctrl_c(after=3))
        assert command(*options, steps=6) == 130
    partly = command.output.with_name("edited.step-4.png")
    said = command.err.splitlines()[-1]
    assert said.startswith("stopped after step 4 of 6")
    assert str(partly) in said
    assert "--resume" in said
    assert "Traceback" not in command.err
    assert pixels_of(partly).shape == (45, 61, 3)
    assert not command.output.exists()
    assert command.out == ""
    kept = [name for name in command.beside() if "preview" not in name]
    assert kept == ["edited.png.unfinished.safetensors", "edited.step-4.png"]

    command.edited("--resume", *options, steps=6)
    assert "going on after step 4" in command.err
    assert command.output.read_bytes() == whole
    assert command.beside() == [*FINISHED, "edited.step-4.png"]
    windows = command.manifest()["windows"]
    assert 0 < command.manifest()["evaluations"] <= 2 * 5 * windows


def test_an_output_of_before_stays_until_the_edit_is_done(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.output.parent.mkdir()
    command.output.write_bytes(b"before")
    watched(monkeypatch, press_ctrl_c(after=1))
    assert command() == 130
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
    ("options", "rest", "named"),
    [
        (("--seed", 1), {}, "seed 0, not 1"),
        ((), {"prompt": "make it blue"}, "prompt 'make it red', not 'make it blue'"),
        ((), {"steps": 7}, "num_steps 6, not 7"),
        (("--stride", 8), {}, "stride 4, not 8"),
        (("--wrap",), {}, "wrap False, not True"),
        (("--borders", "none"), {}, "borders 'margin', not 'none'"),
        (("--guidance-scale", 3), {}, "guidance_scale 7.5, not 3.0"),
        (("--t-range", 0.1, 0.5), {}, "t_range [0.2, 0.5], not [0.1, 0.5]"),
        (("--dtype", "float16"), {}, f"dtype {USUAL!r}, not 'float16'"),
    ],
)
def test_going_on_with_another_setting_is_refused(
    command: Command,
    options: Sequence[object],
    rest: dict[str, Any],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop(command, monkeypatch, steps=6)
    assert f"was begun with {named}; " in command.refused("--resume", *options, **{"steps": 6, **rest})


@pytest.mark.parametrize("changed", ["in.png", "mask.png", "regions.json", "area.png"])
def test_going_on_with_another_input_is_refused(
    command: Command, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    white = np.full((45, 61), 255, np.uint8)
    mask, area = save(command.folder / "mask.png", white), save(command.folder / "area.png", white)
    regions = command.folder / "regions.json"
    regions.write_text(json.dumps([{"prompt": "red", "mask": "area.png"}]))
    options = ("--mask", mask, "--regions", regions)
    stop(command, monkeypatch, *options)
    if changed == "regions.json":
        regions.write_text(json.dumps([{"prompt": "blue", "mask": "area.png"}]))
    elif changed == "in.png":
        save(command.image, noise(45, 61, 3, seed=1))
    else:
        white[:9] = 0
        save({"mask.png": mask, "area.png": area}[changed], white)
    assert f"begun with contents of {command.folder / changed} " in command.refused("--resume", *options)


def test_going_on_is_free_in_what_the_result_does_not_hang_on(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(command, monkeypatch)
    command.edited("--resume", "--guidance-scale", 7.5, "--max-batch", 3, "--preview-every", 1)
    assert "going on after step 2" in command.err


def test_a_damaged_checkpoint_is_one_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    stop(command, monkeypatch)
    checkpoint = command.output.with_name("edited.png.unfinished.safetensors")
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    said = command.refused("--resume")
    assert "resume: " in said
    assert "damaged" in said
    command.edited()  # without --resume it is replaced
    assert f"note: {checkpoint} is an unfinished edit" in command.err
    assert command.beside() == [*FINISHED, "edited.step-2.png"]


def test_nothing_to_resume_begins_anew(command: Command) -> None:
    command.edited()
    whole = command.output.read_bytes()
    command.edited("--resume")
    assert "nothing to resume" in command.err
    assert "beginning anew" in command.err
    assert command.output.read_bytes() == whole


def test_an_edit_that_cannot_be_written_can_be_resumed(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    whole = uninterrupted(command)
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_picture", full)
        assert command() == 2
    line = command.err.splitlines()[-1]
    assert line.startswith("error: [Errno 28] No space left on device: ")
    assert "free some" in line
    assert command.beside() == ["edited.png.unfinished.safetensors"]
    command.edited("--resume")
    assert "going on after step 3" in command.err
    assert command.output.read_bytes() == whole


def test_nan_keeps_the_state_before_it(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Panorama, *_: object, **__: object) -> Tensor:
        raise NonFiniteError(2, 3, self.latents[0])

    monkeypatch.setattr(Panorama, "run", run)
    assert command() == 2
    partly = command.output.with_name("edited.step-2.png")
    said = [line for line in command.err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert "step 2 " in said[0]
    assert str(partly) in said[0]
    assert pixels_of(partly).shape == (45, 61, 3)
    assert not command.output.exists()


KILLED = """
import sys
from csd_core.cli import panorama, watch
watch.SAVE_SECONDS = 0.0
sys.exit(panorama.main())
"""


def test_a_killed_process_loses_nothing_but_the_last_steps(command: Command) -> None:
    args, checkpoint = command.args(steps=60), command.output.with_name("edited.png.unfinished.safetensors")
    with running([sys.executable, "-c", KILLED, *args], stderr=subprocess.PIPE) as process:
        wait_for(checkpoint.is_file, process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not command.output.exists()
    found = Checkpoint(checkpoint, {"prompt": "another"})
    with pytest.raises(ValueError, match="was begun with"):
        found.load()  # whole, not damaged
    command.edited("--resume", steps=60)
    assert "going on after step" in command.err
    resumed = command.output.read_bytes()
    command.edited(steps=60)
    assert command.output.read_bytes() == resumed


def test_a_process_that_gets_ctrl_c_ends_with_130(command: Command) -> None:
    args = [sys.executable, "-m", "csd_core.cli.panorama", *command.args("--preview-every", 1, steps=100000)]
    pipe = subprocess.PIPE
    with running(args, stdout=pipe, stderr=pipe) as process:
        wait_for(command.output.with_name("edited.preview.png").is_file, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    said = err.splitlines()[-1]
    assert said.startswith("stopped after step ")
    (partly,) = command.output.parent.glob("edited.step-*.png")
    assert str(partly) in said
    assert pixels_of(partly).shape == (45, 61, 3)
    assert not command.output.exists()


# --dry-run, hints.


def test_a_dry_run_says_what_it_takes_and_writes_nothing(command: Command) -> None:
    before = sorted(command.folder.rglob("*"))
    assert command("--dry-run", steps=None) == 0
    assert sorted(command.folder.rglob("*")) == before
    lines = dict(line.split(maxsplit=1) for line in command.out.splitlines())
    assert list(lines) == ["canvas", "windows", "steps", "evaluations", "time", "memory"]
    assert int(lines["evaluations"]) > 0
    assert "8 x 8 latents" in lines["windows"]
    assert "GiB on cpu" in lines["memory"]


def test_a_dry_run_leaves_an_unfinished_edit_alone(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    stop(command, monkeypatch)
    before = command.beside()
    assert command("--dry-run", "--preview-every", 1) == 0
    assert command.beside() == before
    assert "note" not in command.err


def test_a_sphere_gets_a_hint(command: Command) -> None:
    gpano = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d GPano:ProjectionType="equirectangular"/></x:xmpmeta>'
    command.image = command.folder / "in.webp"
    Image.fromarray(noise(32, 64, 3)).save(command.image, xmp=gpano)
    command.edited(steps=1)
    assert "note: this is a 360-degree image; with --wrap" in command.err
    command.edited("--wrap", steps=1)
    assert "note" not in command.err


def test_a_mask_and_a_jpeg_get_a_hint(command: Command) -> None:
    command.output = command.folder / "edited.jpg"
    mask = save(command.folder / "mask.png", np.full((45, 61), 255, np.uint8))
    command.edited("--mask", mask, steps=1)
    assert "note: JPEG is lossy" in command.err


# Bad input.


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (("--stride", 0), "stride"),
        (("--stride", 9), "stride"),
        (("--seed", -1), "seed"),
        (("--num-steps", 0), "num_steps"),
        (("--preview-every", -1), "preview_every"),
        (("--max-batch", 0), "max_batch"),
        (("--batch-size", 0), "batch_size"),
        (("--learning-rate", 0), "learning_rate"),
        (("--guidance-scale", "nan"), "guidance_scale"),
        (("--t-range", 0.5, 0.2), "t_range"),
        (("--t-range", 0.2, 1.2), "t_range"),
        (("--max-pixels", 10), "--max-pixels"),
        (("--max-pixels", 0), "max_pixels"),
        (("--model", "no/such/model", "--local-files-only"), "no/such/model"),
        (("--model", "/no/such/model"), "/no/such/model"),
        (("--device", "abacus"), "device"),
        (("--mask", "/no/such/mask.png"), "/no/such/mask.png"),
        (("--regions", "/no/such/regions.json"), "/no/such/regions.json"),
        (("--image", "/no/such/image.png"), "/no/such/image.png"),
    ],
)
def test_a_bad_option_is_one_line(command: Command, options: Sequence[object], name: str) -> None:
    assert name in command.refused(*options)


@pytest.mark.parametrize("prompt", [None, "", "  "])
def test_an_instruction_is_needed(command: Command, prompt: str | None) -> None:
    assert "prompt: expected an instruction" in command.refused(prompt=prompt)


@pytest.mark.parametrize("content", [b"", b"not an image", "truncated", "folder"])
@pytest.mark.parametrize("option", ["--image", "--mask"])
def test_a_bad_image_is_one_line(command: Command, content: bytes | str, option: str) -> None:
    bad = command.folder / "bad.png"
    if content == "folder":
        bad.mkdir()
    else:
        whole = command.image.read_bytes()
        bad.write_bytes(content if isinstance(content, bytes) else whole[: len(whole) // 2])
    assert str(bad) in command.refused(option, bad)


@pytest.mark.parametrize(
    ("mask", "said"), [(np.full((45, 60), 255, np.uint8), "61x45"), (np.zeros((45, 61), np.uint8), "empty")]
)
def test_a_mask_that_does_not_fit_is_one_line(command: Command, mask: np.ndarray, said: str) -> None:
    assert said in command.refused("--mask", save(command.folder / "mask.png", mask))


@pytest.mark.parametrize(
    ("regions", "said"),
    [
        ('[{"prompt": "red", "box": [0, 0, 62, 45]}]', "inside the image of 61 x 45"),
        ('[{"prompt": "red", "strip": [-1, 5]}]', "inside the image"),
        ('[{"prompt": "red", "strip": [30, 5]}]', "inside the image"),
        ('[{"prompt": "red", "box": [5, 5, 5, 9]}]', "inside the image"),
        ('[{"prompt": "red", "mask": "small.png"}]', "61x45"),
        ('[{"prompt": "red", "mask": "none.png"}]', "none.png"),
        ('[{"prompt": "red", "bxo": [0, 0, 9, 9]}]', "bxo"),
        ('[{"prompt": "red"}]', "one of box, strip and mask"),
        ('[{"prompt": " ", "strip": [0, 9]}]', "a prompt"),
        ('[{"prompt": "red", "strip": [0, 9]}', "not valid JSON"),
        ('{"prompt": "red"}', "list"),
        ("[]", "list"),
        ("3", "list"),
    ],
)
def test_bad_regions_are_one_line(command: Command, regions: str, said: str) -> None:
    save(command.folder / "small.png", np.full((40, 61), 255, np.uint8))
    path = command.folder / "regions.json"
    path.write_text(regions)
    assert said in command.refused("--regions", path)


def test_a_region_and_a_mask_that_do_not_meet_are_one_line(command: Command) -> None:
    mask = np.zeros((45, 61), np.uint8)
    mask[:, 40:] = 255
    path = command.folder / "regions.json"
    path.write_text('[{"prompt": "red", "strip": [0, 9]}]')
    options = ("--regions", path, "--mask", save(command.folder / "mask.png", mask))
    assert "mask" in command.refused(*options, prompt=None)


@pytest.mark.parametrize("name", ["", "out.bmp", "out", "in.png", "in.png/out.png"])
def test_a_bad_output_is_one_line(command: Command, name: str) -> None:
    assert str(command.folder / name) in command.refused("--output", command.folder / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_line(command: Command) -> None:
    locked = command.folder / "locked"
    locked.mkdir(mode=0o500)
    assert str(locked) in command.refused("--output", locked / "out.png")


@pytest.mark.parametrize("option", ["--mask", "--regions"])
def test_the_output_is_no_other_input_either(command: Command, option: str) -> None:
    other = save(command.folder / "other.png", np.full((45, 61), 255, np.uint8))
    assert "the input itself" in command.refused(option, other, "--output", other)


def test_verbose_shows_the_traceback(command: Command) -> None:
    assert command("--verbose", "--stride", 0) == 2
    assert "Traceback" in command.err
    assert command.err.splitlines()[-1].startswith("error: stride")


# The usual ways.


@pytest.mark.parametrize(
    ("method", "windows"), [("ip2p-resize", 1), ("ip2p-patch", 4), ("ip2p-overlap", 2 * 3)]
)
def test_the_usual_ways_count_too(command: Command, method: str, windows: int) -> None:
    edited = command.edited("--method", method)
    assert edited.shape == (45, 61, 3)
    manifest = command.manifest()
    assert manifest["evaluations"] == 3 * windows * 3
    assert manifest["sampling"]["num_inference_steps"] == 3
    assert manifest["options"]["method"] == method
    assert command.beside() == FINISHED
    assert (edited != command.edited("--method", method, "--seed", 1)).any()


@pytest.mark.parametrize("method", ["ip2p-resize", "ip2p-patch", "ip2p-overlap"])
def test_the_usual_ways_take_any_size_and_a_mask(command: Command, method: str) -> None:
    source, mask = command.use("in.png", noise(20, 70, 3)), np.zeros((20, 70), np.uint8)
    mask[:, :30] = 255
    edited = command.edited(
        "--method", method, "--mask", save(command.folder / "mask.png", mask), steps=2, prompt="red"
    )
    np.testing.assert_array_equal(edited[:, 30:], source[:, 30:])
    assert (edited[:, :30] != source[:, :30]).any()


@pytest.mark.parametrize(
    "option", [("--regions", "r.json"), ("--wrap",), ("--resume",), ("--dry-run",), ("--preview-every", 1)]
)
def test_what_only_csd_can_is_refused(command: Command, option: Sequence[object]) -> None:
    name = str(option[0]).removeprefix("--").replace("-", "_")
    said = command.refused("--method", "ip2p-patch", *option)
    assert f"{name}: expected method csd, got ip2p-patch" in said


# Regions.


def regions(command: Command, *entries: dict[str, Any]) -> tuple[str, Path]:
    path = command.folder / "regions.json"
    path.write_text(json.dumps(entries))
    return "--regions", path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_without_an_instruction_for_the_rest_it_stays(command: Command, dtype: Any) -> None:
    source = command.use("in.png", noise(45, 61, 3, dtype=dtype))
    boxes = {"prompt": "red", "box": [4, 5, 30, 20]}, {"prompt": "blue", "strip": [40, 50]}
    edited = command.edited(*regions(command, *boxes), prompt=None, steps=4)
    inside = np.zeros((45, 61), bool)
    inside[5:20, 4:30] = inside[:, 40:50] = True
    np.testing.assert_array_equal(edited[~inside], source[~inside])
    assert (edited[inside] != source[inside]).mean() > 0.9
    rest = command.edited(*regions(command, *boxes), steps=4)
    assert (rest[~inside] != source[~inside]).mean() > 0.9


@pytest.mark.parametrize("prompt", [None, "make it red"])
def test_a_prompt_costs_only_where_it_counts(command: Command, prompt: str | None) -> None:
    command.use("in.png", noise(32, 96, 3))  # borders none: 5 windows beginning at 0, 16, 32, 48, 64
    halves = {"prompt": "a", "strip": [0, "50%"]}, {"prompt": "b", "strip": ["50%", 96]}
    options = (*regions(command, *halves), "--borders", "none", "--stride", 4, "--batch-size", 99)
    command.edited(*options, prompt=prompt, steps=2)
    assert command.manifest()["windows"] == 5
    # target: 2 and one for each prompt; the windows at 16, 32 and 48 have both, for regions fade into each
    # other over 3 latent pixels around the border at 48; source: 2
    assert command.manifest()["evaluations"] == 2 * (5 * (2 + 1 + 2) + 3)


def test_regions_say_what_one_prompt_says(command: Command) -> None:
    """The same words for two halves are one instruction for the whole."""
    whole = command.edited()
    halves = {"prompt": "make it red", "strip": [0, 20]}, {"prompt": "make it red", "strip": [20, 61]}
    same = command.edited(*regions(command, *halves), prompt=None)
    assert np.abs(same.astype(int) - whole).max() <= 1
    assert (command.edited(*regions(command, halves[0], {**halves[1], "prompt": "blue"})) != whole).any()


def test_a_region_around_the_seam(command: Command) -> None:
    source = command.use("in.png", noise(32, 64, 3))
    edited = command.edited(*regions(command, {"prompt": "a", "strip": [56, 8]}), "--wrap", prompt=None)
    np.testing.assert_array_equal(edited[:, 8:56], source[:, 8:56])
    assert (edited[:, :8] != source[:, :8]).mean() > 0.9
    assert (edited[:, 56:] != source[:, 56:]).mean() > 0.9


def test_the_command_is_installed(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    monkeypatch.setattr(sys, "argv", ["csd-edit-panorama", *command.args(steps=1)])
    assert main() == 0
    assert command.output.is_file()


# Memory: what --dry-run says against what the command then takes, each in a process of its own.


@pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="the peak of a process is read from Linux"
)
@pytest.mark.parametrize(
    ("kind", "shape"), [("panorama", (240, 320, 3)), ("panorama", (1200, 1600, 3)), ("video", (270, 480, 3))]
)
def test_the_memory_foretold_is_what_it_takes(tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for k in range(1 if kind == "panorama" else 20):
        save(frames / f"{k:02}.png", noise(*shape, seed=k))
    given = ["--image", frames / "00.png"] if kind == "panorama" else ["--video", frames]
    output = tmp_path / ("out.png" if kind == "panorama" else "out.mp4")
    edit = ["--model", "mini", "--prompt", "make it snowy", "--device", "cpu", "--num-steps", "2"]
    command = [sys.executable, "-m", f"csd_core.cli.{kind}", *given, *edit, "--output", output]
    run = lambda *more: subprocess.run([*command, *more], capture_output=True, text=True, check=True)  # noqa: E731
    (said,) = (line for line in run("--dry-run").stdout.splitlines() if line.startswith("memory"))
    run()
    foretold = float(said.split("about ")[1].split(" GiB")[0])
    taken = json.loads(output.with_name(output.name + ".json").read_text())["peak_memory_gib"]
    assert abs(foretold - taken) < 0.2 * taken
