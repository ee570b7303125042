import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from csd_core.experiments.inputs import render_clips, render_panoramas
from csd_nerf.commands.experiment import main

# the tokenizer of the tiny model knows no words, and so runs out of tokens
pytestmark = pytest.mark.filterwarnings("ignore:the prompt is cut")


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP of 16 pixels in open_clip's layout."""
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("open_clip")
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
    }
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"size": 16, "mode": "RGB", **preprocess}})
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**config)  # pyright: ignore[reportArgumentType]
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


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
    assert rows["sds"]["paper"]["lpips"]["value"] == 0.316
    assert any(line.startswith("LPIPS: ") for line in data["not measured"])
    text = (folder / "table.md").read_text()
    assert "| no-svgd | – | – | 0.278 |" in text
    assert "Mean ± standard error" in text
    for name in ("plot.png", "sheet.png"):
        with Image.open(folder / name) as image:
            image.load()
    assert "<svg" in (folder / "plot.svg").read_text()


def times(cells: Path, pattern: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in cells.glob(pattern)}


def test_finished_edits_are_kept_missing_ones_made_and_measured_by_another_extractor(
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
    measures = times(cells, "*/measures-*.json")
    assert len(measures) == 6
    data = table_of(tmp_path, "panorama-batch")
    assert {row["name"]: row["values"]["image_similarity"]["n"] for row in data["rows"]}["csd, B = 4"] == 2
    other = tmp_path / "other"
    shutil.copytree(extractor, other)
    config = (other / "open_clip_config.json").read_text()
    (other / "open_clip_config.json").write_text(config.replace('"std": [0.5, 0.5', '"std": [0.5, 0.4'))
    assert run(*arguments, "Van Gogh", "oriental", "--clip", str(other)) == 0
    assert times(cells, "*/measures-*.json").items() > measures.items()
    assert len(times(cells, "*/measures-*.json")) == 12
    assert times(cells, "*/cell.json") == again


def test_inputs_of_a_folder_and_times_without_an_extractor(tiny_epsilon: Path, tmp_path: Path) -> None:
    rendered = render_panoramas(tmp_path / "rendered", 2, (40, 36))
    (tmp_path / "in").mkdir()
    for one in rendered:
        shutil.copy(one.folder / "00000.png", tmp_path / "in" / f"{one.name}.png")
    options = ("--inputs", str(tmp_path / "in"), "--methods", "csd", "--prompts", "oriental")
    assert run("panorama-batch", tmp_path / "out", tiny_epsilon, *options) == 0
    data = table_of(tmp_path / "out", "panorama-batch")
    assert list(data["inputs"]) == ["rendered-1", "rendered-2"]
    assert [row["values"]["iterations"]["n"] for row in data["rows"]] == [2, 2, 2]
    assert any(line.startswith("CLIP: ") for line in data["not measured"])
    assert "0.639" in (tmp_path / "out" / "panorama-batch" / "table.md").read_text()


def test_outputs_of_other_programs_get_their_row(tiny_epsilon: Path, extractor: Path, tmp_path: Path) -> None:
    (clip,) = render_clips(tmp_path / "frames", 1, 48, 2)
    base = ("--prompts", "oriental", "--methods", "csd", "--num-frames", "2", "--clip", str(extractor))
    options = (*base, "--extra", f"fatezero={clip.folder}")
    assert run("video", tmp_path / "out", tiny_epsilon, *options) == 0
    rows = {row["name"]: row for row in table_of(tmp_path / "out", "video")["rows"]}
    assert rows["fatezero"]["values"]["image_consistency"]["n"] == 1
    assert rows["fatezero"]["values"]["seconds"]["n"] == 0
    assert rows["fatezero"]["paper"]["seconds"]["value"] == 192
    assert rows["pix2video"]["cells"] == 0
    (short,) = render_clips(tmp_path / "short", 1, 48, 1)
    assert run("video", tmp_path / "out", tiny_epsilon, *base, "--extra", f"gen-1={short.folder}") == 2


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
    "grid: expected cells that differ, got ": ("video-ablation", "--seeds", "1", "1", "--num-frames", "1"),
    "num-frames: expected at least 1, got 0": ("video", "--num-frames", "0"),
    "extra: expected NAME=FOLDER, got fatezero": ("video", "--extra", "fatezero"),
    "extra gen-1: expected a folder, got none-such": ("video", "--extra", "gen-1=none-such"),
    "extra: expected an experiment on videos": ("panorama-time", "--extra", "gen-1=."),
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
