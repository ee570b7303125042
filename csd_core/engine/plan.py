"""What an edit will take, before it starts: counted evaluations, and time and memory from two of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import get_args

import torch
from torch import Tensor

from csd_core.denoisers.base import Denoiser
from csd_core.denoisers.runtime.batching import MaxBatch, evaluator
from csd_core.denoisers.runtime.memory import PeakMemory
from csd_core.engine.config import EditConfig
from csd_core.engine.draws import Draws
from csd_core.engine.source_cache import SourceCache
from csd_core.engine.step import PromptWeights, Side, edit_branches, most_evaluations
from csd_core.method.schedule import step_generator

TIMED = 2


@dataclass(frozen=True)
class Cost:
    """Of one evaluation at a full batch."""

    seconds: float
    """Per evaluation, the mean of two batches."""
    batch: int
    """How many evaluations fit, of as many as were asked for."""
    peak_gib: float
    """Memory held while evaluating: of the device, or on a CPU of the process."""


def count_evaluations(config: EditConfig, prompts: PromptWeights, num_particles: int, first: int = 0) -> int:
    """Evaluations of the network from step `first` to the end, as the engine will ask for them."""
    branches = edit_branches(config, prompts, num_particles)
    per_particle = {
        side: [sum(b.counts(p) for b in branches if b.side == side) for p in range(num_particles)]
        for side in get_args(Side)
    }
    draws, total = Draws(config, num_particles), 0

    def count(side: Side, step: int) -> Tensor:
        nonlocal total
        particles = draws.particles(step)
        total += sum(per_particle[side][p] for p in particles)
        return torch.empty(len(particles), 0)

    cache = SourceCache(draws, partial(count, "source"))
    for step in range(first, config.num_steps):
        count("target", step)
        if not draws.pool:
            count("source", step)
        elif any(per_particle["source"]):
            cache.read(step, draws.particles(step), torch.device("cpu"))
    return total


def fullest_step(config: EditConfig, prompts: PromptWeights, num_particles: int) -> int:
    """How many evaluations may be asked for at once."""
    return most_evaluations(edit_branches(config, prompts, num_particles), config, num_particles)


def measure_evaluation(
    denoiser: Denoiser,
    prompt: str,
    size: tuple[int, int],
    max_batch: MaxBatch,
    also: Callable[[], object],
    *,
    fullest: int,
) -> Cost:
    """Time two batches of evaluations, after one to warm up.

    Args:
        denoiser: the model.
        prompt: any.
        size: height and width of a particle, in latent pixels.
        max_batch: evaluations at a time, as the edit will have them.
        also: called before the memory is read: whatever else the edit will hold at its peak.
        fullest: evaluations of the fullest step.
    """
    evaluate = evaluator(denoiser, max_batch, fullest=fullest)

    def run(rows: int) -> None:
        shape = (rows, denoiser.latent_channels, *size)
        x = torch.randn(shape, generator=step_generator(0)).to(denoiser.device)
        t = torch.full((rows,), denoiser.schedule.num_timesteps // 3, device=denoiser.device)
        with torch.no_grad():
            evaluate(x, t, denoiser.embed([prompt]).expand(rows, -1, -1), x)
        if denoiser.device.type == "cuda":
            torch.cuda.synchronize(denoiser.device)

    with PeakMemory(denoiser.device) as memory:
        run(fullest if evaluate.limit is None else evaluate.size_of(fullest))
        batch = evaluate.size_of(fullest)
        begun = time.perf_counter()
        for _ in range(TIMED):
            run(batch)
        seconds = (time.perf_counter() - begun) / (TIMED * batch)
        also()
    return Cost(seconds, batch, memory.peak)
