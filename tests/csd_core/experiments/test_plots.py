from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from csd_core.experiments.experiment import Experiment
from csd_core.experiments.figures import Figure
from csd_core.experiments.grid import Cell
from csd_core.experiments.options import Entry
from csd_core.experiments.plots import write_plots, write_sheet
from csd_core.experiments.registry import EXPERIMENTS
from csd_core.experiments.settings import Prompt, Variant
from csd_core.experiments.tables import Outcome, Row, rows_of


def rows(experiment: Experiment, measured: bool = True) -> list[Row]:
    outcomes = []
    for seed in range(2):
        for k, variant in enumerate(experiment.mini.variants):
            cell = Cell("hills", "snow", variant.method, variant.setting, seed)
            figures = {key: Figure(0.1 * k + 0.01 * seed) for key in experiment.plot.columns if measured}
            outcomes.append(Outcome(Entry(cell, variant, Prompt("snow", "s", "a", "b")), {}, figures))
    return rows_of(outcomes, experiment.columns)


@pytest.mark.parametrize("name", ["panorama-tradeoff", "video-ablation"])
def test_plots_are_pictures_with_every_method(tmp_path: Path, name: str) -> None:
    experiment = EXPERIMENTS[name]
    png, svg = write_plots(tmp_path, experiment, rows(experiment), "scorer")
    with Image.open(png) as image:
        image.load()
        assert image.format == "PNG"
        assert len(image.convert("L").getcolors() or []) > 10
    text = "".join(ElementTree.parse(svg).getroot().itertext())
    assert "scorer directional similarity" in text
    assert all(variant.method in text for variant in experiment.mini.variants)
    first = svg.read_bytes()
    write_plots(tmp_path, experiment, rows(experiment), "scorer")
    assert svg.read_bytes() == first


def test_nothing_measured_nothing_plotted(tmp_path: Path) -> None:
    experiment = EXPERIMENTS["panorama-tradeoff"]
    (tmp_path / "plot.png").write_text("of another run")
    assert write_plots(tmp_path, experiment, rows(experiment, measured=False), "CLIP") == []
    assert list(tmp_path.iterdir()) == []


def test_a_sheet_has_a_row_for_each_and_brings_them_to_one_size(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    write_sheet(path, [torch.zeros(2, 3, 8, 10), torch.ones(2, 3, 16, 20)], ["source", "csd"])
    with Image.open(path) as image:
        assert image.height == 16
        assert image.width > 20
        assert image.getpixel((image.width - 1, 0)) == (0, 0, 0)
        assert image.getpixel((image.width - 1, 15)) == (255, 255, 255)


def test_a_variant_without_setting_is_its_method() -> None:
    assert Variant("csd").name == "csd"
    assert Variant("csd", "B = 4").name == "csd, B = 4"
