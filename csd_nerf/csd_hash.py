"""nerfstudio's hash encoding (arXiv:2201.05989) for the CPU: the same values, many times as fast.

nerfstudio's torch version hashes eight corners in int64 and gathers them one by one; its backward pass
adds with atomics, so that two runs on two threads differ. This one hashes per axis in int32 (tables are
powers of two, so the low bits are the same) and adds in one fixed order: a run repeats to the last bit.

    M   points          L   levels          T   entries of the table of one level
"""

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from nerfstudio.field_components.encodings import HashEncoding
from torch import Tensor, nn

# nerfstudio's primes 1, 2654435761, 805459861; the second as the int32 with the same bits
PRIMES = (1, 2654435761 - 2**32, 805459861)


class _WeightedSum(torch.autograd.Function):
    """out[m] = sum_k weights[m, k] table[indices[m, k]]."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(table, indices, weights)
        return F.embedding_bag(indices, table, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        (grad,) = grad_outputs
        table, indices, weights = ctx.saved_tensors
        grad_table = grad_weights = None
        if ctx.needs_input_grad[0]:
            flat, length = indices.flatten(), len(table)
            columns = [
                torch.bincount(flat, weights=(weights * grad[:, f : f + 1]).flatten(), minlength=length)
                for f in range(table.shape[1])
            ]
            grad_table = torch.stack(columns, dim=-1)
        if ctx.needs_input_grad[2]:
            grad_weights = (F.embedding(indices, table) * grad[:, None]).sum(-1)
        return grad_table, None, grad_weights


def encode(encoding: HashEncoding, points: Tensor) -> Tensor:
    """What HashEncoding.pytorch_fwd computes.

    Args:
        encoding: a hash encoding in its torch implementation.
        points: (..., 3) in [0, 1]; gradient flows to them and to the table.

    Returns:
        (..., L * features).
    """
    scalings, offsets = encoding.scalings.to(points.device), encoding.hash_offset.to(points.device)
    scaled = points.reshape(-1, 3).t()[:, None] * scalings.view(
        -1, 1
    )  # (3, L, M): points last, so loops are long
    low = torch.floor(scaled)
    beyond = scaled - low
    x, y, z = torch.stack((low, torch.ceil(scaled)), dim=1).to(
        torch.int32
    )  # (2, L, M) each: lower, upper corner
    x, y, z = (
        axis * prime & encoding.hash_table_size - 1 for axis, prime in zip((x, y, z), PRIMES, strict=True)
    )
    x = x | offsets.to(torch.int32).view(
        -1, 1
    )  # the level's place in the table: a multiple of T, so bits above
    indices = (x[:, None] ^ y[None])[:, :, None] ^ z[None, None]  # (2, 2, 2, L, M)
    u, v, w = torch.stack((1 - beyond, beyond), dim=1)
    weights = (u[:, None] * v[None])[:, :, None] * w[None, None]
    corners = (value.reshape(8, -1).t().contiguous() for value in (indices, weights))  # (L M, 8)
    out = _WeightedSum.apply(encoding.hash_table, *corners)
    return out.view(len(low[0]), -1, out.shape[-1]).transpose(0, 1).reshape(*points.shape[:-1], -1)


def speed_up(model: nn.Module, *, follow_points: bool) -> None:
    """Let every hash encoding of a model that runs in torch take the fast way on the CPU.

    Args:
        model: changed in place.
        follow_points: whether anybody needs the gradient of the points. nerfacto always asks for it, but uses
            it only to move cameras and to predict normals.
    """

    def forward(self: HashEncoding, in_tensor: Tensor) -> Tensor:
        if in_tensor.device.type != "cpu":
            return HashEncoding.pytorch_fwd(self, in_tensor)
        return encode(self, in_tensor if follow_points else in_tensor.detach())

    for module in model.modules():
        if isinstance(module, HashEncoding) and module.tcnn_encoding is None:
            module.pytorch_fwd = MethodType(forward, module)
