"""The figures of an edit, against values worked out by hand and scikit-image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from csd_core.evaluation.metrics.pixels import psnr
from csd_core.mini_editor.edits import affected_mask, apply_edit
from csd_nerf.runs.held_out import HeldOut, before_after, measure_edit, print_figures

NIGHT, RED_TO_BLUE, SINGLE = "make it night", "turn red things blue", "paint it in a single colour"


def photo(seed: int) -> torch.Tensor:
    """Noise whose left third is saturated red."""
    image = torch.rand(3, 24, 30, generator=torch.Generator().manual_seed(seed)) * 0.5 + 0.25
    image[:, :, :10] = torch.tensor([0.85, 0.08, 0.1])[:, None, None]
    return image


def off_by(image: torch.Tensor, error: float) -> torch.Tensor:
    """An image whose every value is wrong by `error`: its PSNR is -20 log10(error)."""
    return image + error


def test_gain_is_the_difference_of_mean_psnr_to_the_true_edit():
    views = []
    for seed, (before, after) in enumerate([(0.1, 0.01), (0.01, 0.001)]):
        target = apply_edit("night", photo(seed))
        views.append(HeldOut(photo(seed), off_by(target, before), off_by(target, after)))
    figures = measure_edit(views, "Make it NIGHT")
    assert (figures.instruction, figures.kind, figures.outcome, figures.views) == ("night", "light", None, 2)
    assert figures.whole is not None
    assert figures.whole.base == pytest.approx((20 + 40) / 2, abs=1e-2)
    assert figures.whole.edited == pytest.approx((40 + 60) / 2, abs=1e-2)
    assert figures.whole.gain == pytest.approx(20, abs=1e-2)
    assert figures.affected is None


def test_local_edits_count_inside_the_affected_pixels_and_only_views_that_have_some():
    target, mask = apply_edit("red to blue", photo(0)), affected_mask("red to blue", photo(0))
    assert mask[:, :10].all()
    assert not mask.all()
    edited = torch.where(mask, target + 0.01, target - 0.2)
    base = torch.where(mask, target + 0.1, target)
    grey = torch.full((3, 24, 30), 0.5)
    views = [HeldOut(photo(0), base, edited), HeldOut(grey, grey, grey)]
    figures = measure_edit(views, RED_TO_BLUE)
    assert figures.affected is not None
    assert figures.affected.views == 1
    assert figures.affected.gain == pytest.approx(40 - 20, abs=1e-2)
    assert figures.whole is not None
    assert figures.whole.views == 2


def test_of_several_right_answers_one_counts_for_all_views():
    green, red = (apply_edit("single colour", photo(0), outcome) for outcome in ("green", "red"))
    # The first view is nearer to green than the second is to red: together they are nearest to green.
    views = [
        HeldOut(photo(0), photo(0), off_by(green, 0.001)),
        HeldOut(photo(0), photo(0), off_by(red, 0.05)),
    ]
    figures = measure_edit(views, SINGLE)
    assert figures.outcome == "green"
    assert figures.whole is not None
    assert figures.whole.edited == pytest.approx((60 + psnr(off_by(red, 0.05), green)) / 2, abs=1e-2)


def test_figures_that_are_missing_have_a_note():
    console = Console(record=True, width=100)
    figures = measure_edit([HeldOut(photo(0), photo(0) + 0.1, photo(1))], "add a hat made of cheese")
    assert figures.base_to_photo == pytest.approx(20, abs=1e-2)
    assert (figures.instruction, figures.whole, figures.affected) == (None, None, None)
    print_figures(figures, console)
    grey = torch.full((3, 24, 30), 0.5)
    print_figures(measure_edit([HeldOut(grey, grey, grey)], RED_TO_BLUE), console)
    printed = console.export_text()
    assert "No ground truth" in printed
    assert "No held-out view shows" in printed


def test_the_table_has_a_row_for_the_whole_and_the_affected_pixels():
    target = apply_edit("red to blue", photo(0))
    figures = measure_edit([HeldOut(photo(0), off_by(target, 0.1), off_by(target, 0.01))], RED_TO_BLUE)
    console = Console(record=True, width=100)
    print_figures(figures, console)
    rows = [line for line in console.export_text().splitlines() if "true edit" in line]
    assert [("20.00" in row, "40.00" in row, "+20.00" in row) for row in rows] == [(True, True, True)] * 2


def test_before_after_shows_six_views_from_first_to_last(tmp_path: Path):
    shades = [torch.full((3, 100, 100), value / 20) for value in range(11)]
    before_after([HeldOut(photo(0), photo(1), photo(2))], tmp_path / "new" / "picture.png")
    before_after([HeldOut(shade, 1 - shade, shade) for shade in shades], tmp_path / "new" / "picture.png")
    with Image.open(tmp_path / "new" / "picture.png") as image:
        pixels = np.array(image.convert("L"))
    column = pixels[:, 6 + 50]  # the middle of the photos
    runs = column[np.flatnonzero(np.diff(column.astype(int), prepend=-1))]
    assert [round(value / 255 * 20) for value in runs if value < 200] == [0, 2, 4, 6, 8, 10]
