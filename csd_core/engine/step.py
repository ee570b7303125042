"""The evaluations of a step: which branches there are, and all of them in one batch.

A branch is one way of asking the model (with or without image, with which text, about target or source), with
its weight in the guided prediction. What weighs 0 is never evaluated.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from csd_core.denoisers.base import Denoiser
from csd_core.denoisers.runtime.batching import MaxBatch, evaluator
from csd_core.engine.config import EditConfig
from csd_core.engine.draws import Draws
from csd_core.engine.ranks import ALONE, Ranks
from csd_core.method.guidance import BranchWeights, Weight, image_weights, instruct_pix2pix_weights

Side = Literal["target", "source"]
PromptWeights = Mapping[str, Sequence[Weight]]
Noisy = dict[Side, Tensor]


@dataclass(frozen=True)
class Branch:
    """One evaluation per particle."""

    side: Side
    """Asked about the noisy target x_t or about the noisy source."""
    image: bool
    """Whether the source image is shown."""
    text: str
    """What is said."""
    weights: tuple[Weight, ...]
    """For each particle of the canvas, how much the prediction counts."""

    def counts(self, particle: int) -> bool:
        """Whether it has any weight in a particle; if not, it is not evaluated for it."""
        weight = self.weights[particle]
        return bool(weight.any()) if isinstance(weight, Tensor) else weight != 0


def edit_branches(config: EditConfig, prompts: PromptWeights, num_particles: int) -> list[Branch]:
    """The branches of an edit: five in general, fewer where guidance scales cancel one.

    Args:
        config: guidance scales, baseline, source and negative prompt.
        prompts: instruction -> its share of the text guidance for each particle, or for each pixel (h, w) of
            it. The shares add up to 1 (alpha_k of appendix C.1); more or less is more or less guidance.
        num_particles: of the canvas.
    """
    ones = [1.0] * num_particles
    s_t, s_i = config.guidance_scale, config.image_guidance_scale
    totals = [_total([shares[p] for shares in prompts.values()]) for p in range(num_particles)]
    guided = [instruct_pix2pix_weights(s_t * total, s_i) for total in totals]
    branches = _guided("target", guided, s_t, prompts, config.negative_prompt)
    if config.baseline == "image":
        branches += _guided("source", [image_weights(s_i)] * num_particles, s_t, {}, config.negative_prompt)
    elif config.baseline == "prompt":
        unmixed = [instruct_pix2pix_weights(s_t, s_i)] * num_particles
        branches += _guided("source", unmixed, s_t, {config.source_prompt: ones}, config.negative_prompt)
    return [branch for branch in branches if any(branch.counts(p) for p in range(num_particles))]


def _total(shares: Sequence[Weight]) -> Weight:
    # shares of an area add up to 1 but for rounding, which must not bring a cancelled branch back
    numbers = [share for share in shares if not isinstance(share, Tensor)]
    maps = [share for share in shares if isinstance(share, Tensor)]
    if maps:
        total = sum(maps[1:], maps[0]) + math.fsum(numbers)
        return torch.where((total - 1).abs() < 1e-6, 1.0, total)
    total = math.fsum(numbers)
    return 1.0 if abs(total - 1) < 1e-6 else total


def _guided(
    side: Side, weights: Sequence[BranchWeights], s_t: float, prompts: PromptWeights, negative: str
) -> list[Branch]:
    return [
        Branch(side, False, negative, tuple(weight.unconditional for weight in weights)),
        Branch(side, True, negative, tuple(weight.image for weight in weights)),
        *(
            Branch(side, True, text, tuple(s_t * share for share in shares))
            for text, shares in prompts.items()
        ),
    ]


def most_evaluations(branches: Sequence[Branch], config: EditConfig, num_particles: int) -> int:
    """How many evaluations may be asked for at once: for both sides of a step, or with a pool for one."""
    together = math.ceil(num_particles / math.ceil(num_particles / config.batch_size))

    def most(*sides: Side) -> int:
        asked = [branch for branch in branches if branch.side in sides]
        counts = sorted(sum(branch.counts(p) for branch in asked) for p in range(num_particles))
        return sum(counts[-together:])

    return (
        max(most("target"), most("source")) if Draws(config, num_particles).pool else most("target", "source")
    )


class Predictor:
    """Guided noise predictions of target and source, all evaluations of a step in one batch.

    Args:
        denoiser: the model.
        branches: from edit_branches.
        max_batch: evaluations at a time.
        fullest: the most evaluations of one call to come. Default: those of the first.
        ranks: share the evaluations.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        branches: Sequence[Branch],
        max_batch: MaxBatch,
        *,
        fullest: int | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self._branches, self._ranks = branches, ranks
        mine = None if fullest is None else math.ceil(fullest / ranks.world_size)
        self._evaluate = evaluator(denoiser, max_batch, fullest=mine)
        self._embedded = {branch.text: denoiser.embed([branch.text]) for branch in branches}
        self._words: tuple[list[tuple[str, int]], Tensor] | None = None

    def predict(
        self, noisy: Noisy, condition: Tensor, t: Tensor, particles: Sequence[int]
    ) -> dict[Side, Tensor]:
        """Predictions for the particles of a step.

        Args:
            noisy: x_t, the noisy source, or both; each (B, C, h, w).
            condition: (B, C, h, w), image-condition latents.
            t: (), the timestep, on the device.
            particles: B numbers of particles in the canvas, which pick the weights.

        Returns:
            (B, C, h, w) float32 for each side in `noisy` that has a branch.
        """
        asked = [branch for branch in self._branches if branch.side in noisy]
        weighing = ((branch, [k for k, p in enumerate(particles) if branch.counts(p)]) for branch in asked)
        picked = [(branch, rows) for branch, rows in weighing if rows]
        batch = torch.cat([_rows(noisy[branch.side], rows) for branch, rows in picked])
        nothing = condition.new_zeros(()).expand_as(condition)
        images = torch.cat(
            [_rows(condition, rows) if branch.image else nothing[: len(rows)] for branch, rows in picked]
        )
        text = self._text([(branch.text, len(rows)) for branch, rows in picked])
        predicted = self._ranks.share(self._evaluate, batch, t.expand(len(batch)), text, images)
        return _combine(picked, predicted.split([len(rows) for _, rows in picked]), particles)

    def _text(self, wanted: list[tuple[str, int]]) -> Tensor:
        """Embeddings (n, tokens, dim), so many of each; those of the last step where it wanted the same."""
        if self._words is None or self._words[0] != wanted:
            rows = [self._embedded[text].expand(count, -1, -1) for text, count in wanted]
            self._words = wanted, torch.cat(rows)
        return self._words[1]


def _combine(
    picked: Sequence[tuple[Branch, list[int]]], predicted: Sequence[Tensor], particles: Sequence[int]
) -> dict[Side, Tensor]:
    guided: dict[Side, Tensor] = {}
    for (branch, rows), eps in zip(picked, predicted, strict=True):
        weights = _stack([branch.weights[particles[row]] for row in rows], eps.shape[-2:])
        weighted = weights.to(eps.device, non_blocking=True) * eps
        total = guided.setdefault(branch.side, eps.new_zeros(len(particles), *eps.shape[1:]))
        # rows are unique within a branch: the sum has one order, and every run gives the same bits
        guided[branch.side] = total.index_add(0, _index(rows, eps), weighted)
    return guided


def _stack(weights: Sequence[Weight], size: Sequence[int]) -> Tensor:
    """(n, 1, 1, 1); or (n, 1, h, w), if one has a weight for each pixel."""
    if not any(isinstance(weight, Tensor) for weight in weights):
        return torch.tensor(weights).view(-1, 1, 1, 1)
    return torch.stack([torch.as_tensor(weight, dtype=torch.float32).expand(1, *size) for weight in weights])


def _rows(x: Tensor, rows: list[int]) -> Tensor:
    return x if len(rows) == len(x) else x[_index(rows, x)]


def _index(rows: Sequence[int], like: Tensor) -> Tensor:
    # non_blocking: the copy does not make the host wait for the device
    return torch.tensor(rows).to(like.device, non_blocking=True)
