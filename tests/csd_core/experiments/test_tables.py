import math

import pytest

from csd_core.experiments import paper
from csd_core.experiments.experiment import Column
from csd_core.experiments.figures import Figure
from csd_core.experiments.grid import Cell
from csd_core.experiments.options import Entry
from csd_core.experiments.registry import EXPERIMENTS
from csd_core.experiments.settings import Prompt, Variant
from csd_core.experiments.tables import (
    Outcome,
    as_data,
    cell_value,
    first_cells,
    orders,
    prompt_tables,
    rows_of,
    table,
)

SNOW, TINT = Prompt("snow", "snow", "a", "b"), Prompt("tint", "tint", "a", "c")
ABLATION = EXPERIMENTS["video-ablation"]


def outcome(method: str, seed: int, value: float | None, prompt: Prompt = SNOW, **record: float) -> Outcome:
    cell = Cell("hills", prompt.name, method, "", seed)
    figures = {"directional_similarity": Figure(value), "seam_score": Figure(None)}
    return Outcome(Entry(cell, Variant(method), prompt), record, figures)


def test_a_row_is_mean_and_standard_error_over_its_cells() -> None:
    outcomes = [outcome("csd", 0, 0.2), outcome("sds", 0, 0.1), outcome("csd", 1, 0.6)]
    csd, sds = rows_of([*outcomes, outcome("csd", 2, None)], ABLATION.columns)
    value = csd.values["directional_similarity"]
    assert (csd.name, csd.cells, value.n, value.values) == ("csd", 3, 2, (0.2, 0.6))
    assert value.mean == pytest.approx(0.4)
    assert value.error == pytest.approx(math.sqrt(2 * 0.2**2 / 1) / math.sqrt(2))
    assert value.text(2) == "0.40 ± 0.20"
    assert sds.values["directional_similarity"].text(2) == "0.10"
    assert sds.values["lpips"].text(2) == "–"


def test_what_was_noted_of_the_edit_is_a_column_too() -> None:
    noted = outcome("csd", 0, 0.2, steps=20, seconds=4.0, evaluations=12)
    assert cell_value("evaluations", noted) == 12
    assert cell_value("iterations", noted) == 5
    assert cell_value("seconds", noted) == 4
    assert cell_value("seam_score", noted) is None
    assert cell_value("iterations", outcome("csd", 0, 0.2)) is None


def test_the_papers_numbers_stand_beside_ours() -> None:
    rows = rows_of([outcome("csd", 0, 0.25), outcome("no-svgd", 0, 0.2)], ABLATION.columns)
    text = table(ABLATION, rows, "scorer")
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()}
    assert lines["method"].count("(paper)") == 3
    assert "scorer directional similarity ↑ | CLIP directional similarity (paper)" in lines["method"]
    assert "| 0.250 | 0.32 | – | 0.957 | – | 0.236 |" in lines["csd"]
    assert "| 0.200 | 0.278 | – | 0.909 | – | 0.372 |" in lines["no-svgd"]
    assert lines["sds"].startswith("| sds | – | – | 0.27 | – | 0.884 | – | 0.316 |")
    data = {row["name"]: row for row in as_data(ABLATION, rows)}
    assert data["sds"]["cells"] == 0
    assert data["csd"]["paper"]["lpips"]["value"] == 0.236
    assert data["csd"]["values"]["directional_similarity"]["mean"] == 0.25


@pytest.mark.parametrize(
    ("name", "variant", "key", "printed"),
    [
        ("video", "fatezero", "seconds", "192"),
        ("video", "csd", "directional_similarity", "0.319 ± 0.002"),
        ("video", "csd, fewer steps", "lpips", "0.243 ± 0.001"),
        ("panorama-time", "csd, large", "seconds", "275"),
        ("panorama-batch", "csd, B = 12", "image_similarity", "0.739"),
        ("panorama-batch", "csd, B = 12", "directional_similarity", "0.195"),
    ],
)
def test_numbers_of_the_paper(name: str, variant: str, key: str, printed: str) -> None:
    assert str(EXPERIMENTS[name].published[variant][key]) == printed


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_fit_together(name: str) -> None:
    experiment = EXPERIMENTS[name]
    keys = {column.key for column in experiment.columns}
    assert set(experiment.plot.columns) <= keys
    others = {"fatezero", "pix2video"}
    for scale in (experiment.full, experiment.mini):
        names = [variant.name for variant in scale.variants]
        assert len(set(names)) == len(names)
        assert set(experiment.published) - others <= set(names)
        assert all(prompt.source != prompt.target for prompt in scale.prompts)
    assert {key for row in experiment.published.values() for key in row} <= keys


def test_orders_are_compared_best_first() -> None:
    outcomes = [outcome("csd", 0, 0.3), outcome("no-svgd", 0, 0.1), outcome("sds", 0, 0.2)]
    (order,) = orders(ABLATION, rows_of(outcomes, ABLATION.columns))
    assert order == {
        "column": "directional_similarity",
        "ours": ["csd", "sds", "no-svgd"],
        "paper": ["csd", "no-svgd", "sds"],
        "agrees": False,
    }
    (order,) = orders(ABLATION, rows_of(outcomes[::2], ABLATION.columns))
    assert order["agrees"]


def test_both_readings_of_table_10_are_told() -> None:
    assert EXPERIMENTS["panorama-batch"].note == paper.PANORAMA_BATCH_NOTE
    assert "0.639, 0.692, 0.739 under directional similarity" in paper.PANORAMA_BATCH_NOTE


def test_each_instruction_has_a_table_where_there_are_several() -> None:
    outcomes = [outcome("csd", 0, 0.25), outcome("csd", 0, 0.75, TINT)]
    assert prompt_tables(ABLATION, outcomes[:1], "CLIP") == ""
    snow, tint = prompt_tables(ABLATION, outcomes, "CLIP").split("### ")[1:]
    assert snow.startswith("snow\n\n| method | cells | CLIP directional similarity ↑ |")
    assert "| csd | 1 | 0.750 |" in tint


def test_the_first_cell_of_each_row_is_shown() -> None:
    outcomes = [outcome("csd", 0, 1), outcome("sds", 0, 1), outcome("csd", 1, 1), outcome("sds", 1, 1)]
    assert [(o.entry.variant.name, o.entry.cell.seed) for o in first_cells(outcomes)] == [
        ("csd", 0),
        ("sds", 0),
    ]


def test_an_unused_column_is_left_out() -> None:
    column = Column("warp_error", "warp error")
    assert column.key not in table(ABLATION, rows_of([outcome("csd", 0, 0.2)], ABLATION.columns), "CLIP")
