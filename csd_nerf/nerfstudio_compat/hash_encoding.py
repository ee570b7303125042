"""nerfstudio's hash encoding (arXiv:2201.05989) for the CPU: the same values, many times as fast.

nerfstudio's torch version hashes eight corners in int64 and gathers them one by one; its backward pass
adds with atomics, so that two runs on two threads differ. This one hashes per axis in int32 (tables are
powers of two, so the low bits are the same), works on as many points as the cache of a core holds, reads two
features at a time as one complex number, and adds in one fixed order: a run repeats to the last bit.

    M   points          L   levels          F   features of a level
    T   entries of the table of one level   P   pairs of features, F / 2 rounded up
"""

from collections.abc import Iterator
from types import MethodType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from nerfstudio.field_components.encodings import HashEncoding
from torch import Tensor, nn

# nerfstudio's primes 1, 2654435761, 805459861; the second as the int32 with the same bits
PRIMES = (1, 2654435761 - 2**32, 805459861)
_BLOCK = 1 << 14  # points times levels at a time for each thread: its numbers stay in the cache


class _Corner(NamedTuple):
    """One of the eight corners of the cells that m points lie in."""

    index: Tensor
    """(L m), place in the table."""
    weight: Tensor
    """(L, m), the product of `shares`."""
    shares: tuple[Tensor, Tensor, Tensor]
    """(L, m) per axis: how much of this corner there is in a point."""
    upper: tuple[int, int, int]
    """Per axis: 0 the lower, 1 the upper corner."""


class _Grid(NamedTuple):
    scalings: Tensor
    """(L, 1), cells per unit."""
    offsets: Tensor
    """(L, 1), int32, a level's place in the table: a multiple of T, so bits above those of the hash."""
    size: int
    """T, a power of two."""

    def corners(self, points: Tensor) -> Iterator[_Corner]:
        """The eight corners around points (m, 3)."""
        scaled = points.t().contiguous()[:, None] * self.scalings  # (3, L, m): points last, so loops are long
        low, high = torch.floor(scaled), torch.ceil(scaled)
        above = scaled.sub_(low)
        cells = low.to(torch.int32), high.to(torch.int32)
        hashed = [[cell[axis] * prime & self.size - 1 for cell in cells] for axis, prime in enumerate(PRIMES)]
        hashed[0] = [x | self.offsets for x in hashed[0]]
        shares = torch.stack((1 - above, above), dim=1)
        for i in range(2):
            for j in range(2):
                xy, uv = hashed[0][i] ^ hashed[1][j], shares[0, i] * shares[1, j]
                for k in range(2):
                    of = shares[0, i], shares[1, j], shares[2, k]
                    yield _Corner((xy ^ hashed[2][k]).flatten(), uv * of[2], of, (i, j, k))


class _Encode(torch.autograd.Function):
    """points (M, 3), table (L T, F) -> (M, L, P), complex. `keep`: whether a backward pass may follow."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, grid: _Grid, keep: bool) -> Tensor:
        ctx.save_for_backward(points, table)
        ctx.grid, ctx.corners = grid, []
        columns, levels = _pairs(table).unbind(1), len(grid.scalings)
        out = torch.empty(len(points), levels, len(columns), dtype=columns[0].dtype)
        for block in _blocks(len(points), levels):
            sums = [torch.zeros(()) for _ in columns]
            for corner in grid.corners(points[block]):
                if keep:
                    ctx.corners.append(corner)
                for p, column in enumerate(columns):
                    value = column.index_select(0, corner.index).view_as(corner.weight).mul_(corner.weight)
                    sums[p] = value.add_(sums[p])
            for p, total in enumerate(sums):
                out[block, :, p] = total.t()
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        points, table = ctx.saved_tensors
        grad, columns, levels = grad_outputs[0], _pairs(table).unbind(1), len(ctx.grid.scalings)
        into_table = torch.zeros_like(_pairs(table)) if ctx.needs_input_grad[1] else None
        into_points = torch.zeros_like(points) if ctx.needs_input_grad[0] else None
        for number, block in enumerate(_blocks(len(points), levels)):
            grads = [grad[block, :, p].t().contiguous() for p in range(len(columns))]  # (L, m) each
            for corner in ctx.corners[8 * number : 8 * number + 8]:
                if into_table is not None:
                    for p, part in enumerate(grads):
                        into_table[:, p].index_add_(0, corner.index, (part * corner.weight).flatten())
                if into_points is not None:
                    into_points[block] += _along_axes(corner, columns, grads, ctx.grid.scalings)
        if into_table is not None:
            into_table = torch.view_as_real(into_table).flatten(1)[:, : table.shape[1]]
        return into_points, into_table, None, None


def _along_axes(
    corner: _Corner, columns: tuple[Tensor, ...], grads: list[Tensor], scalings: Tensor
) -> Tensor:
    """What a corner adds to the gradient of m points, (m, 3)."""
    rise = torch.zeros(())
    for column, part in zip(columns, grads, strict=True):
        value = column.index_select(0, corner.index).view_as(part)
        rise = rise + value.real * part.real + value.imag * part.imag
    u, v, w = corner.shares
    sides = [
        (2 * upper - 1) * others for upper, others in zip(corner.upper, (v * w, u * w, u * v), strict=True)
    ]
    return torch.stack([(rise * side * scalings).sum(0) for side in sides], dim=-1)


def _pairs(table: Tensor) -> Tensor:
    """(n, F) -> (n, P), complex: without a copy where F is even."""
    return torch.view_as_complex(F.pad(table, (0, table.shape[1] % 2)).view(len(table), -1, 2))


def _blocks(points: int, levels: int) -> Iterator[slice]:
    size = max(1, _BLOCK * torch.get_num_threads() // levels)
    return (slice(first, first + size) for first in range(0, points, size))


def encode(encoding: HashEncoding, points: Tensor) -> Tensor:
    """What HashEncoding.pytorch_fwd computes.

    Args:
        encoding: a hash encoding in its torch implementation.
        points: (..., 3) in [0, 1]; gradient flows to them and to the table.

    Returns:
        (..., L F).
    """
    grid = _Grid(
        encoding.scalings.view(-1, 1),
        encoding.hash_offset.to(torch.int32).view(-1, 1),
        encoding.hash_table_size,
    )
    out: Any = _Encode.apply(points.reshape(-1, 3), encoding.hash_table, grid, torch.is_grad_enabled())
    return (
        torch.view_as_real(out)
        .flatten(2)[..., : encoding.hash_table.shape[1]]
        .reshape(*points.shape[:-1], -1)
    )


def speed_up(model: nn.Module, *, follow_points: bool) -> None:
    """Replace the forward of every hash encoding that runs in torch by the fast one, on the CPU.

    Args:
        model: changed in place.
        follow_points: whether the gradient of the points is needed. nerfacto always computes it, but uses it
            only to optimise cameras and to predict normals.
    """

    def forward(self: HashEncoding, in_tensor: Tensor) -> Tensor:
        if in_tensor.device.type != "cpu":
            return HashEncoding.pytorch_fwd(self, in_tensor)
        return encode(self, in_tensor if follow_points else in_tensor.detach())

    for module in model.modules():
        if isinstance(module, HashEncoding) and module.tcnn_encoding is None:
            module.pytorch_fwd = MethodType(forward, module)
