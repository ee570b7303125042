import random
import weakref
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from csd_core.denoisers.runtime.vae import around_the_ends, in_tiles, tile_starts
from csd_core.errors import UserError

SCALES = [1, 4, Fraction(1, 4), Fraction(3, 2)]


def image(height: int, width: int, n: int = 1) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def resample(x: Tensor, scale: Fraction | int) -> Tensor:
    """Exact and local: every block of the result comes from the block of x beneath it alone."""
    repeated = x.repeat_interleave(scale.numerator, dim=-2).repeat_interleave(scale.numerator, dim=-1)
    return F.avg_pool2d(repeated, scale.denominator)


def blur(radius: int, padding: str = "constant") -> Callable[[Tensor], Tensor]:
    """A network that looks radius far, and takes what lies beyond the edge of its input for ones."""

    def function(x: Tensor) -> Tensor:
        kernel = torch.rand(1, 1, 2 * radius + 1, 2 * radius + 1, generator=torch.Generator().manual_seed(1))
        ones = {"value": 1.0} if padding == "constant" else {}
        padded = F.pad(x, [radius] * 4, mode=padding, **ones).flatten(0, 1)[:, None]
        return F.conv2d(padded, kernel / kernel.sum()).view_as(x)

    return function


def random_cases(count: int) -> list[tuple[int, int, int, int, Fraction | int]]:
    """Height, width, tile, overlap, scale; from no overlap to nearly a whole tile."""
    draw = random.Random(0)
    cases = []
    for _ in range(count):
        scale = draw.choice(SCALES)
        unit = scale.denominator
        tile = draw.randint(unit, 24)
        overlap = draw.randint(0, tile // unit * unit - unit)
        height, width = (unit * draw.randint(1, 44 // unit) for _ in range(2))
        cases.append((height, width, tile, overlap, scale))
    return cases


def test_tiles_cover_every_image_and_change_nothing_by_themselves() -> None:
    for height, width, tile, overlap, scale in random_cases(150):
        x, sides = image(height, width, n=2), set()

        def function(part: Tensor, scale: Fraction | int = scale, sides: set = sides) -> Tensor:
            sides.add(tuple(part.shape[-2:]))
            return resample(part, scale)

        out = in_tiles(function, x, tile=tile, overlap=overlap, scale=scale)
        torch.testing.assert_close(out, resample(x, scale), rtol=0, atol=1e-6)
        assert len(sides) == 1
        assert all(side <= tile for side in sides.pop())


def test_tiles_are_few_evenly_spread_and_flush_with_the_edge() -> None:
    for height, _, tile, overlap, scale in random_cases(300):
        unit = scale.denominator
        tile = tile // unit * unit
        if height < tile:
            continue
        starts = tile_starts(height, tile, overlap, unit)
        strides = [b - a for a, b in pairwise(starts)]
        assert (starts[0], starts[-1] + tile) == (0, height)
        assert all(start % unit == 0 for start in starts)
        assert all(unit <= stride <= tile - overlap for stride in strides)
        assert max(strides, default=0) - min(strides, default=0) <= unit
        fewer = len(strides) - 1
        assert fewer < 0 or fewer * ((tile - overlap) // unit * unit) < height - tile


@pytest.mark.parametrize(("radius", "exact"), [(4, True), (5, False)])
def test_a_network_that_looks_no_farther_than_a_guard_sees_no_tiles(radius: int, exact: bool) -> None:
    x, function = image(64, 88), blur(radius)
    # 24-pixel strides on both sides: neighbours share 16 pixels, the guards are 4
    difference = (in_tiles(function, x, tile=40, overlap=16, scale=1) - function(x)).abs().max()
    assert (difference < 1e-6) == exact


def test_tiles_of_other_tone_fade_into_each_other() -> None:
    tones = iter([0.0, 1.0, 0.0])
    out = in_tiles(lambda x: torch.full_like(x, next(tones)), image(8, 88), tile=40, overlap=16, scale=1)
    row = out[0, 0, 0]
    assert torch.equal(row[:28], torch.zeros(28))  # the second tile starts at 24, its guard ends at 28
    torch.testing.assert_close(row[28:36], (torch.arange(8) + 0.5) / 8)
    assert torch.equal(row[36:52], torch.ones(16))
    torch.testing.assert_close(row[44:88], row[:44].flip(0))


def test_a_true_edge_has_no_guard() -> None:
    def marked(x: Tensor) -> Tensor:
        return torch.zeros_like(x).index_fill_(-1, torch.tensor([0, x.shape[-1] - 1]), 1)

    row = in_tiles(marked, image(8, 88), tile=40, overlap=16, scale=1)[0, 0, 0]
    assert row[[0, 87]].tolist() == [1, 1]
    assert row[1:87].abs().max() == 0


@pytest.mark.parametrize("size", [(40, 40), (8, 40), (39, 17)])
def test_an_image_no_larger_than_a_tile_is_one_plain_call(size: tuple[int, int]) -> None:
    x, seen = image(*size), []
    out = in_tiles(lambda part: seen.append(part) or part, x, tile=40, overlap=16, scale=Fraction(1, 4))
    assert out is x
    assert len(seen) == 1


def test_one_tile_is_in_memory_at_a_time() -> None:
    made: list[weakref.ref[Tensor]] = []

    def function(part: Tensor) -> Tensor:
        assert max(part.shape[-2:]) <= 40
        assert not any(ref() is not None for ref in made)
        out = part + 1
        made.append(weakref.ref(out))
        return out

    in_tiles(function, image(88, 88), tile=40, overlap=16, scale=1)
    assert len(made) == 9


def test_channels_and_precision_are_those_of_the_network() -> None:
    x = image(88, 87)
    out = in_tiles(lambda part: part[:, :1].double(), x, tile=40, overlap=16, scale=1)
    torch.testing.assert_close(out, x[:, :1].double(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("overlap", [-1, 37, 40])
def test_tiles_have_to_advance(overlap: int) -> None:
    with pytest.raises(UserError, match=f"overlap: expected 0 to 36, less than a tile, got {overlap}"):
        in_tiles(lambda part: part, image(88, 88), tile=40, overlap=overlap, scale=Fraction(1, 4))


def test_sides_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match="sides: expected multiples of 4, got 88 x 90"):
        in_tiles(lambda part: part, image(88, 90), tile=40, overlap=8, scale=Fraction(1, 4))


# Left and right ends that meet


@pytest.mark.parametrize(("count", "exact"), [(3, True), (2, False), (0, False), (24, True)])
def test_a_network_around_the_ends_sees_neither_end(count: int, exact: bool) -> None:
    x, function = image(16, 24), blur(3)
    out = function(around_the_ends(x, count))[..., count : count + 24]
    around = torch.cat([x] * 3, dim=-1)
    assert torch.allclose(out, function(around)[..., 24:48], rtol=0, atol=1e-6) == exact


@pytest.mark.parametrize("pixels", [1, 7, 40])
def test_rolling_an_image_rolls_what_a_network_makes_of_it_in_tiles(pixels: int) -> None:
    def function(x: Tensor) -> Tensor:
        return in_tiles(blur(4), around_the_ends(x, 8), tile=40, overlap=16, scale=1)[..., 8:-8]

    x = image(16, 88)
    torch.testing.assert_close(function(x.roll(pixels, -1)), function(x).roll(pixels, -1))
