"""Scores of an edit against the ground truth, worked out by hand."""

import math

import pytest
import torch

from csd_core.mini_editor.edits import INSTRUCTIONS, apply_edit
from csd_core.mini_editor.training.measures import EQUAL_DB, mean, nearest_outcome, score

RED, TINT, NIGHT = (INSTRUCTIONS[name] for name in ("red to blue", "tint", "night"))


def half_red() -> torch.Tensor:
    """Red at the left, grey noise at the right, (3, 8, 8)."""
    red = torch.tensor([0.8, 0.1, 0.1])[:, None, None].expand(3, 8, 4)
    grey = torch.rand(1, 8, 4, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1) * 0.5
    return torch.cat([red, grey], dim=-1)


def test_a_local_edit_is_scored_inside_and_outside_its_mask():
    image = half_red()
    result = apply_edit("red to blue", image)
    result[..., :4] += 0.1
    result[..., 4:] += 0.01
    row = score(RED, image[None], result[None])
    assert row["photos"] == 1
    assert row["result"] == pytest.approx(20, abs=1e-3)
    assert row["outside"] == pytest.approx(40, abs=1e-3)
    assert row["structure"] == pytest.approx(1, abs=1e-4)
    assert row["gain"] == pytest.approx(20 - row["source"])


def test_photographs_without_affected_pixels_do_not_count():
    grey = torch.full((3, 8, 8), 0.5)
    sources = torch.stack([half_red(), grey])
    both = score(RED, sources, sources)
    assert both["photos"] == 1
    assert both["gain"] == pytest.approx(0)
    assert both["outside"] == EQUAL_DB
    assert math.isnan(score(RED, grey[None], grey[None])["gain"])


def test_results_of_several_seeds_belong_to_their_sources():
    sources = torch.stack([half_red(), half_red().flip(-2) * 0.5])
    truths = torch.stack([apply_edit("night", source) for source in sources])
    row = score(NIGHT, sources, torch.cat([truths, truths]))
    assert row["result"] == EQUAL_DB
    assert row["edges"] == pytest.approx(1)
    assert math.isnan(row["outside"])
    assert score(NIGHT, sources, torch.cat([truths, truths.flip(0)]))["result"] < EQUAL_DB


@pytest.mark.parametrize("outcome", TINT.outcomes)
def test_the_nearest_of_several_right_answers_counts(outcome):
    image = half_red()
    result = apply_edit("tint", image, outcome).clamp(0.1, 0.9)
    assert nearest_outcome(TINT, image, result)[0] == outcome
    assert score(TINT, image[None], apply_edit("tint", image, outcome)[None])["result"] == EQUAL_DB


def test_means_leave_out_nan():
    assert mean([1.0, math.nan, 3.0]) == 2
    assert math.isnan(mean([]))
