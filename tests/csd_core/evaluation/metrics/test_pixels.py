"""Image measures against hand-worked values, scikit-image and scipy."""

import colorsys
import math

import numpy as np
import pytest
import torch
from scipy.stats import circstd
from skimage.metrics import peak_signal_noise_ratio

from csd_core.evaluation.metrics.pixels import gradient_correlation, hue_spread, psnr, seam_score


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


def test_gradient_correlation_sees_edges_inside_the_mask_and_not_colours():
    a, mask = noise(3, 8, 8), torch.zeros(8, 8, dtype=torch.bool)
    mask[:, :4] = True
    b = torch.where(mask, a, noise(3, 8, 8, seed=1))
    assert gradient_correlation(a, b, mask) == pytest.approx(1)
    assert gradient_correlation(a, b) < 0.95
    assert gradient_correlation(a, 0.3 * a + 0.2) == pytest.approx(1)
    assert gradient_correlation(a, 1 - a) == pytest.approx(-1)
    assert math.isnan(gradient_correlation(a, torch.zeros_like(a)))


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
    # the picture's own edges do not count
    assert seam_score(image, source, [0, *rows, 9], [*columns, 0, 12]) == pytest.approx(expected, rel=1e-5)


def towards(hue: float, amount: float = 0.1) -> torch.Tensor:
    """A change of colour (3, 4, 5): a pure colour of this hue in degrees, times amount, plus some grey."""
    colour = torch.tensor(colorsys.hsv_to_rgb(hue % 360 / 360, 1, 1))
    return (colour * amount + 0.05)[:, None, None].expand(3, 4, 5)


def spread_of(*changes: torch.Tensor) -> float:
    """The spread of these changes made to different frames."""
    sources = [noise(3, 4, 5, seed=k) for k in range(len(changes))]
    return hue_spread((x + change for x, change in zip(sources, changes, strict=True)), iter(sources))


def test_equal_hues_have_no_spread_whatever_their_strength():
    assert spread_of(towards(30), towards(30), towards(30)) == pytest.approx(0, abs=0.1)
    assert spread_of(towards(200), towards(200, 0.4)) == pytest.approx(0, abs=0.1)
    assert spread_of(towards(77)) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("hues", [(350, 10), (0, 0, 60), (40, 100, 95, 60), (0, 120, 130), (170, 190)])
def test_the_spread_of_hues_is_that_of_scipy(hues: tuple[int, ...]):
    # 1 degree: hues of HSV lie on a hexagon, and differ that much from angles on the plane of colours
    assert spread_of(*map(towards, hues)) == pytest.approx(circstd(hues, high=360), abs=1.2)
    assert spread_of(towards(0), towards(180)) > 180


def test_a_frame_counts_by_its_chroma():
    twice = circstd([20, 20, 80], high=360)
    assert spread_of(towards(20, 0.2), towards(80, 0.1)) == pytest.approx(twice, abs=1.2)
    assert spread_of(towards(20, 0.2), torch.full((3, 4, 5), 0.3)) == pytest.approx(0, abs=0.1)


def test_a_grey_change_has_no_hue():
    assert math.isnan(spread_of(torch.full((3, 4, 5), 0.3), torch.full((3, 4, 5), -0.1)))
    assert math.isnan(spread_of(towards(20, 0.0005), towards(80, 0.0005)))
    assert spread_of(towards(20, 0.003), towards(20, 0.003)) == pytest.approx(0, abs=1)
    assert math.isnan(hue_spread([], []))
