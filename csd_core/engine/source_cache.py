"""Predictions for the noisy source, kept until their timestep and noise come back (draws.py)."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from csd_core.engine.draws import Draws

LIMIT = 2**30
"""Bytes. What may take more is kept in half precision in the host's memory."""


class SourceCache:
    """Guided predictions for the noisy source, (C, h, w) each, by pair and particle. Filled as they are met.

    A resumed edit finds nothing kept and is still the same to the last bit: predictions are always made in
    the batch of the first step that met them, and given back as they were kept, also the first time.

    Args:
        draws: of the edit; with a pool.
        evaluate: step -> predictions (B, C, h, w) for the source of that step's particles.
        limit: in bytes, see LIMIT.
    """

    def __init__(self, draws: Draws, evaluate: Callable[[int], Tensor], limit: int = LIMIT) -> None:
        self._draws, self._evaluate, self._limit = draws, evaluate, limit
        self._kept: dict[tuple[int, int], Tensor] = {}

    def read(self, step: int, particles: Sequence[int], device: torch.device) -> Tensor:
        """The predictions (B, C, h, w) for a step's particles, float32; evaluated where they are not kept."""
        pair = self._draws.pair(step)
        missing = [particle for particle in particles if (pair, particle) not in self._kept]
        for home in self._draws.first_steps(step, missing):
            self._keep(pair, home)
        rows = [self._kept[pair, particle] for particle in particles]
        if not self._draws.comes_back(step):
            for particle in particles:
                del self._kept[pair, particle]
        return torch.stack([row.to(device, torch.float32, non_blocking=True) for row in rows])

    @property
    def nbytes(self) -> int:
        """Of what is kept now."""
        return sum(tensor.nbytes for tensor in self._kept.values())

    @staticmethod
    def most_bytes(draws: Draws, shape: Sequence[int], limit: int = LIMIT) -> tuple[int, bool]:
        """The most bytes that an edit will keep, particles being (C, h, w); whether in half precision."""
        whole = 4 * draws.pool * draws.num_particles * math.prod(shape)
        return (whole, False) if whole <= limit else (whole // 2, True)

    def _keep(self, pair: int, step: int) -> None:
        for particle, prediction in zip(self._draws.particles(step), self._evaluate(step), strict=True):
            self._kept[pair, particle] = self._as_kept(prediction)

    def _as_kept(self, prediction: Tensor) -> Tensor:
        _, half = self.most_bytes(self._draws, prediction.shape, self._limit)
        if not half:
            return prediction.clone()
        if prediction.device.type != "cuda":
            return prediction.half().cpu()
        # pinned and not waited for: it is read back on the same stream, after it was written
        held = torch.empty(prediction.shape, dtype=torch.float16, pin_memory=True)
        return held.copy_(prediction, non_blocking=True)
