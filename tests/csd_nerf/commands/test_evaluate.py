"""csd-evaluate panorama and video, on small generated images and a tiny open_clip model."""

import base64
import html
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from csd_core.evaluation import Captions, Tools, measure_video
from csd_core.evaluation.metrics.extractors import ClipExtractor
from csd_core.evaluation.metrics.pixels import seam_score
from csd_core.evaluation.page import MAX_ITEMS
from csd_core.io.files import content_hash
from csd_nerf.commands.evaluate import main
from tests.csd_core.evaluation.drawn import CAPTIONS, darker, folder, image, pictures, tensors, tiny_clip


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of LPIPS and FID are missing, whatever the machine has."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


class Command:
    """csd-evaluate in a folder of its own."""

    def __init__(self, root: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self.clip, self._capsys = root, clip, capsys
        self.output = root / "report"
        self.out = self.err = ""

    def __call__(self, kind: str, source: Path, edited: Path, *options: object, **captions: str) -> int:
        texts = dict(zip(("source_caption", "target_caption"), CAPTIONS, strict=True)) | captions
        args = [kind, "--source", source, "--edited", edited, "--output", self.output]
        args += ["--clip", self.clip, "--device", "cpu", "--local-files-only"]
        args += [part for name, text in texts.items() for part in (f"--{name.replace('_', '-')}", text)]
        code = main([str(arg) for arg in (*args, *options)])
        self.out, self.err = self._capsys.readouterr()
        return code

    def report(self) -> dict[str, Any]:
        return json.loads((self.output / "report.json").read_text())

    def measures(self) -> dict[str, dict[str, Any]]:
        return {measure["key"]: measure for measure in self.report()["measures"]}

    def page(self) -> str:
        return (self.output / "report.html").read_text()


@pytest.fixture
def command(tmp_path: Path, clip_folder: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, clip_folder, capsys)


@pytest.fixture
def clips(tmp_path: Path) -> tuple[Path, Path]:
    before = pictures(4)
    return folder(tmp_path / "a", before), folder(tmp_path / "b", darker(before))


def test_a_video_has_a_report_of_its_measures_inputs_and_settings(
    command: Command, clips: tuple[Path, Path], clip_folder: Path
) -> None:
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[:, 32:] = 255
    given = image(command.root / "m.png", mask)
    assert command("video", *clips, "--mask", given) == 0
    report, measures = command.report(), command.measures()
    extractor = ClipExtractor.from_pretrained(str(clip_folder), device="cpu")
    masks = torch.from_numpy(mask[..., 0] / 255)
    before, after = tensors(pictures(4)), tensors(darker(pictures(4)))
    for one in measure_video(before, after, Captions(*CAPTIONS), Tools(extractor), mask=masks):
        found = measures[one.key]
        np.testing.assert_allclose(found["values"], one.values, atol=1e-5)
        assert (found["n"], found["formula"], found["better"]) == (one.n, one.formula, one.better)
    assert measures["psnr_outside_mask"]["n"] == 4
    assert report["items"] == ["0.png", "1.png", "2.png", "3.png"]
    assert report["pairs"] == [["0.png", "1.png"], ["1.png", "2.png"], ["2.png", "3.png"]]
    assert report["inputs"] == {str(path): content_hash(path) for path in (*clips, given)}
    assert report["options"]["clip"] == str(clip_folder)
    assert report["captions"] == dict(zip(("source", "target"), CAPTIONS, strict=True))
    assert report["extractor"]["identity"] == extractor.identity
    assert {"torch", "open_clip_torch", "lpips"} <= set(report["versions"])
    assert "CLIP directional similarity" in command.out
    notes = [line for line in command.err.splitlines() if line.startswith("note: ")]
    assert [line.split(":")[1].strip() for line in notes] == ["LPIPS", "FID"]
    assert command.out.count("not measured") == 2
    assert "LPIPS: the network" in command.page()


def test_the_page_has_its_images_and_loads_nothing(command: Command) -> None:
    before, tricky = pictures(31), "a <b>photo</b> & more"
    source, edited = folder(command.root / "a", before), folder(command.root / "b", darker(before))
    assert command("video", source, edited, "--frames", "1:", source_caption=tricky) == 0
    assert command.report()["frames"] == list(range(1, 31))
    page = command.page()
    assert html.escape(tricky) in page
    assert f"{MAX_ITEMS} of 30" in page
    assert not re.search(r"<(script|link|iframe|object)|href=", page)
    loads = re.findall(r'src="([^"]*)"', page)
    head = "data:image/jpeg;base64,"
    shown = [Image.open(io.BytesIO(base64.b64decode(x[len(head) :]))) for x in loads if x.startswith(head)]
    assert len(shown) == 2 * MAX_ITEMS
    for found, picture in zip(shown[:2], (before[1], darker(before[1:])[0]), strict=True):
        assert np.abs(np.asarray(found, np.float64) - picture).mean() < 6
    plots = [load for load in loads if load.startswith("data:image/svg+xml;base64,")]
    assert len(plots) == sum(1 for m in command.measures().values() if m["n"] > 1 and m["over"] != "whole")
    assert len(loads) == len(shown) + len(plots)
    assert b"</svg>" in base64.b64decode(plots[0].partition(",")[2])


def test_broken_images_are_reported_and_the_rest_is_measured(
    command: Command, clips: tuple[Path, Path]
) -> None:
    broken = clips[0] / "1.png"
    broken.write_bytes(b"no picture")
    assert command("video", *clips) == 0
    report = command.report()
    assert report["items"] == ["0.png", "2.png", "3.png"]
    assert report["pairs"] == [["2.png", "3.png"]]
    assert command.measures()["image_consistency"]["n"] == 1
    assert len(command.measures()["image_similarity"]["values"]) == 3
    lines = command.err.splitlines()[-2:]
    assert lines[0].startswith("could not be read (1)")
    for text in (*report["broken"], lines[1], command.page()):
        assert str(broken) in text


def test_a_panorama_is_measured_in_parts_with_its_seams(command: Command) -> None:
    wide, after = (pictures(1, seed, size=(64, 160))[0] for seed in (0, 1))
    source, edited = image(command.root / "a.png", wide), image(command.root / "b.png", after)
    assert command("panorama", source, edited, "--window", 64, "--stride", 32) == 0
    report, measures = command.report(), command.measures()
    assert report["items"] == [f"a.png, part {k} of 3" for k in (1, 2, 3)]
    assert len(report["pairs"]) == 2
    assert report["windows"] == [{"rows": [], "columns": [32, 64, 96, 128]}]
    edit, before = tensors([after, wide])
    expected = seam_score(edit, before, [], [32, 64, 96, 128])
    assert measures["seam_score"]["values"] == [pytest.approx(expected, rel=1e-4)]
    assert "warp_error" not in measures
    assert command.page().count("image/jpeg") == 6
    command.output = command.root / "other"
    assert command("panorama", source, edited, "--window", 96, "--stride", 32) == 2
    assert "--window: expected at most 64" in command.err


def test_an_older_report_is_replaced_and_nothing_else(command: Command, clips: tuple[Path, Path]) -> None:
    assert command("video", *clips) == 0
    assert command("video", *clips, target_caption="another") == 0
    assert command.report()["captions"]["target"] == "another"
    (command.output / "notes.txt").write_text("mine")
    assert command("video", *clips) == 2
    assert "a folder with other files" in command.err
    assert (command.output / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--source-caption", " "], "--source-caption: expected a caption"),
        (["--target-caption", CAPTIONS[0]], "two that differ"),
        (["--lpips-weights", "none.pth"], "weights"),
        (["--frames", "x"], "START:STOP"),
        (["--batch-size", 0], "batch-size"),
        (["--max-frames", 3], "at most 3 frames"),
        (["--max-pixels", 48], "48"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_one_line(
    options: list[object], said: str, command: Command, clips: tuple[Path, Path]
) -> None:
    assert command("video", *clips, *options) == 2
    assert command.err.startswith("error: ")
    assert command.err.count("\n") == 1
    assert said in command.err
    assert not command.output.exists()


def test_importing_the_command_is_light() -> None:
    heavy = ["nerfstudio", "diffusers", "open_clip", "lpips", "torchmetrics", "matplotlib", "jinja2"]
    code = f"import sys, {main.__module__}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
