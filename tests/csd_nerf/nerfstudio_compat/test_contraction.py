"""The contraction on the CPU equals nerfstudio's."""

import math
from collections.abc import Callable

import pytest
import torch
from nerfstudio.field_components.spatial_distortions import SceneContraction

from csd_nerf.nerfstudio_compat.contraction import contract, speed_up_contraction

GRADIENT_TOLERANCE = 1e-6


def points() -> torch.Tensor:
    """Near and far, on the border and at the origin."""
    generator = torch.Generator().manual_seed(0)
    scattered = torch.randn(50, 7, 3, generator=generator) * torch.logspace(-3, 3, 50).view(-1, 1, 1)
    scattered[0, :3] = torch.tensor([[0.0, 0, 0], [1, 0.5, -0.25], [-0.5, 0.25, 1e6]])
    return scattered


def test_value_and_gradient_equal_nerfstudios() -> None:
    def run(function: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, ...]:
        at = points().requires_grad_()
        out = function(at)
        weights = torch.linspace(-1, 1, out.numel()).view_as(out)
        return out, torch.autograd.grad((out * weights).sum(), at)[0][1:]  # no gradient where axes are equal

    (value, gradient), (expected, its_gradient) = run(contract), run(SceneContraction(order=math.inf))
    assert torch.equal(value, expected)
    torch.testing.assert_close(gradient, its_gradient, rtol=1e-4, atol=GRADIENT_TOLERANCE)


@pytest.mark.parametrize(("order", "fast"), [(math.inf, True), (None, False)])
def test_only_contractions_into_a_cube_are_replaced(order: float | None, fast: bool) -> None:
    contraction = SceneContraction(order=order)
    expected = contraction(points())
    speed_up_contraction(torch.nn.Sequential(contraction))
    assert ("forward" in vars(contraction)) == fast
    assert torch.equal(contraction(points()), expected)
