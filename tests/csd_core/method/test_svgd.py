import math

import numpy as np
import pytest
import torch
from torch import Tensor

from csd_core.method.csd import csd_gradient
from csd_core.method.svgd import (
    MIN_BANDWIDTH,
    KernelConfig,
    kernel_and_gradient,
    median_bandwidth,
    rbf_kernel,
    rbf_kernel_gradient,
    squared_l2,
)
from tests import reference

FLOAT64_ERROR = 1e-12
SHAPES = [(2, 3), (5, 4), (8, 2, 3, 3)]


def particles(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_bandwidth_by_hand() -> None:
    # on a line at 0, 1, 3: squared distances 1, 4, 9, whose median is 4
    x = torch.tensor([[0.0], [1.0], [3.0]])
    assert median_bandwidth(squared_l2(x)).item() == pytest.approx(4 / math.log(3 + 1))
    assert median_bandwidth(squared_l2(x), factor=3).item() == pytest.approx(3 * 4 / math.log(3 + 1))


def test_bandwidth_of_an_even_number_of_pairs_is_the_mean_of_the_middle_two() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])  # squared distances 1, 4, 9, 16, 36, 49
    assert median_bandwidth(squared_l2(x)).item() == pytest.approx((9 + 16) / 2 / math.log(4 + 1))


def test_median_neighbour_weighs_one_in_n_plus_one() -> None:
    x = particles(2, 5)
    d = squared_l2(x)
    assert rbf_kernel(d, median_bandwidth(d))[0, 1].item() == pytest.approx(1 / (2 + 1))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_bandwidth_of_equal_particles_is_the_floor(n: int) -> None:
    assert median_bandwidth(squared_l2(torch.ones(n, 3))).item() == pytest.approx(MIN_BANDWIDTH)


@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_and_gradient_equal_the_double_loop(shape: tuple[int, ...]) -> None:
    x = particles(*shape)
    flat = x.flatten(1).numpy()
    h = reference.median_bandwidth(flat)
    k, gradient = kernel_and_gradient(x, KernelConfig())
    n = len(x)
    expected_k = [[reference.kernel(flat[i], flat[j], h) for j in range(n)] for i in range(n)]
    expected = [sum(reference.kernel_gradient(flat[j], flat[i], h) for j in range(n)) for i in range(n)]
    np.testing.assert_allclose(k.numpy(), expected_k, atol=FLOAT64_ERROR)
    np.testing.assert_allclose(gradient.flatten(1).numpy(), np.array(expected), atol=FLOAT64_ERROR)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_is_the_derivative_of_the_kernel_by_its_first_argument(shape: tuple[int, ...]) -> None:
    x, h = particles(*shape), 1.7
    for i in range(len(x)):
        first = x.clone().requires_grad_()
        sum_over_j = torch.exp(-(first - x[i]).square().flatten(1).sum(1) / h).sum()
        (derivative,) = torch.autograd.grad(sum_over_j, first)
        analytic = rbf_kernel_gradient(x, rbf_kernel(squared_l2(x), h), h)[i]
        torch.testing.assert_close(analytic, derivative.sum(0), rtol=0, atol=FLOAT64_ERROR)


class _Potential(torch.autograd.Function):
    """Half the sum of the kernel over all pairs, with the library's gradient as its derivative."""

    @staticmethod
    def forward(ctx, x: Tensor, h: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.h = h
        return rbf_kernel(squared_l2(x), h).sum() / 2

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return -grad_outputs[0] * rbf_kernel_gradient(x, rbf_kernel(squared_l2(x), ctx.h), ctx.h), None


@pytest.mark.parametrize("shape", SHAPES)
def test_gradcheck(shape: tuple[int, ...]) -> None:
    x = particles(*shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: _Potential.apply(x, 2.3), x)


def test_distances_from_outside_give_what_squared_l2_gives() -> None:
    x = particles(6, 3, 2).requires_grad_()
    k, gradient = kernel_and_gradient(x, KernelConfig(), squared_l2(x))
    expected_k, expected = kernel_and_gradient(x, KernelConfig())
    torch.testing.assert_close(k, expected_k)
    torch.testing.assert_close(gradient, expected)
    assert not k.requires_grad
    assert not gradient.requires_grad


def test_distances_without_a_graph_allow_no_repulsion() -> None:
    x = particles(4, 3)
    with pytest.raises(ValueError, match="repulsion needs their derivative"):
        kernel_and_gradient(x, KernelConfig(), squared_l2(x))
    k, gradient = kernel_and_gradient(x, KernelConfig(repulsion=0), squared_l2(x))
    torch.testing.assert_close(k, rbf_kernel(squared_l2(x), median_bandwidth(squared_l2(x))))
    assert gradient.abs().max() == 0


MODE = torch.tensor([1.5, -1.0], dtype=torch.float64)
"""The mixture: N(+MODE, I) and N(-MODE, I), half each. Mean 0, covariance I + MODE MODE^T."""
START = torch.tensor([2.0, 0.0], dtype=torch.float64)
STEPS, STEP_SIZE, PARTICLES = 500, 1.0, 50
MEAN_ERROR, COVARIANCE_ERROR = 0.15, 0.15
COLLAPSED = 1e-2


def mixture_score(x: Tensor) -> Tensor:
    """grad log p: -(x - MODE) and -(x + MODE), weighed by the share of each mode."""
    return -x + torch.tanh(x @ MODE)[:, None] * MODE


def run_svgd(config: KernelConfig) -> Tensor:
    """Particles in a clump beside one mode, moved by Eq. 8 with the mixture's exact score."""
    x = START + 0.05 * particles(PARTICLES, 2)
    for _ in range(STEPS):
        x = x - STEP_SIZE * csd_gradient(x, -mixture_score(x), torch.zeros_like(x), 1.0, kernel=config)
    return x


@pytest.mark.parametrize("bandwidth", [None, 1.5])
def test_svgd_recovers_a_mixture_of_two_gaussians_from_a_clump(bandwidth: float | None) -> None:
    x = run_svgd(KernelConfig(bandwidth))
    covariance = torch.eye(2, dtype=torch.float64) + torch.outer(MODE, MODE)
    torch.testing.assert_close(x.mean(0), torch.zeros(2, dtype=torch.float64), rtol=0, atol=MEAN_ERROR)
    torch.testing.assert_close(x.T.cov(), covariance, rtol=0, atol=COVARIANCE_ERROR)


@pytest.mark.parametrize("repulsion", [-1.0, 0.0])
def test_svgd_collapses_with_the_repulsion_flipped_or_absent(repulsion: float) -> None:
    # a fixed bandwidth: the median shrinks with the particles, and the pull would overshoot without end
    assert run_svgd(KernelConfig(1.5, repulsion=repulsion)).T.cov().trace() < COLLAPSED
