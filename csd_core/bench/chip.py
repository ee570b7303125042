"""How near the network comes to what the chip can do, at Stable Diffusion's size; on a GPU.

peak        a large product of matrices in the network's precision, FLOP a second
rate        evaluations a second of the network as the denoiser calls it
share       rate times the FLOP of an evaluation over the peak
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from csd_core.bench.options import BenchConfig
from csd_core.bench.timing import Contender, Rounds, alternate, seconds_since
from csd_core.bench.workloads import (
    PLAIN,
    PROMPT,
    Workload,
    default_setup,
    missing,
    seeded,
    stable_diffusion_workload,
)
from csd_core.denoisers.runtime.precision import dtype_name
from csd_core.engine.config import EditConfig
from csd_core.engine.loop import edit_latents
from csd_core.engine.plan import count_evaluations
from csd_core.engine.progress import duration

SHARE_AT_LEAST = 0.4
"""The target."""
SIDE = 8192
"""Of the matrices: large enough to be bound by arithmetic on today's chips."""
REPEATS = 10
"""Products, or calls of the network, in a round: what it takes to begin does not count then."""
FRAMES, STEPS = 24, 200
"""The edit whose time is told: all frames in every step."""
MATMUL, EAGER, COMPILED = "matmul", "by default", "compiled"


@dataclass(frozen=True)
class Speed:
    """Of the network, eager or compiled."""

    setup: str
    evaluations_per_second: float
    share_of_peak: float
    """The median of the rounds' shares."""
    computed_seconds: float
    """Of the edit of FRAMES and STEPS: its evaluations at this rate."""


@dataclass(frozen=True)
class ChipResult:
    """What was measured on one device."""

    device: str
    dtype: str
    max_batch: int
    peak_flops: float
    """A second."""
    flops: int
    """Of an evaluation."""
    evaluations: int
    """Of the edit of FRAMES and STEPS, counted."""
    speeds: dict[str, Speed]
    timed_steps: int
    seconds_step: float
    """Of the engine on that edit, the median of the timed steps, as by default."""
    seconds_edit: float
    """Of the edit: its evaluations as the timed steps took them."""


def bench_chip(config: BenchConfig) -> dict[str, Any]:
    """Measure and print it, where there is a GPU."""
    if config.device.type != "cuda":
        print("\nchip: needs a GPU; a UNet of Stable Diffusion's size takes a CPU seconds an evaluation")
        return {"needs": "a GPU"}
    default = default_setup(config.device)
    setups = {EAGER: default}
    if "compile" in config.speedups and not missing("compile", config.device):
        setups[COMPILED] = replace(default, compile=True)
    workloads = {name: stable_diffusion_workload(config.device, setup) for name, setup in setups.items()}
    flops = count_flops(lambda: stable_diffusion_workload(torch.device("meta"), PLAIN))
    result = measure_chip(workloads, flops, config)
    print(format_chip(result, config.rounds), flush=True)
    return asdict(result)


def measure_chip(
    workloads: dict[str, Workload], flops: int, config: BenchConfig, side: int = SIDE
) -> ChipResult:
    """Time product and network in turn, then some steps of the edit.

    Args:
        workloads: the networks, EAGER among them.
        flops: of an evaluation.
        config: max_batch, rounds, timed_steps.
        side: of the matrices.
    """
    workload = workloads[EAGER]
    denoiser, device = workload.denoiser, workload.device
    contenders = {MATMUL: matmul_contender(side, denoiser.dtype, device)}
    contenders |= {name: network_contender(each, config.max_batch) for name, each in workloads.items()}
    for contender in contenders.values():
        contender.run()
    timed = alternate(contenders, config.rounds, device)
    edit = EditConfig(num_steps=STEPS, batch_size=FRAMES, max_batch=config.max_batch)
    edit = replace(edit, noise_pool=workload.setup.noise_pool)
    evaluations = count_evaluations(edit, {PROMPT: [1.0] * FRAMES}, FRAMES)
    steps = time_edit(workload, edit, config.timed_steps)
    return ChipResult(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        dtype=dtype_name(denoiser.dtype),
        max_batch=config.max_batch,
        peak_flops=1 / timed.median(MATMUL),
        flops=flops,
        evaluations=evaluations,
        speeds={name: _speed(timed, name, workloads[name], flops, evaluations) for name in workloads},
        timed_steps=len(steps),
        seconds_step=statistics.median(seconds for seconds, _ in steps),
        seconds_edit=evaluations * statistics.median(seconds / count for seconds, count in steps),
    )


def _speed(timed: Rounds, name: str, workload: Workload, flops: int, evaluations: int) -> Speed:
    return Speed(
        setup=str(workload.setup),
        evaluations_per_second=1 / timed.median(name),
        share_of_peak=flops * timed.ratio(MATMUL, name),  # seconds a FLOP over seconds an evaluation
        computed_seconds=evaluations * timed.median(name),
    )


def count_flops(make: Callable[[], Workload]) -> int:
    """FLOP of an evaluation of a network on the meta device, where nothing is computed: two a product."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    evaluate = evaluation(make(), 1)
    with counter:
        evaluate()
    return counter.get_total_flops()


def matmul_contender(side: int, dtype: torch.dtype, device: torch.device) -> Contender:
    """Products of two square matrices; the unit is a FLOP."""
    a, b = (seeded(k, (side, side), device).to(dtype) for k in range(2))
    product = torch.empty_like(a)

    def multiply() -> None:
        for _ in range(REPEATS):
            torch.matmul(a, b, out=product)

    return Contender(multiply, REPEATS * 2 * side**3)


def network_contender(workload: Workload, batch: int) -> Contender:
    """Calls of the denoiser at one batch; the unit is an evaluation."""
    evaluate = evaluation(workload, batch)
    return Contender(lambda: [evaluate() for _ in range(REPEATS)], REPEATS * batch)


def evaluation(workload: Workload, batch: int) -> Callable[[], Tensor]:
    """One call of the denoiser."""
    denoiser = workload.denoiser
    x = seeded(0, (batch, denoiser.latent_channels, *workload.size), workload.device)
    t = torch.full((batch,), denoiser.schedule.num_timesteps // 3, device=workload.device)
    text = denoiser.embed([PROMPT]).expand(batch, -1, -1)
    return lambda: denoiser.predict_noise(x, t, text, x)


def time_edit(workload: Workload, edit: EditConfig, count: int) -> list[tuple[float, int]]:
    """Seconds and evaluations of steps 1 to count of the edit, after one to warm up."""
    denoiser, steps = workload.denoiser, []
    x = seeded(0, (edit.batch_size, denoiser.latent_channels, *workload.size), workload.device)
    begun, before = 0.0, 0

    def note(step: int, _: Tensor) -> bool:
        nonlocal begun, before
        if step > 0:
            steps.append((seconds_since(begun, workload.device), counted.count - before))
        begun, before = time.perf_counter(), counted.count
        return len(steps) == count

    with denoiser.count_evaluations() as counted:
        edit_latents(denoiser, x, x, x, PROMPT, edit, callback=note)
    return steps


def format_chip(result: ChipResult, rounds: int) -> str:
    """The figures as a few lines of text."""
    lines = [
        "",
        f"Stable Diffusion's size on {result.device}, {result.dtype}, "
        f"{result.max_batch} evaluations at a time, median of {rounds} rounds",
        f"  product of matrices  {result.peak_flops / 1e12:8.1f} TFLOP a second",
        f"  an evaluation        {result.flops / 1e9:8.1f} GFLOP, counted",
    ]
    for name, speed in result.speeds.items():
        lines.append(
            f"  {name:<20} {speed.evaluations_per_second:8.2f} evaluations a second, "
            f"{100 * speed.share_of_peak:.1f} % of that product (target: {100 * SHARE_AT_LEAST:g} %); "
            f"{speed.setup}\n"
            f"  {FRAMES} frames x {STEPS} steps  {result.evaluations} evaluations: "
            f"{duration(speed.computed_seconds)}, computed"
        )
    lines.append(
        f"  engine               {result.seconds_step:8.4f} s a step of {FRAMES} frames, median of "
        f"{result.timed_steps}: {duration(result.seconds_edit)} for {STEPS}, computed from these"
    )
    return "\n".join(lines)
