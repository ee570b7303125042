"""CLIP measures against torchmetrics and scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import sem
from torch import Tensor
from torchmetrics.functional import pairwise_cosine_similarity

from csd_core.errors import UserError
from csd_core.evaluation.metrics.clip import (
    consistency,
    direction_consistency,
    directional_similarity,
    image_similarity,
    mean_and_error,
    text_similarity,
)

N, D = 6, 16


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SOURCE, EDITED, OLD, NEW = FOUR = [noise(N, D, seed=k) for k in range(4)]


def all_measures(source: Tensor, edited: Tensor, old: Tensor, new: Tensor) -> list[Tensor]:
    return [
        image_similarity(source, edited),
        text_similarity(source, new),
        directional_similarity(source, edited, old, new),
        consistency(source),
        direction_consistency(source, edited),
    ]


def directions(start: Tensor, end: Tensor) -> Tensor:
    units = [
        x.double().numpy() / np.linalg.norm(x.double().numpy(), axis=1, keepdims=True) for x in (start, end)
    ]
    return torch.from_numpy(units[1] - units[0])


def test_measures_agree_with_torchmetrics():
    cosine = pairwise_cosine_similarity
    torch.testing.assert_close(image_similarity(SOURCE, EDITED), cosine(SOURCE, EDITED).diagonal().double())
    table = cosine(SOURCE.double(), NEW.double())
    torch.testing.assert_close(text_similarity(SOURCE, NEW), table.diagonal())
    torch.testing.assert_close(text_similarity(SOURCE, NEW[0]), table[:, 0])
    frames = cosine(SOURCE.double(), zero_diagonal=False)
    torch.testing.assert_close(consistency(SOURCE), frames.diagonal(offset=1))
    changes, texts = directions(SOURCE, EDITED), directions(OLD, NEW)
    table = cosine(changes, texts)
    torch.testing.assert_close(directional_similarity(*FOUR), table.diagonal())
    torch.testing.assert_close(directional_similarity(SOURCE, EDITED, OLD[0], NEW[0]), table[:, 0])
    expected = cosine(changes, zero_diagonal=False).diagonal(offset=1)
    torch.testing.assert_close(direction_consistency(SOURCE, EDITED), expected)


def test_values_are_float64_cosines():
    same = noise(500, 7)
    for values in (image_similarity(same, same), image_similarity(same, -same), consistency(same)):
        assert values.dtype == torch.float64
        assert values.abs().max() <= 1
    assert consistency(same[:1]).shape == direction_consistency(same[:1], -same[:1]).shape == (0,)


def test_the_lengths_of_features_do_not_count():
    longer = [x * 10 ** noise(N, 1, seed=seed) for seed, x in enumerate(FOUR, start=9)]
    torch.testing.assert_close(all_measures(*longer), all_measures(*FOUR), rtol=0, atol=1e-6)


def test_items_go_with_their_rows_and_sequences_run_either_way():
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    mixed, plain = all_measures(*(x[order] for x in FOUR)), all_measures(*FOUR)
    assert all(torch.equal(mixed[k], plain[k][order]) for k in range(3))
    backwards = all_measures(*(x.flip(0) for x in FOUR))
    assert all(torch.equal(backwards[k], plain[k].flip(0)) for k in (3, 4))
    assert torch.equal(image_similarity(EDITED, SOURCE), plain[0])


@pytest.mark.parametrize("length", [1, 3])  # three times as long is the same picture, except for rounding
def test_items_without_a_change_are_nan_alone(length: int):
    edited = EDITED.clone()
    edited[2] = SOURCE[2] * length
    nan = [False, False, True, False, False, False]
    assert directional_similarity(SOURCE, edited, OLD, NEW).isnan().tolist() == nan
    assert directional_similarity(OLD, NEW, SOURCE, edited).isnan().tolist() == nan
    assert direction_consistency(SOURCE, edited).isnan().tolist() == [False, True, True, False, False]
    assert image_similarity(SOURCE, edited)[2] == pytest.approx(1)


def test_features_without_a_length_are_nan_alone():
    edited = EDITED.clone()
    edited[2] = 0
    nan = [False, False, True, False, False, False]
    similar, _, directional, *_ = all_measures(SOURCE, edited, OLD, NEW)
    for values in (similar, directional, text_similarity(edited, NEW[0])):
        assert values.isnan().tolist() == nan
    assert consistency(edited).isnan().tolist() == [False, True, True, False, False]


def test_mean_and_error_agree_with_scipy_and_leave_nan_out():
    values = noise(20)
    values[[3, 7]] = math.nan
    counted = values[~values.isnan()].double().numpy()
    assert mean_and_error(values) == pytest.approx((counted.mean(), sem(counted), 18))
    assert mean_and_error(torch.tensor([1.0, math.nan, 3.0])) == pytest.approx((2, 1, 2))
    assert mean_and_error(torch.tensor([math.nan, 0.5])) == pytest.approx((0.5, math.nan, 1), nan_ok=True)
    assert mean_and_error(torch.empty(0)) == pytest.approx((math.nan, math.nan, 0), nan_ok=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused(value: float):
    bad = EDITED.clone()
    bad[1, 2] = value
    with pytest.raises(UserError, match="features: expected finite values, got NaN or infinity"):
        image_similarity(SOURCE, bad)
