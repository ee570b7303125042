"""Networks over images too large for memory, and over images whose left and right ends meet.

A network that sees a part of an image takes the part's edge for the image's. So parts overlap, and what was
computed next to a cut is thrown away. One side, where tile a ends and tile b begins:

    a  ──────────────╲______|
    b        |______╱──────────────
             |guard|ramp|guard|         together: what the two share

The weights add up to 1. A network that looks no farther than a guard gives the same with tiles as without.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from csd_core.denoisers.runtime.tile_norms import whole_image_norms
from csd_core.errors import expect

GUARD = 0.25
"""Width of a guard, as a share of what two tiles share."""
WRAP = 24
"""Latent pixels seen around the ends of a panorama; the mini editor looks 19 far to decode, 0 to encode."""


@dataclass
class _Span:
    """A tile along one side: where it is read, where it is written, and its weights (length of target,)."""

    source: slice
    target: slice
    weights: Tensor


def in_tiles(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    tile: int,
    overlap: int,
    scale: Fraction | int,
    network: nn.Module | None = None,
) -> Tensor:
    """function(x), computed tile by tile and blended. No more than one tile is in memory beside the result.

    Tiles begin at multiples of the denominator of scale, so that each pixel of the result belongs to as many
    whole pixels of x in a tile as it does in the image.

    Args:
        function: (n, C, h, w) -> (n, C', h * scale, w * scale).
        x: (n, C, H, W).
        tile: side of a tile, in pixels of x. All have this side; along a shorter side of x, that one.
        overlap: how many pixels of x two neighbours share at least. A guard is a quarter of it, or more.
        scale: side of the result over side of x.
        network: what function runs; its group norms see the whole of x, see tile_norms.py.

    Raises:
        UserError: overlap is no less than tile; or x needs tiles and its sides times scale are no integers.
    """
    height, width = x.shape[-2:]
    if max(height, width) <= tile:
        return function(x)
    unit = scale.denominator
    tile = tile // unit * unit
    expect(0 <= overlap <= tile - unit, "overlap", f"0 to {tile - unit}, less than a tile", overlap)
    expect(height % unit == width % unit == 0, "sides", f"multiples of {unit}", f"{height} x {width}")
    rows, columns = (_spans(side, min(tile, side), overlap, scale) for side in (height, width))
    tiles = [(row, column) for row in rows for column in columns]
    runs = [
        (partial(function, x[..., row.source, column.source]), (row.weights, column.weights))
        for row, column in tiles
    ]
    out = None
    with whole_image_norms(network, runs):
        for (row, column), (run, _) in zip(tiles, runs, strict=True):
            part = run()
            if out is None:
                out = part.new_zeros(*part.shape[:-2], int(height * scale), int(width * scale))
            weights = row.weights.to(part)[:, None] * column.weights.to(part)
            out[..., row.target, column.target].addcmul_(part, weights)
            del part  # not in memory while the next one is computed
    assert out is not None  # there is at least one tile
    return out


def wrapped(function: Callable[[Tensor], Tensor], x: Tensor, *, pad: int, scale: Fraction | int) -> Tensor:
    """function(x) for an image whose left and right edges are neighbours, as in 360 degrees.

    Args:
        function: (n, C, h, w) -> (n, C', h * scale, w * scale).
        x: (n, C, H, W), W a multiple of the denominator of scale.
        pad: how many columns function sees around either end, W at most; rounded up to such a multiple.
        scale: side of the result over side of x.

    Returns:
        (n, C', H * scale, W * scale). Rolling x rolls it, if function looks no farther than pad.
    """
    width, unit = x.shape[-1], scale.denominator
    expect(width % unit == 0, "width", f"a multiple of {unit}", width)
    pad = min(-(-pad // unit) * unit, width)
    wide = function(torch.cat([x[..., width - pad :], x, x[..., :pad]], dim=-1))
    return wide[..., int(pad * scale) : int((pad + width) * scale)]


def tile_starts(size: int, tile: int, overlap: int, unit: int) -> list[int]:
    """Where tiles begin along a side, at multiples of unit, as few as share overlap, evenly spread.

    All arguments but overlap are multiples of unit; tile <= size, and overlap <= tile - unit.
    """
    last = (size - tile) // unit
    steps = -(-last // max((tile - overlap) // unit, 1))
    return [0, *(last * k // steps * unit for k in range(1, steps + 1))]


def _spans(size: int, tile: int, overlap: int, scale: Fraction | int) -> list[_Span]:
    starts = tile_starts(size, tile, overlap, scale.denominator)
    targets = [int(start * scale) for start in starts]
    length = int(tile * scale)
    return [
        _Span(slice(start, start + tile), slice(target, target + length), weights)
        for start, target, weights in zip(starts, targets, _weights(targets, length), strict=True)
    ]


def _weights(starts: list[int], tile: int) -> list[Tensor]:
    """Weights (tile,) of the tiles that begin at starts; at every pixel they add up to 1."""
    shared = [start + tile - following for start, following in pairwise(starts)]
    rising = [_ramp(tile, count) for count in (0, *shared)]  # 0: the image's own edge is no cut
    falling = [_ramp(tile, count).flip(0) for count in (*shared, 0)]
    weights = [up * down for up, down in zip(rising, falling, strict=True)]
    # two ramps add up to 1 by themselves; where three tiles meet they do not
    total = torch.zeros(starts[-1] + tile, dtype=torch.float64)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + tile] += weight
    return [weight / total[start : start + tile] for start, weight in zip(starts, weights, strict=True)]


def _ramp(tile: int, shared: int) -> Tensor:
    """(tile,) from 0 to 1 over the first shared pixels, with a guard on either side."""
    if not shared:
        return torch.ones(tile, dtype=torch.float64)
    centres = torch.arange(tile, dtype=torch.float64) + 0.5
    return ((centres / shared - GUARD) / (1 - 2 * GUARD)).clamp(0, 1)
