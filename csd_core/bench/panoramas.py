"""What the edit of a panorama costs, by size, and over what ip2p-overlap (baselines.py) costs."""

import math
import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor

from csd_core.bench import models
from csd_core.bench.config import BenchConfig, Size
from csd_core.bench.edits import overlap_steps, panorama_edit
from csd_core.bench.models import TimedModel
from csd_core.bench.steps import EditCost, measure_edit
from csd_core.bench.timing import Timings, timer
from csd_core.canvas.panorama import Panorama
from csd_core.canvas.windows import axis_starts
from csd_core.engine.progress import duration

WINDOWS_ALONG = {"cpu": 7, "cuda": 45}
"""ip2p-overlap is timed on a part of the image with at most so many windows along each side."""


def bench_panoramas(config: BenchConfig) -> dict[str, Any]:
    """Measure and print each size."""
    model, sizes = models.load_model("mini", config.device), []
    native = model.denoiser.native_size
    measure_size(model, (native, native), timed_steps=1)  # to warm up
    for size in config.sizes:
        print(f"measuring a panorama of {size[0]} x {size[1]} ...", file=sys.stderr, flush=True)
        cost, panorama = measure_size(model, size, config.timed_steps)
        print(f"\npanorama {size[0]} x {size[1]}, {model}\n{cost}", flush=True)
        over_overlap = compare_with_overlap(model, panorama, cost, size, config.rounds)
        sizes.append({"size": size, **cost.figures(), "over_overlap": over_overlap})
    return {"model": str(model), "sizes": sizes}


def measure_size(model: TimedModel, size: Size, timed_steps: int) -> tuple[EditCost, Panorama]:
    """The cost of an edit, and the edit."""

    def finish(panorama: Panorama, source: Tensor) -> float:
        panorama.finish(source)
        return 1.0

    return measure_edit(model, lambda: panorama_edit(model, size), finish, timed_steps)


def compare_with_overlap(
    model: TimedModel, panorama: Panorama, cost: EditCost, size: Size, rounds: int
) -> dict[str, Any]:
    """Time csd and ip2p-overlap in turn, about as many evaluations of each, and compute the whole edits.

    Network, precision and evaluations at a time are the same. So is the VAE, which is charged by pixels.
    """
    denoiser, preset = model.denoiser, model.denoiser.presets["panorama"]
    along = preset.stride * (WINDOWS_ALONG[denoiser.device.type] - 1) * denoiser.downscale
    part = min(size[0], denoiser.native_size + along), min(size[1], denoiser.native_size + along)
    windows, part_windows = (num_windows(model, each, preset.stride) for each in (size, part))
    steps = round(3 * part_windows * cost.steps / cost.evaluations)
    steps = min(max(1, steps), cost.steps - 1)
    vae = cost.seconds_encode + cost.seconds_finish
    overlap_vae = vae * math.prod(size) / math.prod(panorama.frame.canvas_size)

    def csd(mark: Callable[[], None]) -> None:
        def callback(step: int, _: Tensor) -> bool:
            mark()
            return step == steps

        panorama.run(callback=callback)

    timings, evaluations = Timings(), {"csd": cost.evaluations}
    for _ in range(rounds):
        seconds, count = between_marks(model, csd)
        timings.seconds["csd"].append(vae + cost.evaluations * seconds / count)
        seconds, count = between_marks(model, lambda mark: overlap_steps(model, part, 2, lambda _: mark()))
        whole = preset.num_inference_steps * windows / part_windows
        evaluations["ip2p-overlap"] = round(whole * count)
        timings.seconds["ip2p-overlap"].append(overlap_vae + whole * seconds)
    print(f"csd over ip2p-overlap, in turn, median of {rounds} rounds")
    for name, number in evaluations.items():
        print(f"  {name:<16}{number} evaluations: {duration(timings.median(name))}, computed")
    ratio, counted = timings.ratio("csd", "ip2p-overlap"), evaluations["csd"] / evaluations["ip2p-overlap"]
    print(f"  csd / overlap   seconds {ratio:.2f}, evaluations {counted:.2f}", flush=True)
    return {"seconds": timings.seconds, "evaluations": evaluations, "ratio": ratio, "counted": counted}


def between_marks(model: TimedModel, run: Callable[[Callable[[], None]], object]) -> tuple[float, int]:
    """Seconds and evaluations from the first to the last call of `mark`, which is given to `run`."""
    marks: list[tuple[float, int]] = []
    with model.denoiser.count_evaluations() as counted:
        run(lambda: marks.append((timer(), counted.count)))
    (start, before), (end, after) = marks[0], marks[-1]
    return end - start, after - before


def num_windows(model: TimedModel, size: Size, stride: int) -> int:
    """Windows of ip2p-overlap on an image no smaller than a window."""
    window, sides = model.latent_shape[-1], (math.ceil(side / model.denoiser.downscale) for side in size)
    return math.prod(len(axis_starts(side, window, stride)) for side in sides)
