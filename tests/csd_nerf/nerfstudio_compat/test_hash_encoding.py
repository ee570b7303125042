import pytest
import torch
from nerfstudio.field_components.encodings import HashEncoding

from csd_nerf.nerfstudio_compat import hash_encoding as csd_hash
from csd_nerf.nerfstudio_compat.hash_encoding import encode, speed_up

VALUE_TOLERANCE = 1e-9  # the table starts within 1e-4 of zero
GRADIENT_TOLERANCE = 1e-5


@pytest.fixture(params=[2, 3, 4])
def encoding(request: pytest.FixtureRequest) -> HashEncoding:
    torch.manual_seed(0)
    return HashEncoding(
        num_levels=5,
        min_res=4,
        max_res=300,
        log2_hashmap_size=9,
        features_per_level=request.param,
        implementation="torch",
    )


def gradients(function, encoding: HashEncoding, points: torch.Tensor) -> tuple[torch.Tensor, ...]:
    points = points.clone().requires_grad_()
    out = function(points)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    return (out, *torch.autograd.grad((out * weights).sum(), (encoding.hash_table, points)))


def test_equals_nerfstudios_own(encoding: HashEncoding) -> None:
    points = torch.rand(7, 41, 3)
    points[0, :4] = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0.25, 0.5, 0.75], [0, 1, 0.5]])  # on the grid
    value, table, position = gradients(lambda x: encode(encoding, x), encoding, points)
    expected = gradients(lambda x: HashEncoding.pytorch_fwd(encoding, x), encoding, points)
    torch.testing.assert_close(value, expected[0], rtol=0, atol=VALUE_TOLERANCE)
    torch.testing.assert_close(table, expected[1], rtol=0, atol=GRADIENT_TOLERANCE)
    torch.testing.assert_close(position, expected[2], rtol=1e-4, atol=GRADIENT_TOLERANCE)


def test_result_does_not_depend_on_blocks(encoding: HashEncoding, monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.rand(101, 3)
    whole = gradients(lambda x: encode(encoding, x), encoding, points)
    monkeypatch.setattr(csd_hash, "_BLOCK", 5 * 16)
    parts = gradients(lambda x: encode(encoding, x), encoding, points)
    assert torch.equal(parts[0], whole[0])
    for got, expected in zip(parts[1:], whole[1:], strict=True):  # a table's entry adds up in another order
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=GRADIENT_TOLERANCE)


def test_gradient_is_deterministic(encoding: HashEncoding) -> None:
    points = torch.rand(20000, 3)
    first, second = (gradients(lambda x: encode(encoding, x), encoding, points)[1] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("follow_points", [True, False])
def test_a_model_that_was_sped_up_uses_it(
    encoding: HashEncoding, monkeypatch: pytest.MonkeyPatch, follow_points: bool
) -> None:
    points = torch.rand(2, 3, requires_grad=True)
    expected = encoding(points.detach())
    model = torch.nn.Sequential(encoding)
    speed_up(model, follow_points=follow_points)
    monkeypatch.setattr(HashEncoding, "pytorch_fwd", None)
    out = model(points)
    torch.testing.assert_close(out, expected, rtol=0, atol=VALUE_TOLERANCE)
    out.sum().backward()
    assert encoding.hash_table.grad is not None
    assert (points.grad is not None) == follow_points
