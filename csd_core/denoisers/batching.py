"""The one place where a batch is split to fit into memory."""

from collections.abc import Callable

import torch
from torch import Tensor

from csd_core.denoisers.base import Denoiser


def in_chunks(function: Callable[..., Tensor], max_batch: int, *tensors: Tensor) -> Tensor:
    """function(*tensors) computed max_batch rows at a time; every tensor has the same number of rows."""
    parts = [function(*chunk) for chunk in zip(*(tensor.split(max_batch) for tensor in tensors), strict=True)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def predict_noise(
    denoiser: Denoiser, x_t: Tensor, t: Tensor, text: Tensor, image: Tensor, *, max_batch: int
) -> Tensor:
    """denoiser.predict_noise for n evaluations, at most max_batch at a time."""
    return in_chunks(denoiser.predict_noise, max_batch, x_t, t, text, image)
