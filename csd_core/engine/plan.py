"""What an edit will take, before it starts: counted evaluations, and time and memory from two of them."""

import time
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from csd_core.denoisers.base import Denoiser, PromptWeights
from csd_core.denoisers.runtime.batching import evaluator
from csd_core.denoisers.runtime.memory import PeakMemory
from csd_core.engine.config import EditConfig
from csd_core.engine.draws import Draws
from csd_core.engine.predict import SIDES, Side, edit_branches, most_evaluations
from csd_core.engine.prepared import PreparedEdit
from csd_core.engine.progress import duration
from csd_core.engine.source_cache import SourceCache
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
    condition_nbytes: int
    """Bytes of one particle's condition."""


def plan(job: PreparedEdit, denoiser: Denoiser, world_size: int = 1) -> list[tuple[str, str]]:
    """Evaluations, time and memory that an edit will take: names and figures."""
    edit, device = job.edit, denoiser.device
    total = count_evaluations(denoiser, edit, job.prompts, job.num_particles)
    cost = measure_evaluation(job, denoiser)
    shape = (denoiser.latent_channels, *job.particle_size)
    kept, on_host = SourceCache.most_bytes(Draws(edit, job.num_particles), shape)
    held = job.nbytes + job.num_particles * cost.condition_nbytes
    held += 0 if on_host and device.type != "cpu" else kept
    each = f"{cost.seconds:.4f} s an evaluation on {device}, mean of two batches of {cost.batch}"
    return [
        ("evaluations", str(total)),
        ("time", f"about {duration(total * cost.seconds / world_size)} ({each})"),
        ("memory", f"about {cost.peak_gib + held / 2**30:.2f} GiB on {device}, all latents included"),
    ]


def count_evaluations(
    denoiser: Denoiser, config: EditConfig, prompts: PromptWeights, num_particles: int, first: int = 0
) -> int:
    """Evaluations of the network from step `first` to the end, as the engine will ask for them."""
    branches = edit_branches(denoiser, config, prompts, num_particles)
    per_particle = {
        side: [sum(branch.counts(p) for branch in branches[side]) for p in range(num_particles)]
        for side in SIDES
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


@torch.no_grad()
def measure_evaluation(job: PreparedEdit, denoiser: Denoiser) -> Cost:
    """Time two batches of evaluations, after one to warm up; the memory is that of the edit at its peak."""
    branches = edit_branches(denoiser, job.edit, job.prompts, job.num_particles)
    fullest = most_evaluations(branches, job.edit, job.num_particles)
    evaluate = evaluator(denoiser, job.edit.chunk_size, fullest=fullest)
    device, (height, width) = denoiser.device, (side * denoiser.downscale for side in job.particle_size)
    image = torch.rand((1, 3, height, width), generator=step_generator(0)).to(device)
    latents = denoiser.encode(image)
    condition = denoiser.encode_condition(image, latents)
    given = denoiser.conditioning(branches["target"][-1], condition)
    t = torch.full((), denoiser.schedule.timestep(1 / 3), device=device)

    def run(rows: int) -> None:
        same = torch.zeros(rows, dtype=torch.long)
        x_t = torch.randn((rows, *latents.shape[1:]), generator=step_generator(0)).to(device)
        evaluate(x_t, t.expand(rows), given[same.to(device)])
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with PeakMemory(device) as memory:
        run(fullest if evaluate.limit is None else evaluate.size_of(fullest))
        batch = evaluate.size_of(fullest)
        begun = time.perf_counter()
        for _ in range(TIMED):
            run(batch)
        seconds = (time.perf_counter() - begun) / (TIMED * batch)
        job.decode_one_tile()
    return Cost(seconds, batch, memory.peak, condition.nbytes)
