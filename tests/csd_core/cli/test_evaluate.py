"""csd-evaluate as a whole, on small drawn pictures and a tiny open_clip model."""

import base64
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from csd_core.cli import evaluate as module
from csd_core.cli.evaluate import COMMANDS, Entry, EvaluateOptions, main
from csd_core.evaluation.measures import MEASURES
from csd_core.evaluation.metrics.extractors import ClipExtractor
from csd_core.evaluation.page import MOST_PICTURES
from csd_core.io.files import content_hash
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


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


def test_a_video_is_measured_and_told_of(
    command: Command, clips: tuple[Path, Path], clip_folder: Path
) -> None:
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[:, 32:] = 255
    given = image(command.root / "m.png", mask)
    assert command("video", *clips, "--mask", given) == 0
    report, measures = command.report(), command.measures()
    before = pictures(4)
    extractor = ClipExtractor.from_pretrained(str(clip_folder), device="cpu")
    s, e = (unit(extractor.images(tensors(x)).double().numpy()) for x in (before, darker(before)))
    t, t2 = unit(extractor.texts(list(CAPTIONS)).double().numpy())
    expected = (unit(e - s) * unit(t2 - t)).sum(axis=-1)
    found = measures["directional_similarity"]
    np.testing.assert_allclose(found["values"], expected, atol=1e-6)
    assert (found["mean"], found["n"]) == (pytest.approx(expected.mean()), 4)
    assert found["error"] == pytest.approx(expected.std(ddof=1) / 2)
    assert len(measures["warp_error"]["values"]) == 3
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
        assert (measure["formula"], measure["source"], measure["better"]) == (
            about.formula,
            about.source,
            about.better,
        )
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


def test_the_page_has_its_pictures_and_loads_nothing(command: Command, clips: tuple[Path, Path]) -> None:
    tricky = "a <b>photo</b> & more"
    assert command("video", *clips, source_caption=tricky) == 0
    page = command.page()
    assert tricky in page.text
    shown = page.images()
    assert len(shown) == 8
    expected = [one for pair in zip(pictures(4), darker(pictures(4)), strict=True) for one in pair]
    for found, picture in zip(shown, expected, strict=True):
        assert found.size == (64, 64)
        assert np.abs(np.asarray(found, np.float64) - picture).mean() < 6
    assert all(load.startswith("data:image/") for load in page.loads)
    plots = [load for load in page.loads if load.startswith("data:image/svg+xml;base64,")]
    assert len(plots) == sum(1 for m in command.measures().values() if m["n"] > 1 and m["over"] != "whole")
    for plot in plots:
        assert b"</svg>" in base64.b64decode(plot.partition(",")[2])


def test_a_long_video_is_shown_in_part(command: Command) -> None:
    before = pictures(30)
    source, edited = folder(command.root / "a", before), folder(command.root / "b", before[::-1])
    assert command("video", source, edited) == 0
    assert len(command.page().images()) == 2 * MOST_PICTURES
    assert f"{MOST_PICTURES} of 30" in command.page().text


def test_broken_pictures_are_told_of_at_the_end_and_the_rest_is_measured(
    command: Command, clips: tuple[Path, Path]
) -> None:
    (clips[0] / "1.png").write_bytes(b"no picture")
    assert command("video", *clips) == 0
    report = command.report()
    assert report["items"] == ["0.png", "2.png", "3.png"]
    assert report["pairs"] == [["2.png", "3.png"]]
    assert command.measures()["image_consistency"]["n"] == 1
    assert len(command.measures()["image_similarity"]["values"]) == 3
    assert [str(clips[0] / "1.png") in line for line in report["broken"]] == [True]
    told = command.err.splitlines()[-2:]
    assert told[0].startswith("could not be read (1)")
    assert str(clips[0] / "1.png") in told[1]
    assert str(clips[0] / "1.png") in command.page().text


def test_a_part_of_a_video_is_measured(command: Command, clips: tuple[Path, Path]) -> None:
    assert command("video", *clips, "--frames", "1:") == 0
    assert command.report()["frames"] == [1, 2, 3]


def test_a_panorama_is_measured_in_parts_with_its_seams(command: Command) -> None:
    wide, after = (pictures(1, seed, size=(64, 160))[0] for seed in (0, 1))
    source, edited = image(command.root / "a.png", wide), image(command.root / "b.png", after)
    assert command("panorama", source, edited, "--window", 64, "--stride", 32) == 0
    report, measures = command.report(), command.measures()
    assert report["items"] == [f"a.png, part {k} of 3" for k in (1, 2, 3)]
    assert len(report["pairs"]) == 2
    assert report["windows"] == [{"rows": [], "columns": [32, 64, 96, 128]}]
    luma = [picture.astype(np.float64) @ [0.299, 0.587, 0.114] for picture in (after, wide)]
    steps = [np.abs(np.diff(one, axis=1)) for one in luma]
    # elsewhere: the other columns, and all rows, which no border crosses
    borders = np.isin(np.arange(1, 160), [32, 64, 96, 128])
    rows = [np.abs(np.diff(one, axis=0)).ravel() for one in luma]
    shares = [
        s[:, borders].mean() / np.concatenate([s[:, ~borders].ravel(), r]).mean()
        for s, r in zip(steps, rows, strict=True)
    ]
    assert measures["seam_score"]["values"] == [pytest.approx(shares[0] / shares[1], rel=1e-4)]
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
    command.output = command.root / "file"
    command.output.write_text("x")
    assert command("video", *clips) == 2
    for place in (clips[1], clips[1] / "report", command.root):
        command.output = place
        assert command("video", *clips) == 2
        assert not (place / "report.json").exists()


@dataclass(frozen=True)
class Bad:
    """An input that is refused."""

    said: str
    change: Callable[[Path], Any] = lambda root: None
    options: tuple[object, ...] = ()
    captions: tuple[tuple[str, str], ...] = ()


def rewritten(name: str, several: list[np.ndarray]) -> Callable[[Path], Any]:
    def change(root: Path) -> None:
        for path in (root / name).iterdir():
            path.unlink()
        for k, picture in enumerate(several):
            image(root / name / f"{k}.png", picture)

    return change


@pytest.mark.parametrize(
    "bad",
    [
        Bad("expected 4 frames", rewritten("b", pictures(3))),
        Bad("scale them alike", rewritten("b", [picture[:48] for picture in pictures(4)])),
        Bad("expected pictures", rewritten("b", [])),
        Bad("expected pictures", rewritten("a", [])),
        Bad("no such file", lambda root: (root / "b").rename(root / "c")),
        Bad("--source-caption: expected a caption", captions=(("source_caption", " "),)),
        Bad("--target-caption: expected a caption", captions=(("target_caption", ""),)),
        Bad("two that differ", captions=(("target_caption", CAPTIONS[0]),)),
        Bad("64x64 as the", lambda root: image(root / "m.png", pictures(1)[0][:32]), ("--mask", "m.png")),
        Bad("ViT-B-33", options=("--clip", "ViT-B-33")),
        Bad("weights", options=("--clip-weights", "none.pt")),
        Bad("weights", options=("--lpips-weights", "none.pth")),
        Bad("START:STOP", options=("--frames", "x")),
        Bad("batch_size", options=("--batch-size", 0)),
        Bad("max_frames", options=("--max-frames", 0)),
        Bad("at most 3 frames", options=("--max-frames", 3)),
        Bad("48", options=("--max-pixels", 48)),
    ],
    ids=lambda bad: bad.said.replace(" ", "-"),
)
def test_bad_input_is_one_line(
    bad: Bad, command: Command, clips: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(command.root)
    bad.change(command.root)
    assert command("video", *clips, *bad.options, **dict(bad.captions)) == 2
    assert command.err.startswith("error: ")
    assert command.err.count("\n") == 1
    assert bad.said in command.err
    assert not command.output.exists()


def test_panoramas_of_two_sizes_are_refused(command: Command) -> None:
    wide = pictures(1, size=(64, 128))[0]
    source, edited = image(command.root / "a.png", wide), image(command.root / "b.png", wide[:, :100])
    assert command("panorama", source, edited) == 2
    assert "scale them alike" in command.err
    assert command("panorama", source, source, "--window", 96, "--stride", 32) == 2
    assert "--window: expected at most 64" in command.err
    assert command("panorama", source, source, "--window", 64) == 2
    assert not command.output.exists()


def test_words_that_a_scorer_was_not_taught_are_named_once(
    command: Command, clips: tuple[Path, Path]
) -> None:
    (command.clip / "words.json").write_text(json.dumps(["a", "photo", "at"]))
    try:
        assert command("video", *clips, source_caption="a photo at night, at night") == 0
    finally:
        (command.clip / "words.json").unlink()
    notes = [line for line in command.err.splitlines() if "was not taught" in line]
    assert len(notes) == 2  # one for each caption
    assert all(line.count("night of") == 1 for line in notes)


def test_further_kinds_can_be_added(capsys: pytest.CaptureFixture[str]) -> None:
    class Options(EvaluateOptions):
        """Options."""

    seen: list[Options] = []
    more = {"scene": Entry(Options, seen.append)}
    assert main(["scene", "--output", "x", "--source-caption", "y"], more=more) == 0
    assert [options.source_caption for options in seen] == ["y"]
    assert set(COMMANDS) == {"panorama", "video"}
    with pytest.raises(SystemExit) as raised:
        main(["scene", "--output", "x"])
    assert raised.value.code == 2
    capsys.readouterr()
    with pytest.raises(SystemExit) as raised:
        main(["--help"], more=more)
    assert raised.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("panorama", "video", "scene"))


def test_importing_the_command_is_light() -> None:
    import subprocess
    import sys

    heavy = ["diffusers", "open_clip", "lpips", "torchmetrics", "matplotlib", "jinja2"]
    code = f"import sys, {module.__name__}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
