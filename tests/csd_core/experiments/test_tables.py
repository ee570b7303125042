import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from csd_core.experiments.experiment import Experiment
from csd_core.experiments.grid import Cell
from csd_core.experiments.measures import CellMeasure
from csd_core.experiments.options import GridEntry
from csd_core.experiments.plots import write_plots, write_sheet
from csd_core.experiments.registry import EXPERIMENTS
from csd_core.experiments.settings import Prompt, Variant
from csd_core.experiments.tables import MeasuredCell, TableRow, as_data, prompt_tables, rows_of, table

SNOW, TINT = Prompt("snow", "snow", "a", "b"), Prompt("tint", "tint", "a", "c")
BY_NAME = {experiment.name: experiment for experiment in EXPERIMENTS}
ABLATION = BY_NAME["video-ablation"]


def measured(
    method: str, seed: int, value: float | None, prompt: Prompt = SNOW, **record: float
) -> MeasuredCell:
    cell = Cell("hills", prompt.name, method, "", seed)
    measures = {"directional_similarity": CellMeasure(value), "seam_score": CellMeasure(None)}
    return MeasuredCell(GridEntry(cell, Variant(method), prompt), record, measures)


# Tables -------------------------------------------------------------------------------------------


def test_a_row_is_mean_and_standard_error_over_its_cells() -> None:
    cells = [measured("csd", 0, 0.2), measured("sds", 0, 0.1), measured("csd", 1, 0.6)]
    csd, sds = rows_of([*cells, measured("csd", 2, None)], ABLATION.columns)
    value = csd.values["directional_similarity"]
    assert (csd.name, csd.cells, value.n, value.values) == ("csd", 3, 2, (0.2, 0.6))
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
    rows = rows_of([measured("csd", 0, 0.25), measured("no-svgd", 0, 0.2)], ABLATION.columns)
    text = table(ABLATION, rows, "scorer")
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()}
    assert lines["method"].count("(paper)") == 3
    assert "scorer directional similarity ↑ | CLIP directional similarity (paper)" in lines["method"]
    assert "warp error" not in text  # nothing was measured
    assert "| 0.250 | 0.32 | – | 0.957 | – | 0.236 |" in lines["csd"]
    assert "| 0.200 | 0.278 | – | 0.909 | – | 0.372 |" in lines["no-svgd"]
    assert lines["sds"].startswith("| sds | – | – | 0.27 | – | 0.884 | – | 0.316 |")
    data = {row["name"]: row for row in as_data(ABLATION, rows)}
    assert data["sds"]["cells"] == 0
    assert data["csd"]["paper"]["lpips"]["value"] == 0.236
    assert data["csd"]["values"]["directional_similarity"]["mean"] == 0.25


def test_each_instruction_has_a_table_where_there_are_several() -> None:
    cells = [measured("csd", 0, 0.25), measured("csd", 0, 0.75, TINT)]
    assert prompt_tables(ABLATION, cells[:1], "CLIP") == ""
    snow, tint = prompt_tables(ABLATION, cells, "CLIP").split("### ")[1:]
    assert snow.startswith("snow\n\n| method | cells | CLIP directional similarity ↑ |")
    assert "| csd | 1 | 0.750 |" in tint


# Experiments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "variant", "key", "printed"),
    [
        ("video", "fatezero", "seconds", "192"),
        ("video", "csd", "directional_similarity", "0.319 ± 0.002"),
        ("panorama-time", "csd, large", "seconds", "275"),
        ("panorama-batch", "csd, B = 12", "directional_similarity", "0.195"),
    ],
)
def test_numbers_of_the_paper(name: str, variant: str, key: str, printed: str) -> None:
    assert str(BY_NAME[name].published[variant][key]) == printed


@pytest.mark.parametrize("name", BY_NAME)
def test_experiments_fit_together(name: str) -> None:
    experiment = BY_NAME[name]
    keys = {column.key for column in experiment.columns}
    assert set(experiment.plot.columns) <= keys
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
            cell = Cell("hills", "snow", variant.method, variant.setting, seed)
            keys = experiment.plot.columns if is_measured else ()
            measures = {key: CellMeasure(0.1 * k + 0.01 * seed) for key in keys}
            cells.append(MeasuredCell(GridEntry(cell, variant, SNOW), {}, measures))
    return rows_of(cells, experiment.columns)


@pytest.mark.parametrize("name", ["panorama-tradeoff", "video-ablation"])
def test_plots_are_pictures_with_every_method(tmp_path: Path, name: str) -> None:
    experiment = BY_NAME[name]
    png, svg = write_plots(tmp_path, experiment, rows(experiment), "scorer")
    with Image.open(png) as image:
        assert image.format == "PNG"
        assert len(image.convert("L").getcolors() or []) > 10
    text = "".join(ElementTree.parse(svg).getroot().itertext())
    assert "scorer directional similarity" in text
    assert all(variant.method in text for variant in experiment.mini.variants)
    first = svg.read_bytes()
    write_plots(tmp_path, experiment, rows(experiment), "scorer")
    assert svg.read_bytes() == first


def test_nothing_measured_nothing_plotted(tmp_path: Path) -> None:
    experiment = BY_NAME["panorama-tradeoff"]
    (tmp_path / "plot.png").write_text("of another run")
    assert write_plots(tmp_path, experiment, rows(experiment, is_measured=False), "CLIP") == []
    assert list(tmp_path.iterdir()) == []


def test_a_sheet_has_a_row_for_each_in_one_size(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    black, white = [torch.zeros(3, 8, 10)] * 9, [torch.ones(3, 16, 20)] * 9
    write_sheet(path, [black, white], ["source", "csd"])
    with Image.open(path) as image:
        assert image.height == 16
        assert 6 * 10 < image.width < 9 * 10 + 60
        assert image.getpixel((image.width - 1, 0)) == (0, 0, 0)
        assert image.getpixel((image.width - 1, 15)) == (255, 255, 255)
