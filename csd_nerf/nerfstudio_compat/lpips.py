"""nerfacto's LPIPS metric, built at first use: nerfstudio downloads AlexNet whenever it builds a scene."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csd_nerf.console import CONSOLE

LPIPS_CLASS = "torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity"
"""What LazyLPIPS takes the place of, for mock.patch."""
_ALEXNET = "alexnet-owt-7be5be79.pth"
_MIN_SIDE = 64  # pixels; below this AlexNet's pooling leaves nothing


class LazyLPIPS:
    """torchmetrics' LPIPS, built at first use; NaN where AlexNet's weights are not available."""

    def __init__(self, **kwargs: Any) -> None:
        self._kwargs = kwargs

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        metric = _lpips(**self._kwargs) if min(first.shape[-2:]) >= _MIN_SIDE else None
        return torch.tensor(float("nan")) if metric is None else metric.to(first.device)(first, second)


@cache
def _lpips(**kwargs: Any) -> Any | None:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    weights = Path(torch.hub.get_dir()) / "checkpoints" / _ALEXNET
    offline = os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("0", "", "false")
    if weights.is_file() or not offline:
        try:
            with _socket_timeout(seconds=10):
                return LearnedPerceptualImagePatchSimilarity(**kwargs)
        except (OSError, RuntimeError):  # no network, or a download that broke off
            pass
    CONSOLE.print(
        f"note: LPIPS is left out: its weights are not in {weights.parent} and cannot be downloaded."
    )
    return None


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
