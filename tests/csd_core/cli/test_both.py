"""What csd-edit-panorama and csd-edit-video have in common, for each of them."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from csd_core.cli.watch import Watch
from csd_core.denoisers.runtime.device import default_dtype, dtype_name
from csd_core.engine.config import EditConfig
from csd_core.engine.prepared import PreparedEdit
from csd_core.errors import NonFiniteError
from csd_core.io.files import content_hash
from csd_core.io.images import quantise
from csd_core.machine import PACKAGES
from tests.csd_core.cli.commands import (
    SIZE,
    Command,
    PanoramaCommand,
    VideoCommand,
    contents,
    noise,
    soft_mask,
    watched,
)
from tests.programs import running, wait_for

USUAL = dtype_name(default_dtype(torch.device("cpu")))
KINDS = ("panorama", "video")


@pytest.fixture(params=[PanoramaCommand, VideoCommand], ids=KINDS)
def command(
    request: pytest.FixtureRequest, tmp_path: Path, tiny_epsilon: Path, capsys: pytest.CaptureFixture[str]
) -> Command:
    return request.param(tmp_path, tiny_epsilon, capsys)


# Help, and options that are refused, without anything heavy.

LIGHT = """
import sys
from csd_core.cli.{kind} import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
print("imported:", {{"torch", "numpy", "PIL", "cv2", "av", "diffusers", "transformers"}} & sys.modules.keys())
sys.exit(code)
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("words", "code", "printed"),
    [
        ("--help", 0, "usage: "),
        ("--version", 0, "csd-nerf2nerf "),
        ("--nonsense", 2, "--nonsense"),
        ("--{source} in --output out.png", 2, "error: prompt: expected an instruction, got nothing"),
        ("--{source} in --output out.png --prompt \udc80", 2, "error: prompt: expected text in UTF-8, got "),
        ("--{source} in --output out.png --prompt a --seed -1", 2, "error: seed: expected 0 or more, got -1"),
        (
            "--{source} in --output out.png --prompt a --method {baseline} --resume",
            2,
            "error: resume: expected a method that optimises, such as csd, got {baseline}",
        ),
    ],
)
def test_help_and_refusals_import_nothing_heavy(kind: str, words: str, code: int, printed: str) -> None:
    names = {"source": "image", "baseline": "ip2p-resize"}
    if kind == "video":
        names = {"source": "video", "baseline": "ip2p-frame"}
    run = [sys.executable, "-c", LIGHT.format(kind=kind), *words.format(**names).split()]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert printed.format(**names) in done.stdout + done.stderr
    assert "imported: set()" in done.stdout


def test_help_explains_every_option_and_begins_with_the_required_ones(command: Command) -> None:
    with pytest.raises(SystemExit):
        command("--help")
    named = re.findall(r"^[│ ] (?:-h, )?--([a-z][a-z-]+)", command._capsys.readouterr().out, re.MULTILINE)
    assert named[:4] == ["help", command.source_option.removeprefix("--"), "output", "prompt"]
    every = command.options(**{command.source_option[2:]: Path("in"), "output": Path("out")}).as_json()
    assert sorted(named[1:]) == sorted(name.replace("_", "-") for name in every)


# What is edited.


@pytest.mark.parametrize("size", [(33, 57), (57, 20), (1, 1)])
def test_an_edit_has_the_size_of_its_source(command: Command, size: tuple[int, int]) -> None:
    source = command.use(command.pixels(size))
    edited = command.edited(steps=1)
    assert (edited.shape, edited.dtype) == (source.shape, np.uint8)
    assert command.written() == command.finished
    assert re.search(rf"^{command.output}: \d+ evaluations in ", command.out)


def test_an_edit_changes_more_than_its_model_loses(command: Command) -> None:
    still = command.edited("--learning-rate", 1e-9).astype(int)
    assert np.abs(command.edited("--learning-rate", 2) - still).mean() > 2


def test_the_seed_decides_and_the_chunks_do_not(command: Command) -> None:
    command.edited("--chunk-size", 64)
    first, whole = contents(command.output), command.read(command.output).astype(int)
    command.edited("--chunk-size", 64)
    assert contents(command.output) == first
    assert (command.edited("--seed", 1) != whole).any()
    chunked = command.edited("--max-batch", 4)  # the former name
    assert "note: --max-batch is now called --chunk-size" in command.err
    assert command.manifest()["edit"]["chunk_size"] == 4
    assert np.abs(chunked - whole).max() <= 1


@pytest.mark.parametrize("sampled", [False, True])
def test_where_the_mask_is_black_nothing_changes(command: Command, sampled: bool) -> None:
    mask = soft_mask()
    edited = command.edited("--method", command.baseline if sampled else "csd", *command.mask(mask))
    np.testing.assert_array_equal(edited[..., mask == 0, :], command.source[..., mask == 0, :])
    assert (edited[..., mask > 0, :] != command.source[..., mask > 0, :]).mean() > 0.5


@pytest.mark.filterwarnings("default")
def test_a_warning_of_the_model_is_a_note(command: Command) -> None:
    assert command("--model", "mini", prompt=f"add a unicorn to the {command.kind}", steps=1) == 0
    (line,) = (line for line in command.err.splitlines() if "unicorn" in line)
    assert line.startswith("note: ")
    assert ".py" not in command.err
    assert "Warning" not in command.err


# The methods, and what the manifest has.

GIVEN = {
    "guidance_scale": 3.0,
    "image_guidance_scale": 1.2,
    "negative_prompt": "snow",
    "learning_rate": 0.7,
    "batch_size": 3,
    "bandwidth_factor": 3.0,
    "shared_noise": True,
    "t_range": [0.1, 0.4],
    "noise_pool": 1,
    "chunk_size": 7,
    "seed": 5,
    "num_steps": 4,
}


def flags(settings: dict[str, Any]) -> list[object]:
    words: list[object] = []
    for name, value in settings.items():
        values = [] if value is True else value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *values]
    return words


def test_every_setting_reaches_the_edit_and_the_manifest(command: Command) -> None:
    option, mask = command.mask(soft_mask())
    command.edited(*flags(GIVEN), option, mask, steps=None)
    manifest = command.manifest()
    assert {name: manifest["edit"][name] for name in GIVEN} == GIVEN
    assert {name: manifest["options"][name] for name in GIVEN} == GIVEN
    assert set(manifest["edit"]) == set(vars(EditConfig()))
    assert set(manifest["versions"]) == set(PACKAGES)
    assert manifest["machine"]["python"]
    assert manifest["seconds"] > 0
    assert manifest["command"] == f"csd-edit-{command.kind}"
    assert manifest["inputs"] == {str(path): content_hash(path) for path in (command.input, mask)}
    command.edited(steps=1)  # what is left out suits the model
    assert command.manifest()["options"]["learning_rate"] is None
    assert command.manifest()["edit"]["learning_rate"] == {"panorama": 2.0, "video": 0.5}[command.kind]


@pytest.mark.parametrize(
    ("method", "each", "settings"),
    [
        ("csd", 5, {}),
        ("no-svgd", 5, {"mixing": False}),
        ("sds", 3, {"baseline": "noise"}),
        ("dds", 6, {"baseline": "prompt", "source_prompt": "a photo"}),
    ],
)
def test_methods_count_their_evaluations(
    command: Command, method: str, each: int, settings: dict[str, Any]
) -> None:
    """Three steps of four particles."""
    options = ("--method", method, *(["--source-prompt", "a photo"] if method == "dds" else []))
    command.edited(*options)
    manifest = command.manifest()
    assert manifest["evaluations"] == each * 4 * 3
    assert manifest["edit"].items() >= settings.items()
    command(*options, "--dry-run")
    assert f"evaluations   {each * 4 * 3}\n" in command.out


@pytest.mark.parametrize("method", ["no-svgd", "sds", "dds"])
def test_methods_run_with_the_editor_that_ships(command: Command, method: str) -> None:
    options = ("--method", method, "--model", "mini", "--source-prompt", "a photo")
    edited = command.edited(*options, prompt="make it snowy", steps=2)
    assert (edited != command.source).any()


def test_dds_needs_the_source_prompt(command: Command) -> None:
    assert "source_prompt: expected what the source shows" in command.refused("--method", "dds")


@pytest.mark.parametrize("option", [["--resume"], ["--dry-run"], ["--preview-every", 1]])
def test_what_needs_an_optimisation_is_refused(command: Command, option: Sequence[object]) -> None:
    name = str(option[0]).removeprefix("--").replace("-", "_")
    refused = command.refused("--method", command.baseline, *option)
    assert f"{name}: expected a method that optimises, such as csd, got {command.baseline}" in refused


# Previews.


def test_previews_are_there_during_the_edit_and_gone_after_it(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, bytes] = {}

    def look(watch: Watch) -> None:
        if command.beside("preview").is_file():
            seen[watch.steps_done] = np.asarray(Image.open(command.beside("preview"))).tobytes()

    watched(monkeypatch, look)
    command.edited("--preview-every", 2, steps=5)
    assert list(seen) == [2, 3, 4, 5]
    assert seen[2] == seen[3] != seen[4]
    assert command.written() == command.finished


def test_without_previews_a_file_of_their_name_is_left_alone(command: Command) -> None:
    command.output.parent.mkdir()
    option, mask = command.mask(soft_mask(), f"out/{command.names['preview']}")
    command.edited(option, mask, steps=1)
    assert mask.is_file()
    assert "the input itself" in command.refused("--preview-every", 1, option, mask)


# Stopping and resuming.


@pytest.mark.parametrize("options", [(), ("--batch-size", 3, "--preview-every", 2)])
def test_a_stopped_edit_is_resumed_to_the_same_bytes(command: Command, options: Sequence[object]) -> None:
    command.edited(*options, steps=6)
    whole, evaluations = contents(command.output), command.manifest()["evaluations"]
    command.stop(*options, after=3, steps=6)
    partly, checkpoint = command.beside("partly", 4), command.beside("checkpoint")
    stopped = command.err.splitlines()[-1]
    assert stopped.startswith("stopped after step 4 of 6")
    assert str(partly) in stopped
    assert "--resume" in stopped
    assert "Traceback" not in command.err
    assert command.out == ""
    assert contents(command.output) == whole  # that of before stays
    assert {partly.name, checkpoint.name} <= set(command.written())
    assert contents(partly) != whole

    command.edited("--resume", *options, steps=6)
    assert "continuing after step 4" in command.err
    assert contents(command.output) == whole
    assert command.written() == sorted([*command.finished, partly.name])
    assert 0 < command.manifest()["evaluations"] < evaluations


def test_resuming_with_another_setting_is_refused(command: Command) -> None:
    command.stop()
    for options, rest, named in [
        (("--seed", 1), {}, "seed 0, not 1"),
        (("--method", "sds"), {}, "method 'csd', not 'sds'"),
        (("--t-range", 0.1, 0.5), {}, "t_range [0.2, 0.5], not [0.1, 0.5]"),
        (("--dtype", "float16"), {}, f"dtype {USUAL!r}, not 'float16'"),
        ((), {"prompt": "make it blue"}, "prompt 'make it red', not 'make it blue'"),
        ((), {"steps": 7}, "num_steps 3, not 7"),
    ]:
        assert f"{named}; give the same settings" in command.refused("--resume", *options, **rest)


def test_resuming_with_another_input_is_refused(command: Command) -> None:
    option, mask = command.mask(np.full(SIZE, 255, np.uint8))
    command.stop(option, mask)
    before = command.source
    for path in (mask, command.input):
        command.mask(soft_mask()) if path == mask else command.use(255 - before)
        assert f"contents of {path} " in command.refused("--resume", option, mask)
        command.mask(np.full(SIZE, 255, np.uint8))
    command.use(before)
    command.edited("--resume", option, mask)
    assert "continuing after step 2" in command.err


def test_what_the_result_does_not_depend_on_may_change_when_resuming(command: Command) -> None:
    command.stop()
    command.edited("--resume", "--guidance-scale", 7.5, "--chunk-size", 3, "--preview-every", 1)
    assert "continuing after step 2" in command.err


def test_an_unfinished_edit_is_replaced_with_a_note(command: Command) -> None:
    command.stop()
    before = command.written()
    assert command("--dry-run", "--preview-every", 1) == 0
    assert "unfinished" not in command.err
    assert command.written() == before
    checkpoint = command.beside("checkpoint")
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    assert "damaged" in command.refused("--resume")
    command.edited()
    assert f"note: {checkpoint} is an unfinished edit, which is replaced" in command.err
    assert command.written() == sorted([*command.finished, command.beside("partly", 2).name])


def test_without_an_unfinished_edit_resume_starts_at_the_beginning(command: Command) -> None:
    command.edited()
    whole = contents(command.output)
    command.edited("--resume")
    assert "nothing to resume" in command.err
    assert contents(command.output) == whole


def test_an_edit_that_cannot_be_written_can_be_resumed(command: Command) -> None:
    command.edited()
    whole, written = contents(command.output), command.written()
    command.edited("--seed", 1)
    before = contents(command.output)
    written_before = iter(range(9))

    def full(*args: Any) -> np.ndarray:
        if next(written_before) == (2 if command.kind == "video" else 0):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return quantise(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"csd_core.cli.{command.kind}_run.quantise", full)
        assert command() == 2
    line = command.err.splitlines()[-1]
    assert line.startswith("error: [Errno 28] No space left on device: ")
    assert "free some" in line
    assert contents(command.output) == before
    assert command.written() == sorted([*written, command.beside("checkpoint").name])
    command.edited("--resume")
    assert "continuing after step 3" in command.err  # of 3
    assert command.manifest()["evaluations"] == 0
    assert contents(command.output) == whole


def test_nan_keeps_the_state_before_it(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: PreparedEdit, *_: object, **__: object) -> Tensor:
        raise NonFiniteError(2, 3, self.latents[0])

    monkeypatch.setattr(PreparedEdit, "run", run)
    assert command() == 2
    partly = command.beside("partly", 2)
    (line,) = (line for line in command.err.splitlines() if line.startswith("error: "))
    assert "step 2 " in line
    assert str(partly) in line
    assert command.read(partly).shape == command.source.shape
    assert not command.output.exists()


KILLED = """
import sys, time
from csd_core.cli import {kind}, watch
watch.SAVE_SECONDS, done = 0.0, watch.Watch.__call__
watch.Watch.__call__ = lambda self, step, canvas: (done(self, step, canvas), time.sleep(0.5))[0]
sys.exit({kind}.main())
"""


def test_a_killed_process_loses_the_last_steps_alone(command: Command) -> None:
    args, checkpoint = command.args(steps=6), command.beside("checkpoint")
    run = [sys.executable, "-c", KILLED.format(kind=command.kind), *args]
    with running(run, stderr=subprocess.PIPE) as process:
        wait_for(checkpoint.is_file, process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not command.output.exists()
    command.edited("--resume", steps=6)
    assert "continuing after step" in command.err
    resumed = contents(command.output)
    command.edited(steps=6)
    assert contents(command.output) == resumed


# --dry-run.


def test_a_dry_run_prints_what_the_edit_takes_and_writes_nothing(command: Command) -> None:
    before = sorted(command.folder.rglob("*"))
    assert command("--dry-run", steps=None) == 0
    assert sorted(command.folder.rglob("*")) == before
    rows = {line[:13].strip(): line[14:] for line in command.out.splitlines()}
    about = {"panorama": ["canvas", "windows"], "video": ["frames", "edited at"]}[command.kind]
    assert list(rows) == [*about, "steps", "evaluations", "time", "memory"]
    assert "GiB on cpu" in rows["memory"]
    assert rows[about[1]].startswith({"panorama": "20 of 8 x 8 latents", "video": "43 x 32"}[command.kind])


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak is read from Linux")
@pytest.mark.parametrize(("kind", "shape"), [("panorama", (1200, 1600, 3)), ("video", (270, 480, 3))])
def test_the_memory_of_a_dry_run_is_that_of_the_edit(
    tmp_path: Path, kind: str, shape: tuple[int, int, int]
) -> None:
    frames, output = tmp_path / "frames", tmp_path / ("out.png" if kind == "panorama" else "out.mp4")
    frames.mkdir()
    for k in range(1 if kind == "panorama" else 20):
        Image.fromarray(noise(*shape, seed=k)).save(frames / f"{k:02}.png")
    given = ["--image", frames / "00.png"] if kind == "panorama" else ["--video", frames]
    edit = ["--model", "mini", "--prompt", "make it snowy", "--device", "cpu", "--num-steps", "2"]
    words = [sys.executable, "-m", f"csd_core.cli.{kind}", *given, *edit, "--output", output]
    planned = subprocess.run([*words, "--dry-run"], capture_output=True, text=True, check=True).stdout
    subprocess.run(words, capture_output=True, check=True)
    memory = re.search(r"^memory +about ([0-9.]+) GiB", planned, re.MULTILINE)
    assert memory
    taken = json.loads(output.with_name(output.name + ".json").read_text())["peak_memory_gib"]
    assert abs(float(memory[1]) - taken) < 0.2 * taken


# Bad input.


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (("--num-steps", 0), "num_steps"),
        (("--preview-every", -1), "preview_every"),
        (("--chunk-size", 0), "chunk_size"),
        (("--max-pixels", 0), "max_pixels"),
        (("--max-pixels", 10), "--max-pixels"),
        (("--batch-size", 0), "batch_size"),
        (("--learning-rate", 0), "learning_rate"),
        (("--bandwidth-factor", 0), "bandwidth_factor"),
        (("--guidance-scale", "nan"), "guidance_scale"),
        (("--t-range", 0.5, 0.2), "t_range"),
        (("--model", "no/such/model", "--local-files-only"), "no/such/model"),
        (("--model", "/no/such/model"), "/no/such/model"),
        (("--device", "abacus"), "device"),
        (("--mask", "/no/such/mask.png"), "/no/such/mask.png"),
    ],
)
def test_a_bad_option_is_one_line(command: Command, options: Sequence[object], name: str) -> None:
    assert name in command.refused(*options)


@pytest.mark.parametrize("prompt", [None, "  "])
def test_an_instruction_is_needed(command: Command, prompt: str | None) -> None:
    assert "prompt: expected an instruction" in command.refused(prompt=prompt)


@pytest.mark.parametrize("option", ["source", "--mask"])
def test_a_file_that_cannot_be_read_is_one_line(command: Command, option: str) -> None:
    bad = command.folder / "bad.png"
    option = command.source_option if option == "source" else option
    assert str(bad) in command.refused(option, bad)
    for content in (b"", b"not an image"):
        bad.write_bytes(content)
        assert str(bad) in command.refused(option, bad)


def test_a_mask_that_does_not_fit_is_one_line(command: Command) -> None:
    assert "61x45" in command.refused(*command.mask(np.full((45, 60), 255, np.uint8)))
    assert "empty" in command.refused(*command.mask(np.zeros(SIZE, np.uint8)))


@pytest.mark.parametrize(
    "name", ["", "out.bmp", "out.avi", ".png", "{input}", "{input}/out.png", "folder.png"]
)
def test_a_bad_output_is_one_line(command: Command, name: str) -> None:
    (command.folder / "folder.png").mkdir()
    output = command.folder / name.format(input=command.input.name)
    assert str(output) in command.refused("--output", output)


def test_the_output_is_no_other_input_either(command: Command) -> None:
    option, mask = command.mask(soft_mask())
    assert "the input itself" in command.refused(option, mask, "--output", mask)


def test_verbose_shows_the_traceback(command: Command) -> None:
    assert command("--verbose", "--seed", -1) == 2
    assert "Traceback" in command.err
    assert command.err.splitlines()[-1].startswith("error: seed")
