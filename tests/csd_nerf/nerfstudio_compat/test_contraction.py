"""The contraction of the CPU is nerfstudio's."""

import math

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


def test_equals_nerfstudios_to_the_last_bit() -> None:
    assert torch.equal(contract(points()), SceneContraction(order=math.inf)(points()))


def test_gradient_equals_nerfstudios() -> None:
    def gradient(function) -> torch.Tensor:
        at = points()[1:].requires_grad_()
        out = function(at)
        (found,) = torch.autograd.grad((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum(), at)
        return found

    expected = gradient(SceneContraction(order=math.inf))
    torch.testing.assert_close(gradient(contract), expected, rtol=1e-4, atol=GRADIENT_TOLERANCE)


@pytest.mark.parametrize(("order", "fast"), [(math.inf, True), (None, False)])
def test_a_contraction_into_a_ball_stays_nerfstudios(order: float | None, fast: bool) -> None:
    contraction = SceneContraction(order=order)
    expected = contraction(points())
    speed_up_contraction(torch.nn.Sequential(contraction))
    assert ("forward" in vars(contraction)) == fast
    assert torch.equal(contraction(points()), expected)
