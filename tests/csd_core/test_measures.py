"""Image measures against hand-worked values and scikit-image."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from csd_core.measures import gradient_correlation, psnr, seam_score


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_psnr_agrees_with_scikit_image_and_with_hand():
    a, b = noise(3, 6, 5), noise(3, 6, 5, seed=1)
    expected = peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1)
    assert psnr(a, b) == pytest.approx(expected, abs=1e-4)
    assert psnr(a * 0.5, a * 0.5 + 0.01) == pytest.approx(40, abs=1e-3)
    assert psnr(a, a) == math.inf


def test_psnr_counts_pixels_inside_the_mask_alone():
    image, mask = torch.zeros(3, 2, 4), torch.zeros(2, 4, dtype=torch.bool)
    target = image.clone()
    target[:, :, :2] = 0.1
    target[:, :, 2:] = 1.0
    mask[:, :2] = True
    assert psnr(image, target, mask) == pytest.approx(20, abs=1e-3)
    assert math.isnan(psnr(image, target, ~mask & mask))


def test_gradient_correlation_agrees_with_numpy():
    a, b = noise(3, 7, 6), noise(3, 7, 6, seed=1)
    luma = [np.tensordot([0.299, 0.587, 0.114], x.numpy(), axes=1) for x in (a, b)]
    vectors = [np.concatenate([np.diff(y, axis=1).ravel(), np.diff(y, axis=0).ravel()]) for y in luma]
    assert gradient_correlation(a, b) == pytest.approx(np.corrcoef(vectors[0], vectors[1])[0, 1], abs=1e-5)


def test_gradient_correlation_sees_edges_and_not_colours():
    a = noise(3, 8, 8)
    assert gradient_correlation(a, 0.3 * a + 0.2) == pytest.approx(1)
    assert gradient_correlation(a, 1 - a) == pytest.approx(-1)
    assert math.isnan(gradient_correlation(a, torch.zeros_like(a)))


def test_gradient_correlation_counts_differences_inside_the_mask_alone():
    a, mask = noise(3, 8, 8), torch.zeros(8, 8, dtype=torch.bool)
    mask[:, :4] = True
    b = torch.where(mask, a, noise(3, 8, 8, seed=1))
    assert gradient_correlation(a, b, mask) == pytest.approx(1)
    assert gradient_correlation(a, b) < 0.95


def by_pixels(image: torch.Tensor, rows: list[int], columns: list[int]) -> float:
    """Step across borders over step elsewhere, one pair of neighbours at a time."""
    luma = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
    height, width = luma.shape
    across, elsewhere = [], []
    for y in range(height):
        for x in range(width):
            if y:
                (across if y in rows else elsewhere).append(abs(float(luma[y, x] - luma[y - 1, x])))
            if x:
                (across if x in columns else elsewhere).append(abs(float(luma[y, x] - luma[y, x - 1])))
    return float(np.mean(across) / np.mean(elsewhere))


def test_the_seam_score_is_a_ratio_of_mean_steps():
    image, source = noise(3, 9, 12), noise(3, 9, 12, seed=1)
    rows, columns = [3, 6], [4, 11]
    expected = by_pixels(image, rows, columns) / by_pixels(source, rows, columns)
    score = seam_score(
        image, source, [0, *rows, 9], [*columns, 0, 12]
    )  # the picture's own edges do not count
    assert score == pytest.approx(expected, rel=1e-5)


def test_the_seam_score_is_one_without_seams_and_grows_with_them():
    source = noise(3, 16, 16)
    assert seam_score(source, source, [8], [8]) == 1
    tiled = source.clone()
    tiled[:, 8:] += 0.5
    assert seam_score(tiled, source, [8], [8]) > 1.5
    assert seam_score(tiled, source, [4], [4]) < 1
