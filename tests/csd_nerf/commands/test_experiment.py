import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from csd_core.experiments.inputs import render_panoramas, write_frames
from csd_nerf.commands.experiment import main
from tests.csd_core.evaluation.drawn import tiny_clip

# the tokenizer of the tiny model knows no words, and so runs out of tokens
pytestmark = pytest.mark.filterwarnings("ignore:the prompt is cut")


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("open_clip"))


def run(name: str, output: Path, model: Path, *options: str) -> int:
    small = f"--size 32 --num-steps 2 --seeds 0 --local-files-only --device cpu --model {model}".split()
    stride = () if name.startswith("video") else ("--stride", "4")
    return main([name, "--output", str(output), *small, *stride, *options])


def table_of(output: Path, name: str) -> dict[str, Any]:
    return json.loads((output / name / "table.json").read_text())


ABLATION = ("--prompts", "Van Gogh", "--methods", "csd", "sds")


def test_a_video_experiment_from_rendered_frames_to_tables(
    tiny_epsilon: Path, extractor: Path, tmp_path: Path
) -> None:
    options = (*ABLATION, "--num-frames", "2", "--clip", str(extractor))
    assert run("video-ablation", tmp_path, tiny_epsilon, *options) == 0
    folder = tmp_path / "video-ablation"
    data = table_of(tmp_path, "video-ablation")
    rows = {row["name"]: row for row in data["rows"]}
    assert data["cells"] == "2 of 2"
    assert data["command"].startswith("csd-experiment video-ablation --output")
    assert -1 <= rows["csd"]["values"]["directional_similarity"]["mean"] <= 1
    assert rows["csd"]["values"]["evaluations"]["mean"] == 2 * 2 * 5
    assert rows["sds"]["values"]["evaluations"]["mean"] == 2 * 2 * 3
    assert rows["sds"]["paper"]["lpips"] == "0.316"
    assert any(line.startswith("LPIPS: ") for line in data["not measured"])
    text = (folder / "table.md").read_text()
    assert "| no-svgd | 0 | – | 0.278 |" in text
    assert "Mean ± standard error" in text
    for name in ("plot.png", "sheet.png"):
        with Image.open(folder / name) as image:
            image.load()


def times(cells: Path, pattern: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in cells.glob(pattern)}


def test_finished_edits_are_kept_and_missing_ones_made(
    tiny_epsilon: Path, extractor: Path, tmp_path: Path
) -> None:
    arguments = ("panorama-batch", tmp_path, tiny_epsilon, "--methods", "csd", "--prompts")
    cells = tmp_path / "cells"
    assert run(*arguments, "Van Gogh", "--no-measure") == 0
    first = times(cells, "*/cell.json")
    assert len(first) == 3
    assert not (tmp_path / "panorama-batch").exists()
    removed = next(path for path in first if "B-8" in path.parent.name)
    shutil.rmtree(removed.parent)
    assert run(*arguments, "Van Gogh", "oriental", "--clip", str(extractor)) == 0
    again = times(cells, "*/cell.json")
    assert len(again) == 6
    assert [path for path in first if again[path] != first[path]] == [removed]
    data = table_of(tmp_path, "panorama-batch")
    assert [len(row["values"]["image_similarity"]["values"]) for row in data["rows"]] == [2, 2, 2]


def test_inputs_of_a_folder_and_times_without_an_extractor(tiny_epsilon: Path, tmp_path: Path) -> None:
    write_frames(tmp_path / "in", [one.frames[0] for one in render_panoramas(2, (40, 36))])
    options = ("--inputs", str(tmp_path / "in"), "--methods", "csd", "--prompts", "oriental")
    assert run("panorama-batch", tmp_path / "out", tiny_epsilon, *options) == 0
    data = table_of(tmp_path / "out", "panorama-batch")
    assert list(data["inputs"]) == ["00000", "00001"]
    assert [len(row["values"]["iterations"]["values"]) for row in data["rows"]] == [2, 2, 2]
    assert any(line.startswith("CLIP: ") for line in data["not measured"])
    assert "0.639" in (tmp_path / "out" / "panorama-batch" / "table.md").read_text()


def test_a_dry_run_counts_and_writes_nothing(
    tiny_epsilon: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (*ABLATION, "--num-frames", "2", "--dry-run")
    assert run("video-ablation", tmp_path / "out", tiny_epsilon, *options) == 0
    printed = capsys.readouterr().out
    assert "cells  2, 2 of them to do\n  csd: 1\n  sds: 1\n" in printed
    assert not (tmp_path / "out").exists()


BAD = {
    "expected one of panorama-tradeoff, ": ("nonsense",),
    "methods: expected some of csd, no-svgd, sds, got ip2p": ("video-ablation", "--methods", "ip2p"),
    "prompts: expected some of Van Gogh, ": ("video", "--prompts", "rain"),
    "inputs: expected a folder, got": ("video", "--inputs", "none-such"),
    "seeds: expected 0 or more": ("video", "--seeds", "-1"),
    "seeds: expected different ones": ("video", "--seeds", "1", "1"),
    "num-frames: expected at least 1, got 0": ("video", "--num-frames", "0"),
    "edits: expected a folder at /dev/null, got a file": ("video", "--output", "/dev/null/out"),
    "device: expected cpu, cuda": ("video", "--device", "abacus"),
    "model 'none/such'": ("video", "--model", "none/such", "--local-files-only"),
}


@pytest.mark.parametrize("expected", BAD)
def test_bad_input_is_one_line(
    expected: str, tiny_epsilon: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = BAD[expected]
    model = () if "--model" in options else ("--model", str(tiny_epsilon))
    assert main([name, "--output", str(tmp_path / "out"), "--no-measure", *model, *options]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert expected in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out" / "cells").exists()
