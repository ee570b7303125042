"""The evaluations of a step: the branches of target and source, all of them in as few batches as possible.

What has weight 0 is never evaluated. Branches whose conditioning differs in shape go into separate batches.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor

from csd_core.denoisers.base import Branch, Conditioning, Denoiser, PromptWeights
from csd_core.denoisers.runtime.batching import Chunks, evaluator
from csd_core.engine.config import EditConfig
from csd_core.engine.draws import Draws
from csd_core.engine.ranks import ALONE, Ranks
from csd_core.method.guidance import Weight

Side = Literal["target", "source"]
SIDES: tuple[Side, Side] = ("target", "source")
Noisy = Mapping[Side, Tensor]
Branches = Mapping[Side, Sequence[Branch]]
Rows = TypeVar("Rows", Tensor, Conditioning)
Signature = tuple[tuple[str, torch.Size], ...]


def edit_branches(
    denoiser: Denoiser, config: EditConfig, prompts: PromptWeights, num_particles: int
) -> Branches:
    """The branches of an edit: target and baseline of Eq. 8 or 9, without those of weight 0."""
    ones = [1.0] * num_particles
    described: dict[str, PromptWeights] = {"image": {}, "prompt": {config.source_prompt: ones}}
    branches = {"target": denoiser.guided(prompts, num_particles, config.guidance), "source": []}
    if config.baseline in described:
        branches["source"] = denoiser.guided(described[config.baseline], num_particles, config.guidance)
    return {side: [b for b in branches[side] if any(map(b.counts, range(num_particles)))] for side in SIDES}


def most_evaluations(branches: Branches, config: EditConfig, num_particles: int) -> int:
    """How many evaluations may be asked for at once: for both sides of a step, or with a pool for one."""
    together = math.ceil(num_particles / math.ceil(num_particles / config.batch_size))

    def most(*sides: Side) -> int:
        asked = [branch for side in sides for branch in branches[side]]
        counts = sorted(sum(branch.counts(p) for branch in asked) for p in range(num_particles))
        return sum(counts[-together:])

    if Draws(config, num_particles).pool:
        return max(most("target"), most("source"))
    return most("target", "source")


class Predictor:
    """Guided noise predictions of target and source.

    Args:
        denoiser: the model.
        branches: from edit_branches.
        config: batch size and chunk size.
        num_particles: of the canvas.
        ranks: share the evaluations.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        branches: Branches,
        config: EditConfig,
        num_particles: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self._denoiser, self._branches, self._config = denoiser, branches, config
        self._num_particles, self._ranks = num_particles, ranks
        self._evaluators: dict[Signature, Chunks] = {}

    def predict(
        self, noisy: Noisy, condition: Conditioning, t: Tensor, particles: Sequence[int]
    ) -> dict[Side, Tensor]:
        """Predictions for the particles of a step.

        Args:
            noisy: x_t, the noisy source, or both; each (B, C, h, w).
            condition: of the source, B rows.
            t: (), the timestep, on the device.
            particles: B numbers of particles in the canvas, which pick the weights.

        Returns:
            (B, C, h, w) float32 for each side in `noisy` that has a branch.
        """
        guided: dict[Side, Tensor] = {}
        for signature, group in self._groups(noisy, condition, particles).items():
            x_t = torch.cat([_rows(noisy[side], rows, t.device) for side, _, rows, _ in group])
            given = Conditioning.cat([conditioning for *_, conditioning in group])
            evaluate = self._evaluator(signature, condition)
            predicted = self._ranks.split_and_gather(evaluate, x_t, t.expand(len(x_t)), given)
            parts = predicted.split([len(rows) for _, _, rows, _ in group])
            for (side, branch, rows, _), eps in zip(group, parts, strict=True):
                total = guided.setdefault(side, eps.new_zeros(len(particles), *eps.shape[1:]))
                weights = _stack([branch.weights[particles[row]] for row in rows], eps.shape[-2:])
                weighted = weights.to(eps.device, non_blocking=True) * eps
                # rows are unique within a branch: the sum has one order, and every run gives the same bits
                guided[side] = total.index_add(0, _index(rows, eps.device), weighted)
        return guided

    def _groups(
        self, noisy: Noisy, condition: Conditioning, particles: Sequence[int]
    ) -> dict[Signature, list[tuple[Side, Branch, list[int], Conditioning]]]:
        """Side, branch, rows and conditioning of what is evaluated, by the shape of its conditioning."""
        groups: dict[Signature, list[tuple[Side, Branch, list[int], Conditioning]]] = {}
        for side, branch in self._pairs(*noisy):
            rows = [k for k, p in enumerate(particles) if branch.counts(p)]
            if rows:
                conditioning = self._denoiser.conditioning(
                    branch, _rows(condition, rows, self._denoiser.device)
                )
                groups.setdefault(conditioning.signature, []).append((side, branch, rows, conditioning))
        return groups

    def _pairs(self, *sides: Side) -> Iterator[tuple[Side, Branch]]:
        return ((side, branch) for side in SIDES if side in sides for branch in self._branches[side])

    def _evaluator(self, signature: Signature, condition: Conditioning) -> Chunks:
        """One for each shape, for it has learned how many evaluations fit."""
        if signature not in self._evaluators:
            alike: dict[Side, list[Branch]] = {side: [] for side in SIDES}
            for side, branch in self._pairs(*SIDES):
                if self._denoiser.conditioning(branch, condition[:1]).signature == signature:
                    alike[side].append(branch)
            fullest = most_evaluations(alike, self._config, self._num_particles)
            mine = math.ceil(fullest / self._ranks.world_size)
            self._evaluators[signature] = evaluator(self._denoiser, self._config.chunk_size, fullest=mine)
        return self._evaluators[signature]


def _stack(weights: Sequence[Weight], size: Sequence[int]) -> Tensor:
    """(n, 1, 1, 1); or (n, 1, h, w), if one has a weight for each pixel."""
    if not any(isinstance(weight, Tensor) for weight in weights):
        return torch.tensor(weights).view(-1, 1, 1, 1)
    return torch.stack([torch.as_tensor(weight, dtype=torch.float32).expand(1, *size) for weight in weights])


def _rows(x: Rows, rows: list[int], device: torch.device) -> Rows:
    return x if len(rows) == len(x) else x[_index(rows, device)]


def _index(rows: Sequence[int], device: torch.device) -> Tensor:
    # non_blocking: the copy does not make the host wait for the device
    return torch.tensor(rows).to(device, non_blocking=True)
