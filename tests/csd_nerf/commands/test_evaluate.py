"""csd-evaluate panorama and video, on small generated images and a tiny open_clip model."""

import base64
import io
import json
import math
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from csd_core.evaluation import Captions, Tools, measure_video
from csd_core.evaluation.measures import MEASURES
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

    def page(self) -> "Page":
        page = Page()
        page.feed((self.output / "report.html").read_text())
        page.close()
        assert page.open == []
        return page


class Page(HTMLParser):
    """Tags that are open, what is loaded, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        assert tag not in ("script", "link", "iframe", "object")
        self.loads += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def images(self) -> list[Image.Image]:
        """The JPEGs."""
        head = "data:image/jpeg;base64,"
        several = [load.removeprefix(head) for load in self.loads if load.startswith(head)]
        return [Image.open(io.BytesIO(base64.b64decode(one))) for one in several]


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
    before = pictures(4)
    extractor = ClipExtractor.from_pretrained(str(clip_folder), device="cpu")
    several = measure_video(tensors(before), tensors(darker(before)), Captions(*CAPTIONS), Tools(extractor))
    expected = {one.key: one for one in several}["directional_similarity"]
    found = measures["directional_similarity"]
    np.testing.assert_allclose(found["values"], expected.values, atol=1e-6)
    assert (found["mean"], found["error"], found["n"]) == pytest.approx((expected.mean, expected.error, 4))
    errors = [
        np.square(np.float64(a[:, :32]) - b[:, :32]).mean() / 255**2
        for a, b in zip(before, darker(before), strict=True)
    ]
    decibels = [-10 * math.log10(error) for error in errors]
    assert measures["psnr_outside_mask"]["values"] == pytest.approx(decibels, abs=1e-3)
    assert report["items"] == ["0.png", "1.png", "2.png", "3.png"]
    assert report["pairs"] == [["0.png", "1.png"], ["1.png", "2.png"], ["2.png", "3.png"]]
    assert report["inputs"] == {str(path): content_hash(path) for path in (*clips, given)}
    assert report["options"]["clip"] == str(clip_folder)
    assert report["captions"] == dict(zip(("source", "target"), CAPTIONS, strict=True))
    assert report["extractor"]["identity"] == extractor.identity
    assert {"torch", "open_clip_torch", "lpips"} <= set(report["versions"])
    for key, measure in measures.items():
        about = MEASURES[key]
        texts = about.formula, about.source, about.better
        assert (measure["formula"], measure["source"], measure["better"]) == texts
    assert "CLIP directional similarity" in command.out


def test_networks_that_are_missing_have_a_line_each(command: Command, clips: tuple[Path, Path]) -> None:
    assert command("video", *clips) == 0
    notes = [line for line in command.err.splitlines() if line.startswith("note: ")]
    assert [line.split(":")[1].strip() for line in notes] == ["LPIPS", "FID"]
    assert "--lpips-weights" in notes[0]
    measures = command.measures()
    for key in ("lpips", "fid"):
        assert measures[key]["missing"]
        assert (measures[key]["mean"], measures[key]["values"]) == (None, [])
    assert command.out.count("not measured") == 3  # and no mask was given
    text = command.page().text
    assert "LPIPS: " in text
    assert "not measured: no mask was given" in text


def test_the_page_has_its_images_and_loads_nothing(command: Command, clips: tuple[Path, Path]) -> None:
    tricky = "a <b>photo</b> & more"
    assert command("video", *clips, source_caption=tricky) == 0
    page = command.page()
    assert tricky in page.text
    shown = page.images()
    expected = [one for pair in zip(pictures(4), darker(pictures(4)), strict=True) for one in pair]
    for found, picture in zip(shown, expected, strict=True):
        assert found.size == (64, 64)
        assert np.abs(np.asarray(found, np.float64) - picture).mean() < 6
    assert all(load.startswith("data:image/") for load in page.loads)
    plots = [load for load in page.loads if load.startswith("data:image/svg+xml;base64,")]
    assert len(plots) == sum(1 for m in command.measures().values() if m["n"] > 1 and m["over"] != "whole")
    for plot in plots:
        assert b"</svg>" in base64.b64decode(plot.partition(",")[2])


def test_a_part_of_a_long_video_is_shown(command: Command) -> None:
    before = pictures(31)
    source, edited = folder(command.root / "a", before), folder(command.root / "b", before[::-1])
    assert command("video", source, edited, "--frames", "1:") == 0
    assert command.report()["frames"] == list(range(1, 31))
    assert len(command.page().images()) == 2 * MAX_ITEMS
    assert f"{MAX_ITEMS} of 30" in command.page().text


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
    for text in (*report["broken"], lines[1], command.page().text):
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
    assert len(command.page().images()) == 6


def test_panoramas_without_a_manifest_have_no_seam_score(command: Command) -> None:
    wide = pictures(2, size=(64, 128))
    source, edited = folder(command.root / "a", wide), folder(command.root / "b", darker(wide))
    assert command("panorama", source, edited) == 0
    assert "--window" in command.measures()["seam_score"]["missing"]
    assert len(command.report()["items"]) == 4
    assert len(command.report()["pairs"]) == 2


def test_an_older_report_is_replaced_and_nothing_else(command: Command, clips: tuple[Path, Path]) -> None:
    assert command("video", *clips) == 0
    assert command("video", *clips, target_caption="another") == 0
    assert command.report()["captions"]["target"] == "another"
    (command.output / "notes.txt").write_text("mine")
    assert command("video", *clips) == 2
    assert "a folder with other files" in command.err
    assert (command.output / "notes.txt").read_text() == "mine"
    for place in (clips[1], clips[1] / "report", command.root):
        command.output = place
        assert command("video", *clips) == 2
        assert not (place / "report.json").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--source-caption", " "], "--source-caption: expected a caption"),
        (["--target-caption", CAPTIONS[0]], "two that differ"),
        (["--clip", "ViT-B-33"], "ViT-B-33"),
        (["--lpips-weights", "none.pth"], "weights"),
        (["--frames", "x"], "START:STOP"),
        (["--batch-size", 0], "batch_size"),
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


def test_windows_that_do_not_fit_a_panorama_are_refused(command: Command) -> None:
    source = image(command.root / "a.png", pictures(1, size=(64, 128))[0])
    assert command("panorama", source, source, "--window", 96, "--stride", 32) == 2
    assert "--window: expected at most 64" in command.err
    assert command("panorama", source, source, "--window", 64) == 2
    assert not command.output.exists()


def test_words_that_the_scorer_was_not_trained_on_are_named_once(
    command: Command, clips: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClipExtractor, "unknown_words", lambda self, text: ["night"] * text.count("night"))
    assert command("video", *clips, source_caption="a photo at night, at night") == 0
    notes = [line for line in command.err.splitlines() if "was not trained on" in line]
    assert len(notes) == 2  # one for each caption
    assert all(line.count("night of") == 1 for line in notes)


def test_importing_the_command_is_light() -> None:
    heavy = ["nerfstudio", "diffusers", "open_clip", "lpips", "torchmetrics", "matplotlib", "jinja2"]
    code = f"import sys, {main.__module__}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
