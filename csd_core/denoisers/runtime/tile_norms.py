"""Group norms that see the whole image, in a network that gets it in tiles.

An AutoencoderKL normalises by the mean and the deviation of what it is given: of a tile, where it would be
those of the image, so that tiles differ in tone. Here the statistics of one norm after the other are gathered
from all tiles, each pixel counted once, and then kept: what follows is the same with tiles as without, but
for attention. This takes a pass over the tiles for every norm, up to that norm.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Run = tuple[Callable[[], Tensor], tuple[Tensor, Tensor]]
"""What passes one tile through the network, and the weights of its rows (h,) and columns (w,); their products
add up to 1 at every pixel that tiles share."""


class _ReachedError(Exception):
    """The norm that is being measured has seen the tile; what comes after it is not needed."""


@contextmanager
def whole_image_norms(network: nn.Module | None, runs: Sequence[Run]) -> Iterator[None]:
    """Inside the block the network's group norms use the statistics that all tiles have together.

    Args:
        network: any; None, or one without group norms: nothing happens.
        runs: one for each tile.
    """
    norms = [] if network is None else [m for m in network.modules() if isinstance(m, nn.GroupNorm)]
    known: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    gathering: dict[nn.Module, _Sums] = {}
    weights = torch.empty(0), torch.empty(0)

    def gather(norm: nn.Module, args: tuple[Tensor]) -> None:
        if norm not in known:
            gathering.setdefault(norm, _Sums()).add(args[0], *weights)
            raise _ReachedError

    def normalise(norm: nn.GroupNorm, args: tuple[Tensor], out: Tensor) -> Tensor:
        scale, shift = (term.view(*term.shape, *[1] * (out.ndim - 2)) for term in known[norm])
        return out.copy_(args[0]).mul_(scale).add_(shift)  # in place: no third copy of a large tile

    handles = [norm.register_forward_pre_hook(gather) for norm in norms]
    handles += [norm.register_forward_hook(normalise) for norm in norms]
    try:
        while len(known) < len(norms):
            for run, of_tile in runs:
                weights = of_tile
                try:
                    run()
                except _ReachedError:
                    continue
                break
            if not gathering:
                break  # the other norms are not in use
            ((norm, sums),) = gathering.items()
            known[norm] = sums.affine(norm)
            gathering.clear()
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Sums:
    """Weighted sums over the pixels of all tiles, by channel."""

    def __init__(self) -> None:
        self.count = self.first = self.second = torch.zeros(())

    def add(self, x: Tensor, rows: Tensor, columns: Tensor) -> None:
        """x: (n, c, h, w) at any resolution; or (n, c, h * w), as attention has it."""
        scale = math.sqrt(x[0, 0].numel() / (len(rows) * len(columns)))
        here = (_resampled(rows, scale)[:, None] * _resampled(columns, scale)).to(x).flatten()
        self.count = self.count + here.sum().double().cpu()
        self.first = self.first + (x.flatten(2) @ here).double().cpu()
        self.second = self.second + (x.square().flatten(2) @ here).double().cpu()

    def affine(self, norm: nn.Module) -> tuple[Tensor, Tensor]:
        """What a norm with these statistics multiplies by and adds, each (n, c)."""
        assert isinstance(norm, nn.GroupNorm)
        shape = self.first.shape
        mean, square = (
            (sums / self.count).view(shape[0], norm.num_groups, -1).mean(dim=-1, keepdim=True)
            for sums in (self.first, self.second)
        )
        deviation = (square - mean.square()).clamp(min=0).add(norm.eps).sqrt()
        ones = torch.ones(shape).view(shape[0], norm.num_groups, -1)
        scale, shift = (ones / deviation).view(shape), (-ones * mean / deviation).view(shape)
        if norm.affine:
            weight, bias = norm.weight.double().cpu(), norm.bias.double().cpu()
            scale, shift = scale * weight, shift * weight + bias
        like = norm.weight if norm.affine else self.first
        return scale.to(like), shift.to(like)


def _resampled(weights: Tensor, scale: float) -> Tensor:
    return F.interpolate(weights[None, None], round(len(weights) * scale), mode="area")[0, 0]
