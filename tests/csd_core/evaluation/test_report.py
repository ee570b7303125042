import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from csd_core.errors import UserError
from csd_core.evaluation import Captions, Measured, Tools, measure_video, measured
from csd_core.evaluation.metrics.extractors import ClipExtractor
from csd_core.evaluation.page import write_report
from csd_core.evaluation.report import Report, amount, check_report_folder, print_report
from tests.csd_core.evaluation.drawn import CAPTIONS, darker, pictures, tensors

TWO = Captions(*CAPTIONS)


def report(measures: list[Measured], tools: Tools | None = None, **more: Any) -> Report:
    names, positions = ["a", "b", "d", "e"], [0, 1, 3, 4]
    return Report("csd-evaluate video", {}, TWO, tools or Tools(), {}, names, positions, measures, **more)


def test_what_is_not_defined_is_none():
    content = report(
        [measured("image_similarity", [math.nan, 0.5]), measured("fid", [], missing="why")]
    ).as_json()
    one, other = content["measures"]
    assert content["pairs"] == [["a", "b"], ["d", "e"]]  # neighbours are one apart
    assert (one["values"], one["mean"], one["error"], one["n"]) == ([None, 0.5], 0.5, None, 1)
    assert (other["values"], other["mean"], other["missing"]) == ([], None, "why")
    json.dumps(content, allow_nan=False)


def test_amounts_have_error_and_unit():
    assert amount(measured("psnr_outside_mask", [20.0, 22.0])) == "21 ± 1 dB"
    assert amount(measured("fid", [12.5])) == "12.5"
    assert amount(measured("fid", [], missing="no weights")) == "not measured"
    assert amount(measured("image_similarity", [math.nan])) == "not defined"


def test_numbers_of_the_scorer_are_nowhere_called_those_of_clip(
    extractor: ClipExtractor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(extractor, "label", "scorer")
    monkeypatch.setattr(extractor, "name", "mini scorer")
    before, after = tensors(pictures(4)), tensors(darker(pictures(4)))
    several = measure_video(before, after, TWO, Tools(extractor), positions=[0, 1, 3, 4])
    whole = report(several, Tools(extractor))
    write_report(tmp_path, whole, before, after)
    print_report(whole)
    page, out = (tmp_path / "report.html").read_text(), capsys.readouterr().out
    for text in (re.sub(r"base64,[^\"]*", "", page), out):
        assert "scorer directional similarity" in text
        assert "CLIP" not in text


def test_values_are_shown_beside_their_images(tmp_path: Path):
    images = tensors(pictures(4))
    several = [
        measured("image_similarity", [0.111, 0.222, 0.333, 0.444]),
        measured("warp_error", [0.55, 0.66]),
    ]
    write_report(tmp_path, report(several), images, images)
    articles = (tmp_path / "report.html").read_text().split("<article>")[1:]
    found = [[number in article for number in ("0.111", "0.222", "0.333", "0.444")] for article in articles]
    assert found == [[k == j for j in range(4)] for k in range(4)]
    pairs = [[number in article for number in ("0.55<", "0.66<")] for article in articles]
    assert pairs == [[True, False], [False, False], [False, True], [False, False]]


def test_a_report_goes_to_a_new_folder_or_an_older_report(tmp_path: Path):
    source = tmp_path / "source.png"
    source.write_bytes(b"x")
    check_report_folder(tmp_path / "new", source)
    (tmp_path / "empty").mkdir()
    check_report_folder(tmp_path / "empty", source)
    old = tmp_path / "old"
    (old / "frames").mkdir(parents=True)
    (old / "report.html").write_text("")
    (old / "report.json").write_text('{"command": "csd-evaluate scene"}')
    check_report_folder(old, source)
    for text in ('{"command": "other"}', "[]", "{"):
        (old / "report.json").write_text(text)
        with pytest.raises(UserError, match="a folder with other files"):
            check_report_folder(old, source)
    with pytest.raises(UserError, match="inside or around"):
        check_report_folder(tmp_path, source)
    with pytest.raises(UserError, match="inside or around"):
        check_report_folder(tmp_path / "empty" / "report", tmp_path / "empty")
