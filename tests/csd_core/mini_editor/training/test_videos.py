"""The comparison of ways to edit a video as a user runs it, in miniature; its figures by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from csd_core.canvas.video import ArrayClip
from csd_core.command import run_command
from csd_core.evaluation.metrics.flow import warp_error
from csd_core.mini_editor.edits import HUES, apply_edit
from csd_core.mini_editor.training import videos
from csd_core.mini_editor.training.videos import METHODS, Footage, Row, VideosConfig, compare, match, table

SIZE = (40, 32)


def write_frames(folder: Path, sizes: tuple[tuple[int, int], ...] = (SIZE, SIZE, SIZE)) -> Path:
    """A smooth random picture that moves by a pixel from frame to frame."""
    folder.mkdir()
    coarse = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    wide = Image.fromarray(coarse).resize((60, 50), Image.Resampling.BICUBIC)
    for k, (width, height) in enumerate(sizes):
        wide.crop((k, 0, k + width, height)).save(folder / f"{k:03}.png")
    return folder


def arguments(frames: Path, output: Path, *more: str) -> list[str]:
    return ["--frames", str(frames), "--output", str(output), "--num-frames", "2", *more]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Where every way was compared, and by which arguments."""
    work = tmp_path_factory.mktemp("videos")
    steps = ("--num-steps", "2", "--instructions", "night", "--details", "none", "guided")
    args = arguments(write_frames(work / "frames"), work / "out", *steps)
    assert run_command(VideosConfig, compare, args) == 0
    return work / "out", args


def test_every_way_is_measured(compared: tuple[Path, list[str]]) -> None:
    output, _ = compared
    rows = json.loads((output / "table.json").read_text())
    ways = [(row["method"], row["detail"]) for row in rows]
    assert ways == [("csd", "none"), *((method, "guided") for method in METHODS)]
    for row in rows:
        assert row["psnr"] > row["source_psnr"] + 3
        assert (row["frames"], row["outcome"], row["share"], row["hue_spread"]) == (2, "", None, None)
        assert row["warp"] > 0
        assert row["seconds"] > 0
    evaluations = {row["method"]: row["evaluations"] for row in rows}
    # two steps of two frames; three evaluations each, and those of the baseline
    assert evaluations == {"csd": 20, "no-svgd": 20, "sds": 12, "dds": 24, "ip2p-frame": 12}
    assert rows[0]["psnr"] != rows[1]["psnr"]
    assert "| night | csd | guided |" in (output / "table.md").read_text()


def test_references_are_measured_on_the_frames_themselves(compared: tuple[Path, list[str]]) -> None:
    output, args = compared
    arrays = [np.asarray(Image.open(Path(args[1]) / f"{k:03}.png")) for k in range(2)]
    frames = [torch.tensor(array).permute(2, 0, 1) / 255 for array in arrays]
    truth = [apply_edit("night", frame) for frame in frames]
    for row in json.loads((output / "table.json").read_text()):
        assert row["source_warp"] == pytest.approx(warp_error(frames, frames))
        assert row["true_warp"] == pytest.approx(warp_error(truth, frames))
        squares = [float((a - b).square().mean()) for a, b in zip(frames, truth, strict=True)]
        assert row["source_psnr"] == pytest.approx(np.mean([-10 * math.log10(x) for x in squares]), abs=1e-3)


def test_edits_are_shown_side_by_side(compared: tuple[Path, list[str]]) -> None:
    output, _ = compared
    names = {path.name for path in output.iterdir()}
    strips = {"night_csd_0_none.png", *(f"night_{method}_0_guided.png" for method in METHODS)}
    cells = {f"night_{method}_0.json" for method in METHODS}
    assert names == {*strips, *cells, "table.json", "table.md", "sheet_night.png"}
    for strip in strips:
        with Image.open(output / strip) as picture:
            assert picture.size == (2 * SIZE[0], SIZE[1])
    with Image.open(output / "sheet_night.png") as sheet:
        assert sheet.height == videos.SHEET_HEIGHT * 8  # source, true edit and six edits


def test_what_was_computed_is_not_computed_again(
    compared: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, args = compared
    before = json.loads((output / "table.json").read_text())
    ran = []
    run = videos.Bench.run
    monkeypatch.setattr(
        videos.Bench, "run", lambda bench, job, cell: ran.append(cell) or run(bench, job, cell)
    )
    (output / "night_sds_0.json").unlink()
    assert run_command(VideosConfig, compare, args) == 0
    assert [cell.method for cell in ran] == ["sds"]
    after = json.loads((output / "table.json").read_text())
    assert [row["method"] for row in after] == [row["method"] for row in before]
    assert [row["psnr"] for row in after] == [row["psnr"] for row in before]

    (output / "night_csd_0_none.png").unlink()
    only = ("--methods", "csd", "ip2p-frame")
    assert run_command(VideosConfig, compare, [*args, *only]) == 0
    assert [cell.method for cell in ran] == ["sds", "csd"]

    other = [arg if arg != "2" or args[k - 1] != "--num-steps" else "1" for k, arg in enumerate(args)]
    assert run_command(VideosConfig, compare, [*other, *only]) == 0
    assert [cell.method for cell in ran] == ["sds", "csd", "csd", "ip2p-frame"]


def test_choices_are_measured_by_their_agreement(tmp_path: Path) -> None:
    args = arguments(write_frames(tmp_path / "frames"), tmp_path / "out", "--instructions", "tint")
    more = ("--num-steps", "1", "--methods", "ip2p-frame", "--seeds", "0", "1")
    assert run_command(VideosConfig, compare, [*args, *more]) == 0
    rows = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["seed"] for row in rows] == [0, 1]
    for row in rows:
        assert row["outcome"] in HUES
        assert row["share"] in (0.5, 1)
        assert row["hue_spread"] >= 0
    line = (tmp_path / "out" / "table.md").read_text().splitlines()[2]
    assert line.startswith(f"| tint | ip2p-frame | guided | {rows[0]['outcome']}, {rows[1]['outcome']} |")
    with Image.open(tmp_path / "out" / "sheet_tint.png") as sheet:
        assert sheet.height == videos.SHEET_HEIGHT * 3  # source and two edits: there is no one true edit


def test_one_frame_does_not_flicker(tmp_path: Path) -> None:
    args = arguments(write_frames(tmp_path / "frames", (SIZE,)), tmp_path / "out", "--instructions", "night")
    args[args.index("--num-frames") + 1] = "1"
    assert run_command(VideosConfig, compare, [*args, "--num-steps", "1", "--methods", "ip2p-frame"]) == 0
    (row,) = json.loads((tmp_path / "out" / "table.json").read_text())
    assert (row["warp"], row["true_warp"], row["source_warp"]) == (None, None, None)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--instructions", "castle"), "instructions: expected some of night,"),
        (("--num-steps", "0"), "num-steps: expected at least 1, got 0"),
        (("--num-frames", "4"), "frames: expected at least 4, got 3"),
        (("--seeds", "-1"), "seeds: expected 0 or more"),
        (("--methods",), "methods: expected at least one"),
    ],
)
def test_bad_options_are_refused_at_once(more: tuple[str, ...], message: str, tmp_path: Path, capsys) -> None:
    args = arguments(write_frames(tmp_path / "frames"), tmp_path / "out", *more)
    assert run_command(VideosConfig, compare, args) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_frames_are_of_one_size(tmp_path: Path, capsys) -> None:
    frames = write_frames(tmp_path / "frames", (SIZE, (36, 32)))
    assert run_command(VideosConfig, compare, arguments(frames, tmp_path / "out")) == 2
    assert "001.png: expected a frame of the size of" in capsys.readouterr().err
    one_more = arguments(frames, tmp_path / "out")
    one_more[1:2] = [str(frames / "000.png"), str(frames / "001.png")]
    assert run_command(VideosConfig, compare, one_more) == 2
    assert "got 36 x 32" in capsys.readouterr().err


def test_frames_that_chose_alike_are_counted() -> None:
    sources = torch.rand(5, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    outcomes = ["blue", "red", "blue", "green", "blue"]
    frames = [apply_edit("tint", x, outcome) for x, outcome in zip(sources, outcomes, strict=True)]
    matched = match("tint", iter(sources), frames)
    assert matched.outcome == "blue"
    assert matched.share == 0.6
    blues = [apply_edit("tint", x, "blue") for x in sources]
    of_source = [
        -10 * math.log10(float((x - y).square().mean())) for x, y in zip(sources, blues, strict=True)
    ]
    assert matched.source_psnr == pytest.approx(np.mean(of_source), abs=1e-3)
    wrong = [-10 * math.log10(float((frames[k] - blues[k]).square().mean())) for k in (1, 3)]
    assert matched.psnr == pytest.approx((3 * 100 + sum(wrong)) / 5, abs=1e-3)  # equal images count as 100 dB


def test_the_true_edit_of_a_choice_is_one_outcome_for_all_frames() -> None:
    arrays = np.random.default_rng(0).integers(0, 256, (2, 16, 20, 3), dtype=np.uint8)
    footage = Footage(ArrayClip(list(arrays)))
    truth = [apply_edit("tint", frame, "blue") for frame in footage]
    assert all(torch.equal(a, b) for a, b in zip(footage.true_edits("tint", "blue"), truth, strict=True))
    assert footage.true_warp("tint", "blue") == warp_error(truth, list(footage))
    assert footage.true_warp("tint", "blue") != footage.true_warp("tint", "red")


def test_the_table_has_means_over_seeds_of_what_was_measured() -> None:
    row = Row("tint", "csd", 0, "guided", 2, "red", 10, 20, 0.5, 4, 0.001, 0.002, None, 30, 5)
    other = replace(row, seed=1, outcome="blue", psnr=21, share=1, hue_spread=None, seconds=6.2)
    lines = table([row, other]).splitlines()
    assert lines[2] == (
        "| tint | csd | guided | red, blue | 10.00 | 20.50 | 75 | 4.0 | 1.00 | 2.00 | – | 30 | 6 |"
    )
    assert len({line.count("|") for line in lines}) == 1
