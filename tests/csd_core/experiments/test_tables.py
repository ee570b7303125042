import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from csd_core.experiments.experiment import Experiment
from csd_core.experiments.grid import Cell
from csd_core.experiments.plots import write_plot, write_sheet
from csd_core.experiments.registry import EXPERIMENTS
from csd_core.experiments.run import report
from csd_core.experiments.settings import Prompt, Variant
from csd_core.experiments.tables import MeasuredCell, TableRow, rows_of, table

SNOW, TINT = Prompt("snow", "snow", "a", "b"), Prompt("tint", "tint", "a", "c")
BY_NAME = {experiment.name: experiment for experiment in EXPERIMENTS}
ABLATION = BY_NAME["video-ablation"]


def measured(
    method: str, seed: int, value: float | None, prompt: Prompt = SNOW, **record: float
) -> MeasuredCell:
    measures = {"directional_similarity": value, "seam_score": None}
    return MeasuredCell(Cell("hills", prompt, Variant(method), seed), record, measures)


# Tables -------------------------------------------------------------------------------------------


def test_a_row_is_mean_and_standard_error_over_its_cells() -> None:
    cells = [measured("csd", 0, 0.2), measured("sds", 0, 0.1), measured("csd", 1, 0.6)]
    csd, _, sds = rows_of([*cells, measured("csd", 2, None)], ABLATION)
    value = csd.values["directional_similarity"]
    assert (csd.name, len(csd.cells), value.values) == ("csd", 3, (0.2, 0.6))
    assert value.mean == pytest.approx(0.4)
    assert value.error == pytest.approx(math.sqrt(2 * 0.2**2 / 1) / math.sqrt(2))
    assert value.text(2) == "0.40 ± 0.20"
    assert sds.values["directional_similarity"].text(2) == "0.10"
    assert sds.values["lpips"].text(2) == "–"


def test_fields_of_the_record_are_columns_too() -> None:
    cell = measured("csd", 0, 0.2, steps=20, seconds=4.0, evaluations=12)
    assert [cell.value(key) for key in ("evaluations", "iterations", "seconds")] == [12, 5, 4]
    assert cell.value("seam_score") is None
    assert measured("csd", 0, 0.2).value("iterations") is None


def test_the_papers_numbers_stand_beside_ours() -> None:
    rows = rows_of([measured("csd", 0, 0.25), measured("no-svgd", 0, 0.2)], ABLATION)
    text = table(rows, ABLATION.columns, "scorer")
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()}
    assert lines["method"].count("(paper)") == 3
    assert "scorer directional similarity ↑ | CLIP directional similarity (paper)" in lines["method"]
    assert "warp error" not in text  # nothing was measured
    assert "| 0.250 | 0.320 | – | 0.957 | – | 0.236 |" in lines["csd"]
    assert "| 0.200 | 0.278 | – | 0.909 | – | 0.372 |" in lines["no-svgd"]
    assert lines["sds"].startswith("| sds | 0 | – | 0.270 | – | 0.884 | – | 0.316 |")
    data = {row.name: row.data() for row in rows}
    assert data["sds"]["cells"] == 0
    assert data["csd"]["paper"]["lpips"] == "0.236"
    assert data["csd"]["values"]["directional_similarity"]["mean"] == 0.25


def test_each_instruction_has_a_table_where_there_are_several() -> None:
    cells = [measured("csd", 0, 0.25), measured("csd", 0, 0.75, TINT)]
    assert "###" not in report(ABLATION, cells[:1], "CLIP", {})
    _, snow, tint = report(ABLATION, cells, "CLIP", {}).split("### ")
    assert snow.startswith("snow\n\n| method | cells | CLIP directional similarity ↑ |")
    assert "| csd | 1 | 0.750 |" in tint


# Experiments --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_NAME)
def test_experiments_fit_together(name: str) -> None:
    experiment = BY_NAME[name]
    keys = {column.key for column in experiment.columns}
    assert set(experiment.plot) <= keys
    for scale in (experiment.full, experiment.mini):
        names = [variant.name for variant in scale.variants]
        assert len(set(names)) == len(names)
        assert set(experiment.published) - {"fatezero", "pix2video"} <= set(names)
        assert all(prompt.source != prompt.target for prompt in scale.prompts)
    assert {key for row in experiment.published.values() for key in row} <= keys


# Plots and sheet ----------------------------------------------------------------------------------


def rows(experiment: Experiment, is_measured: bool = True) -> list[TableRow]:
    cells = []
    for seed in range(2):
        for k, variant in enumerate(experiment.mini.variants):
            measures = dict.fromkeys(experiment.plot, 0.1 * k + 0.01 * seed if is_measured else None)
            cells.append(MeasuredCell(Cell("hills", SNOW, variant, seed), {}, measures))
    return rows_of(cells, experiment)


@pytest.mark.parametrize("name", ["panorama-tradeoff", "video-ablation"])
def test_plots_show_what_was_measured(tmp_path: Path, name: str) -> None:
    experiment, path = BY_NAME[name], tmp_path / "plot.png"
    write_plot(path, experiment, rows(experiment), "scorer")
    with Image.open(path) as image:
        assert len(image.convert("L").getcolors() or []) > 10
    write_plot(path, experiment, rows(experiment, is_measured=False), "scorer")
    assert not path.exists()  # nor is that of an earlier run left


def test_a_sheet_has_a_row_for_each(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    black, white = [torch.zeros(3, 8, 10)] * 9, [torch.ones(3, 16, 20)] * 9
    write_sheet(path, [black, white], ["source", "csd"])
    with Image.open(path) as image:
        across, quarter = image.width * 3 // 4, image.height // 4
        pixels = [image.convert("L").getpixel((across, quarter * k)) for k in (1, 3)]
    assert pixels == [0, 255]
