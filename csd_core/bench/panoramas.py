"""What the edit of a panorama costs, by size.

A whole edit at these sizes takes a CPU hours. So a few steps are timed, and what is called computed follows
from them.
"""

import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from csd_core.bench.options import BenchConfig, Size
from csd_core.bench.steps import StepCost, time_steps
from csd_core.bench.timing import seconds_since, wait_for
from csd_core.bench.workloads import PROMPT, WORKLOADS, Workload
from csd_core.canvas.panorama import Panorama
from csd_core.denoisers.runtime.memory import PeakMemory
from csd_core.engine.plan import count_evaluations
from csd_core.engine.progress import duration
from csd_core.image_ops import resize
from csd_core.method.schedule import step_generator
from csd_core.presets import PANORAMA_MINI, Preset


@dataclass(frozen=True)
class SizeResult:
    """One image, edited with the model's preset. Figures named computed_ are of the whole edit."""

    width: int
    height: int
    windows: int
    steps: int
    evaluations: int
    """Of the whole edit, counted without running it."""
    step: StepCost
    """Of the steps that were run, after one to warm up."""
    seconds_encode: float
    """Checks, windows and latents: the VAE sees the canvas twice, as source and as image condition."""
    seconds_decode: float
    peak: float
    """Memory in GiB during all of it: what the device allocated, or on a CPU the whole process."""
    computed_seconds: float
    """Encode, what the steps take besides the network, all evaluations, decode."""


def bench_panoramas(config: BenchConfig) -> dict[str, Any]:
    """Measure and print each size, and where that is asked for set it against ip2p-overlap."""
    from csd_core.bench import overlap  # which imports this module

    workload, preset, batch = WORKLOADS["mini"](config.device, None), PANORAMA_MINI, config.max_batch
    warm_up(workload, batch)
    results, compared = [], []
    for size in dict.fromkeys([*config.sizes, *config.compare_sizes]):
        print(f"measuring a panorama of {size[0]} x {size[1]} ...", file=sys.stderr, flush=True)
        result, panorama = measure_size(workload, size, preset, config.timed_steps, batch)
        print(format_size(result, workload, batch), flush=True)
        results.append(asdict(result))
        if size in config.compare_sizes:
            comparison = overlap.compare(workload, panorama, result, preset, batch, config.rounds)
            print(overlap.format_overlap(comparison, workload), flush=True)
            compared.append(asdict(comparison))
    return {"model": str(workload), "max_batch": batch, "sizes": results, "over_overlap": compared}


def smooth_image(size: Size) -> Tensor:
    """A random image (1, 3, H, W) in [0, 1] without detail, the same every time."""
    width, height = size
    coarse = torch.rand(1, 3, height // 64 + 2, width // 64 + 2, generator=step_generator(0))
    return resize(coarse, (height, width))


def warm_up(workload: Workload, max_batch: int) -> None:
    """A step of a small edit at the full batch, and a tile through the VAE and back."""
    side = workload.denoiser.native_size
    edit = PANORAMA_MINI.with_edit(max_batch=max_batch)
    panorama = Panorama(workload.denoiser, smooth_image((side, side)), PROMPT, edit, PANORAMA_MINI)
    panorama.finish(panorama.run(callback=lambda *_: True))
    wait_for(workload.device)


def measure_size(
    workload: Workload, size: Size, preset: Preset, steps: int, max_batch: int
) -> tuple[SizeResult, Panorama]:
    """Prepare the edit of a smooth image, run its first steps and decode.

    Args:
        workload: the model.
        size: of the image.
        preset: settings.
        steps: to time, after one to warm up.
        max_batch: evaluations at a time.

    Returns:
        The figures, and the edit they are of.
    """
    image = smooth_image(size)
    with PeakMemory(workload.device) as memory:
        start = time.perf_counter()
        panorama = Panorama(workload.denoiser, image, PROMPT, preset.with_edit(max_batch=max_batch), preset)
        source, _ = panorama.latents
        encode = seconds_since(start, workload.device)
        step = StepCost.of(time_steps(workload, panorama, steps))
        start = time.perf_counter()
        panorama.finish(source)
        decode = seconds_since(start, workload.device)
    edit, windows = panorama.edit, panorama.windows.num_particles
    evaluations = count_evaluations(edit, panorama.prompts, windows)
    result = SizeResult(
        *size,
        windows=windows,
        steps=edit.num_steps,
        evaluations=evaluations,
        step=step,
        seconds_encode=encode,
        seconds_decode=decode,
        peak=memory.peak,
        computed_seconds=encode + step.seconds_of(edit.num_steps, evaluations) + decode,
    )
    return result, panorama


def format_size(result: SizeResult, workload: Workload, max_batch: int) -> str:
    """The figures of one size as a few lines of text."""
    step = result.step
    return "\n".join(
        [
            "",
            f"panorama {result.width} x {result.height}, {workload}, {max_batch} evaluations at a time",
            f"  whole edit      {result.windows} windows, {result.steps} steps, "
            f"{result.evaluations} evaluations",
            f"  prepare, encode {result.seconds_encode:8.2f} s",
            f"  a step          {step.seconds_step:8.4f} s, median of {step.timed_steps}; "
            f"{100 * step.besides_network:.1f} % of it besides the network "
            f"({step.seconds_per_evaluation:.4f} s a bare evaluation)",
            f"  decode          {result.seconds_decode:8.2f} s",
            f"  peak memory     {result.peak:8.2f} GiB",
            f"  whole edit      {duration(result.computed_seconds)}, computed from {step.timed_steps} of "
            f"{result.steps} steps: encode + steps + decode",
        ]
    )
