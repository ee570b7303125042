import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from csd_core.method.csd import csd_edit_gradient, csd_gradient
from csd_core.method.svgd import KernelConfig, squared_l2
from tests import reference

WEIGHT = 0.37
FLOAT64_ERROR = 1e-12
FLOAT32_ERROR = 1e-5
EQUATIONS = [csd_gradient, csd_edit_gradient]


def inputs(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, prediction, baseline."""
    generator = torch.Generator().manual_seed(seed)
    x_t, prediction, baseline = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    return x_t.to(dtype), prediction.to(dtype), baseline.to(dtype)


@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize("shape", [(1, 3), (2, 3), (5, 4), (7, 2, 3, 3)])
@pytest.mark.parametrize(
    "kernel",
    [
        KernelConfig(),
        KernelConfig(bandwidth=1.3),
        KernelConfig(bandwidth_factor=3.0),
        KernelConfig(repulsion=0.25),
        KernelConfig(bandwidth=2.0, repulsion=-1.0),
    ],
)
def test_equals_the_double_loop(equation: Any, shape: tuple[int, ...], kernel: KernelConfig) -> None:
    x_t, prediction, baseline = inputs(*shape)
    flat = x_t.flatten(1).numpy()
    h = kernel.bandwidth or (
        reference.median_bandwidth(flat, kernel.bandwidth_factor) if len(x_t) > 1 else 1.0
    )
    expected = reference.csd(flat, (prediction - baseline).flatten(1).numpy(), WEIGHT, h, kernel.repulsion)
    result = equation(x_t, prediction, baseline, WEIGHT, kernel=kernel)
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result.flatten(1).numpy(), expected, rtol=0, atol=FLOAT64_ERROR)


def test_two_particles_by_hand() -> None:
    # on a line at 0 and 2, bandwidth 4: k = exp(-4 / 4); the repulsion between them is 2 / 4 * 2 * k
    x_t = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    wanted = torch.tensor([[10.0], [100.0]], dtype=torch.float64)
    k, push = math.exp(-1), 2 / 4 * 2 * math.exp(-1)
    result = csd_gradient(x_t, wanted, torch.zeros_like(x_t), 0.5, kernel=KernelConfig(bandwidth=4.0))
    # particle 0 lies to the left of particle 1: descending a positive gradient moves it further left
    assert result[0].item() == pytest.approx(0.5 / 2 * (10.0 + k * 100.0 + push))
    assert result[1].item() == pytest.approx(0.5 / 2 * (k * 10.0 + 100.0 - push))


@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weight", [0.1, torch.tensor(0.1)])
@pytest.mark.parametrize("kernel", [KernelConfig(), KernelConfig(bandwidth=0.5), None])
def test_one_particle_is_sds_to_the_last_bit(
    equation: Any, dtype: torch.dtype, weight: float | Tensor, kernel: KernelConfig | None
) -> None:
    x_t, prediction, baseline = inputs(1, 4, 5, 5, dtype=dtype)
    result = equation(x_t, prediction, baseline, weight, kernel=kernel)
    assert torch.equal(result, weight * (prediction - baseline))  # Eq. 5


def test_without_mixing_every_particle_is_by_itself() -> None:
    x_t, prediction, noise = inputs(4, 3)
    together = csd_gradient(x_t, prediction, noise, WEIGHT, kernel=None)
    for i in range(4):
        alone = csd_gradient(x_t[i : i + 1], prediction[i : i + 1], noise[i : i + 1], WEIGHT)
        assert torch.equal(together[i : i + 1], alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 3, 16])
@pytest.mark.parametrize("spread", [0.0, 1e-30, 1e-12, 1e-6, 1e-3])
def test_equal_and_nearly_equal_particles_stay_finite_and_bounded(
    dtype: torch.dtype, n: int, spread: float
) -> None:
    x_t, prediction, noise = inputs(n, 4, 8, 8)
    x_t = (x_t[:1] + spread * x_t).to(dtype)
    result = csd_gradient(x_t, prediction.to(dtype), noise.to(dtype), 1.0)
    assert result.isfinite().all()
    assert result.abs().max() < 10  # the predictions themselves reach about 5


def test_equal_particles_share_one_mean_gradient() -> None:
    _, prediction, noise = inputs(5, 3)
    result = csd_gradient(torch.ones(5, 3, dtype=torch.float64), prediction, noise, WEIGHT)
    torch.testing.assert_close(result, (WEIGHT * (prediction - noise).mean(0)).expand(5, 3))


@pytest.mark.parametrize("equation", EQUATIONS)
def test_permuting_particles_permutes_the_result(equation: Any) -> None:
    x_t, prediction, baseline = inputs(9, 2, 3)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    result = equation(x_t, prediction, baseline, WEIGHT)
    permuted = equation(x_t[order], prediction[order], baseline[order], WEIGHT)
    torch.testing.assert_close(permuted, result[order], rtol=0, atol=FLOAT64_ERROR)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    x_t, prediction, baseline = inputs(6, 4, 8, 8, dtype=dtype)
    result = csd_edit_gradient(x_t, prediction, baseline, WEIGHT)
    assert result.dtype == torch.float32
    exact = csd_edit_gradient(x_t.double(), prediction.double(), baseline.double(), WEIGHT)
    torch.testing.assert_close(result.double(), exact, rtol=0, atol=FLOAT32_ERROR)


@pytest.mark.parametrize(("repulsion", "spreads"), [(1.0, True), (-1.0, False)])
def test_particles_that_want_nothing_spread(repulsion: float, spreads: bool) -> None:
    x_t, nothing, _ = inputs(6, 3)
    gradient = csd_gradient(x_t, nothing, nothing, 1.0, kernel=KernelConfig(repulsion=repulsion))
    before, after = squared_l2(x_t).sum(), squared_l2(x_t - 0.1 * gradient).sum()
    assert (after > before) == spreads


def test_distances_from_outside_replace_l2() -> None:
    x_t, prediction, noise = inputs(5, 3)
    x_t.requires_grad_()
    twice = csd_gradient(x_t, prediction, noise, WEIGHT, squared_distances=4 * squared_l2(x_t))
    # the median bandwidth takes the unit out of the distances
    once = csd_gradient(x_t, prediction, noise, WEIGHT)
    torch.testing.assert_close(twice, once)
    assert not twice.requires_grad
