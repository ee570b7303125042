"""What a step samples: particles, and a pair of timestep and noise. All follows from (seed, step, particle).

A round is as many steps as it takes to sample every particle once. By default every step samples a new pair.
With a pool, M pairs are fixed at the start and every round takes one of them, in an order that is shuffled
again after M rounds: predictions for the source depend on the pair alone and are reused (source_cache.py).
Each of the M timesteps is sampled from its own M-th of the range.

With few noises a particle moves to the same of several right answers each time, and agrees less with the
others. So particles share a quarter of the variance of a pool's noise: with that they agree as with new noise
in every step (docs/performance.md).
"""

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from csd_core.engine.config import EditConfig
from csd_core.method.schedule import Schedule, step_generator

SHARED_IN_POOL = 0.25
"""Share of the variance of a pool's noise that all particles have in common."""


class Draws:
    """The draws of an edit.

    Args:
        config: seed, number of steps, batch size, range of timesteps, size of the pool.
        num_particles: N.
    """

    def __init__(self, config: EditConfig, num_particles: int) -> None:
        self._config, self.num_particles = config, num_particles
        self.steps_per_round = math.ceil(num_particles / config.batch_size)
        """Steps in which every particle is sampled once."""
        self.num_rounds = math.ceil(config.num_steps / self.steps_per_round)
        # where there are few rounds a pool saves little and narrows the choice: panoramas suffered from it
        self.pool = config.noise_pool if 2 * config.noise_pool <= self.num_rounds else 0
        """M; 0: fresh draws."""

    def particles(self, step: int) -> list[int]:
        """The particles of a step."""
        return particles_of_step(self._config, self.num_particles, step)

    def pair(self, step: int) -> int:
        """The number of the step's pair of timestep and noise."""
        return self._pairs[step // self.steps_per_round] if self.pool else step

    def comes_back(self, step: int) -> bool:
        """Whether a later round takes the step's pair again."""
        this_round = step // self.steps_per_round
        return bool(self.pool) and self._last_round[self._pairs[this_round]] > this_round

    def first_steps(self, step: int, particles: Sequence[int]) -> list[int]:
        """The steps of the round that is the first to take the step's pair, in which these particles were."""
        first = self._pairs.index(self.pair(step)) * self.steps_per_round
        wanted, steps = set(particles), range(first, first + self.steps_per_round)
        return [s for s in ([step] if step in steps else steps) if wanted.intersection(self.particles(s))]

    def timestep(self, schedule: Schedule, step: int) -> float:
        """The timestep of a step."""
        pair, (low, high) = self.pair(step), self._config.t_range
        if self.pool:
            part = (high - low) / self.pool
            low, high = low + pair * part, low + (pair + 1) * part
        return schedule.sample_timestep((low, high), step_generator(self._config.seed, pair, 0))

    def noise(self, step: int, particles: Sequence[int], like: Tensor) -> Tensor:
        """Noise for the particles of a step, shape and device of like (B, C, h, w)."""
        shared = SHARED_IN_POOL if self.pool else 0.0
        return particle_noise(self._config, self.pair(step), particles, like, shared)

    @cached_property
    def _pairs(self) -> list[int]:
        """The pair of every round."""
        pairs: list[int] = []
        while len(pairs) < self.num_rounds:
            key = (len(pairs) // self.pool, 0, 0, 0, 0)
            pairs += torch.randperm(self.pool, generator=step_generator(self._config.seed, *key)).tolist()
        return pairs[: self.num_rounds]

    @cached_property
    def _last_round(self) -> dict[int, int]:
        """Pair -> the last round that takes it."""
        return {pair: this_round for this_round, pair in enumerate(self._pairs)}


def particles_of_step(config: EditConfig, num_particles: int, step: int) -> list[int]:
    """The particles of a step: all of them, or a batch sampled without replacement until all were used.

    The batches of one round differ in size by one at most, so that no batch is a single particle.
    """
    batches = math.ceil(num_particles / config.batch_size)
    if batches == 1:
        return list(range(num_particles))
    order = torch.randperm(num_particles, generator=step_generator(config.seed, step // batches, 0, 0))
    k, (size, larger) = step % batches, divmod(num_particles, batches)
    start = k * size + min(k, larger)  # as tensor_split, without making thousands of parts
    return order[start : start + size + (k < larger)].tolist()


def particle_noise(
    config: EditConfig, pair: int, particles: Sequence[int], like: Tensor, shared: float = 0.0
) -> Tensor:
    """Noise of a pair for some particles, shape and device of like (B, C, h, w), of variance 1.

    Sampled on the CPU per (seed, pair, particle), so that neither device nor other particles matter.

    shared: share of the variance, below 1, that all particles have in common; with config.shared_noise, all.
    """

    def draw(*key: int) -> Tensor:
        return torch.randn(like.shape[1:], generator=step_generator(config.seed, pair, *key))

    noise = torch.stack([draw(1 if config.shared_noise else p + 1) for p in particles])
    if shared and not config.shared_noise:
        noise = math.sqrt(1 - shared) * noise + math.sqrt(shared) * draw(1, 1)
    if like.device.type == "cuda":
        noise = noise.pin_memory()  # or the copy would make the host wait
    return noise.to(like.device, non_blocking=True)
