"""An autoencoder for images too large for memory, and for images whose left and right ends meet.

A network that sees a part of an image takes the part's edge for the image's. So parts overlap, and what was
computed next to a cut is dropped. One side, where tile a ends and tile b begins:

    a  ──────────────╲______|
    b        |______╱──────────────
             |guard|ramp|guard|         together: the overlap

The weights add up to 1. A network that looks no farther than a guard gives the same with tiles as without.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from csd_core.denoisers.runtime.batching import in_chunks
from csd_core.denoisers.runtime.tile_norms import whole_image_norms
from csd_core.errors import expect

GUARD = 0.25
"""Width of a guard, as a share of what two tiles share."""
WRAP = 24
"""Latent pixels seen around the ends of a panorama; the mini editor looks 19 far to decode, 0 to encode."""


class Autoencoder:
    """An AutoencoderKL or AutoencoderTiny of diffusers in float32, tiled above a size.

    Args:
        vae: the network; its dtype becomes float32.
        native_size: side of a training image, in pixels.

    Attributes:
        network: the network.
        downscale: pixels per latent pixel, along one side.
        tile_above: an image with a longer side, in pixels, passes in tiles.
        tile_size: side of a tile, in pixels. For Stable Diffusion 768, about 6 GB to decode.
        tile_overlap: how many pixels two tiles share at least. The guards are 4 latent pixels of the mini
            editor (8 of Stable Diffusion): what its decoder sees beyond moves a pixel by under 0.01 / 255.
    """

    def __init__(self, vae: Any, native_size: int) -> None:
        self.network = vae.eval().requires_grad_(False).float().to(memory_format=torch.channels_last)
        self.network.use_tiling = False  # diffusers' own
        self.downscale: int = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.latent_channels: int = vae.config["latent_channels"]
        self.scaling_factor: float = vae.config["scaling_factor"]
        self._is_tiny = type(vae).__name__ == "AutoencoderTiny"  # by name: diffusers is imported when needed
        self.tile_above = 2 * native_size
        self.tile_size, self.tile_overlap = 3 * native_size // 2, native_size // 2

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images (n, 3, H, W) in [0, 1] -> unscaled latents (n, C, h, w), the mode of the posterior."""
        return self._in_tiles(
            self._encode, self.network.encoder, images * 2 - 1, 1, Fraction(1, self.downscale)
        )

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Unscaled latents (n, C, h, w) -> images (n, 3, H, W) in [0, 1]."""
        factor = self.downscale
        decoded = self._in_tiles(self._decode, self.network.decoder, latents, factor, factor)
        return (decoded / 2 + 0.5).clamp(0, 1)

    def _encode(self, centred: Tensor) -> Tensor:
        encoded: Any = self.network.encode(centred.contiguous(memory_format=torch.channels_last))
        return (encoded.latents if self._is_tiny else encoded.latent_dist.mode()).contiguous()

    def _decode(self, latents: Tensor) -> Tensor:
        rows = latents.contiguous(memory_format=torch.channels_last)
        return self.network.decode(rows).sample.contiguous()

    def _in_tiles(
        self,
        function: Callable[[Tensor], Tensor],
        network: Any,
        x: Tensor,
        pixel: int,
        scale: Fraction | int,
    ) -> Tensor:
        """function(x), of large images one tile of one image at a time. pixel: pixels in a column of x."""
        if max(x.shape[-2:]) * pixel <= self.tile_above:
            return function(x)
        tile, overlap = self.tile_size // pixel, self.tile_overlap // pixel
        tiled = partial(in_tiles, function, tile=tile, overlap=overlap, scale=scale, network=network)
        return in_chunks(tiled, 1, x)


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


def around_the_ends(x: Tensor, count: int) -> Tensor:
    """x (n, C, H, W) whose left and right ends are neighbours, with so many columns more on both sides."""
    return torch.cat([x[..., x.shape[-1] - count :], x, x[..., :count]], dim=-1) if count else x


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
