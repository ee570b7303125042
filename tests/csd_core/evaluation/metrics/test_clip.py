"""CLIP measures against loops of numpy, torchmetrics, scipy and angles on the plane."""

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


def lengths(seed: int = 9) -> Tensor:
    return 10 ** noise(N, 1, seed=seed)


def at(*degrees: float) -> Tensor:
    """Unit vectors on the plane."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def cos(degrees: float) -> float:
    return math.cos(math.radians(degrees))


SOURCE, EDITED, OLD, NEW = (noise(N, D, seed=k) for k in range(4))


def by_hand(a: np.ndarray, b: np.ndarray) -> float:
    total, aa, bb = 0.0, 0.0, 0.0
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        total, aa, bb = total + x * y, aa + x * x, bb + y * y
    return total / (aa**0.5 * bb**0.5)


def directions_by_hand(start: Tensor, end: Tensor) -> list[np.ndarray]:
    pairs = zip(start.double().numpy(), end.double().numpy(), strict=True)
    return [b / np.sqrt(np.sum(b**2)) - a / np.sqrt(np.sum(a**2)) for a, b in pairs]


def test_similarities_agree_with_numpy_and_torchmetrics():
    expected = [by_hand(a, b) for a, b in zip(SOURCE.numpy(), EDITED.numpy(), strict=True)]
    assert image_similarity(SOURCE, EDITED).tolist() == pytest.approx(expected, abs=1e-6)
    table = pairwise_cosine_similarity(SOURCE.double(), NEW.double())
    torch.testing.assert_close(text_similarity(SOURCE, NEW), table.diagonal())
    torch.testing.assert_close(text_similarity(SOURCE, NEW[0]), table[:, 0])
    frames = pairwise_cosine_similarity(SOURCE.double(), zero_diagonal=False)
    torch.testing.assert_close(consistency(SOURCE), frames.diagonal(offset=1))


def test_directions_agree_with_numpy():
    pictures, texts = directions_by_hand(SOURCE, EDITED), directions_by_hand(OLD, NEW)
    expected = [by_hand(a, b) for a, b in zip(pictures, texts, strict=True)]
    assert directional_similarity(SOURCE, EDITED, OLD, NEW).tolist() == pytest.approx(expected, abs=1e-9)
    expected = [by_hand(pictures[k], pictures[k + 1]) for k in range(N - 1)]
    assert direction_consistency(SOURCE, EDITED).tolist() == pytest.approx(expected, abs=1e-9)


def test_one_caption_counts_for_every_picture():
    each = directional_similarity(SOURCE, EDITED, OLD[:1].repeat(N, 1), NEW[:1].repeat(N, 1))
    assert torch.equal(directional_similarity(SOURCE, EDITED, OLD[0], NEW[0]), each)


def test_angles_on_the_plane():
    assert image_similarity(at(0, 10, 90), at(60, 10, 270)).tolist() == pytest.approx([0.5, 1, -1])
    assert text_similarity(at(0, 45, 90), at(90)[0]).tolist() == pytest.approx([0, cos(45), 1])
    assert consistency(at(0, 20, 80, 260)).tolist() == pytest.approx([cos(20), 0.5, -1])
    # a chord from a to b points to (a + b) / 2 + 90 degrees, or the other way where it turns back
    measure = directional_similarity(at(0, 0, 40), at(40, 40, 0), at(0, 60, 0), at(40, 120, 40))
    assert measure.tolist() == pytest.approx([1, cos(70), -1])
    measure = direction_consistency(at(0, 30, 60), at(20, 70, 20))
    assert measure.tolist() == pytest.approx([cos(40), -cos(10)])


def test_values_are_float64_cosines():
    same = noise(500, 7)
    for values in (image_similarity(same, same), image_similarity(same, -same), consistency(same)):
        assert values.dtype == torch.float64
        assert values.abs().max() <= 1
    assert consistency(same[:1]).shape == direction_consistency(same[:1], -same[:1]).shape == (0,)


def test_the_lengths_of_features_do_not_count():
    a, b, c, d = (x * lengths(seed) for seed, x in enumerate((SOURCE, EDITED, OLD, NEW), start=9))
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(image_similarity(a, b), image_similarity(SOURCE, EDITED), **close)
    torch.testing.assert_close(text_similarity(a, d), text_similarity(SOURCE, NEW), **close)
    expected = directional_similarity(SOURCE, EDITED, OLD, NEW)
    torch.testing.assert_close(directional_similarity(a, b, c, d), expected, **close)
    torch.testing.assert_close(consistency(a), consistency(SOURCE), **close)
    torch.testing.assert_close(direction_consistency(a, b), direction_consistency(SOURCE, EDITED), **close)


def test_items_go_with_their_rows_and_sequences_run_either_way():
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    a, b, c, d = (x[order] for x in (SOURCE, EDITED, OLD, NEW))
    assert torch.equal(image_similarity(a, b), image_similarity(SOURCE, EDITED)[order])
    assert torch.equal(image_similarity(b, a), image_similarity(a, b))
    expected = directional_similarity(SOURCE, EDITED, OLD, NEW)[order]
    assert torch.equal(directional_similarity(a, b, c, d), expected)
    assert torch.equal(consistency(SOURCE.flip(0)), consistency(SOURCE).flip(0))
    backwards = direction_consistency(SOURCE.flip(0), EDITED.flip(0))
    assert torch.equal(backwards, direction_consistency(SOURCE, EDITED).flip(0))
    axes = torch.randperm(D, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(consistency(SOURCE[:, axes]), consistency(SOURCE))


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
    assert image_similarity(SOURCE, edited).isnan().tolist() == nan
    assert text_similarity(edited, NEW[0]).isnan().tolist() == nan
    assert directional_similarity(SOURCE, edited, OLD, NEW).isnan().tolist() == nan
    assert consistency(edited).isnan().tolist() == [False, True, True, False, False]


def test_mean_and_error_agree_with_scipy_and_leave_nan_out():
    values = noise(20)
    values[[3, 7]] = math.nan
    counted = values[~values.isnan()].double().numpy()
    assert mean_and_error(values) == pytest.approx((counted.mean(), sem(counted), 18))
    mean, error, count = mean_and_error(torch.tensor([1.0, math.nan, 3.0]))
    assert (mean, error, count) == (2, pytest.approx(1), 2)


def test_the_error_of_fewer_than_two_values_is_nan():
    mean, error, count = mean_and_error(torch.tensor([math.nan, 0.5]))
    assert (mean, count) == (0.5, 1)
    assert math.isnan(error)
    mean, error, count = mean_and_error(torch.empty(0))
    assert count == 0
    assert math.isnan(mean)
    assert math.isnan(error)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused(value: float):
    bad = EDITED.clone()
    bad[1, 2] = value
    with pytest.raises(UserError, match="features: expected finite values, got NaN or infinity"):
        image_similarity(SOURCE, bad)
