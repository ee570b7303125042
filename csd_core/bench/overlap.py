"""csd over ip2p-overlap (baselines.py) on one image, in seconds of the whole edit.

Both are timed in turn: within every round some steps of csd and a sampling step of ip2p-overlap, this on a
part of the image where it has many windows. Network, precision, memory format and evaluations at a time are
the same. So is the VAE, which is charged by pixels.
"""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from csd_core.baselines import SamplingConfig, ip2p_overlap, num_calls
from csd_core.bench.options import Size
from csd_core.bench.panoramas import SizeResult, smooth_image
from csd_core.bench.timing import seconds_since, wait_for
from csd_core.bench.workloads import PLAIN, PROMPT, Workload, stable_diffusion_workload
from csd_core.canvas.panorama import Frame, Panorama
from csd_core.canvas.windows import axis_starts
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine.plan import count_evaluations
from csd_core.engine.progress import duration
from csd_core.presets import PANORAMA, Preset

PART_WINDOWS = {"cpu": 40, "cuda": 2000}
"""Windows on which ip2p-overlap is timed, where there are more."""
PUBLISHED: dict[Size, float] = {(1920, 640): 1.10, (3968, 4352): 0.56}
"""Seconds of csd over seconds of ip2p-overlap in the paper (table 8)."""
TARGETS: dict[Size, float] = {(3968, 4352): 0.4}
"""At most."""


@dataclass(frozen=True)
class Round:
    """What was timed in one round."""

    csd_seconds: float
    csd_evaluations: int
    overlap_seconds: float
    """Of one sampling step on the part."""
    overlap_evaluations: int


@dataclass(frozen=True)
class OverlapResult:
    """csd over ip2p-overlap, each with the model's preset, and by count the paper's."""

    width: int
    height: int
    csd_evaluations: int
    """Of the whole edit, counted."""
    overlap_windows: int
    overlap_steps: int
    """Sampling steps of the whole edit."""
    overlap_evaluations: int
    """Of the whole edit: those of the timed step, by steps and windows."""
    part: Size
    """Pixels of the image on which ip2p-overlap was timed."""
    part_windows: int
    rounds: list[Round]
    vae_seconds: tuple[float, float]
    """Of csd and of ip2p-overlap."""
    computed_seconds: tuple[float, float]
    """Of the whole edits; the medians of the rounds."""
    computed_ratio: float
    """The median of the rounds' ratios."""
    ratio_evaluations: float
    paper_evaluations: tuple[int, int]
    """With PANORAMA and the windows of Stable Diffusion, as csd-edit-panorama edits by default; counted."""
    published_ratio: float | None
    """Of seconds, in the paper."""


def compare(
    workload: Workload, panorama: Panorama, csd: SizeResult, preset: Preset, max_batch: int, rounds: int
) -> OverlapResult:
    """Time steps of csd and of ip2p-overlap in turn, and set the whole edits against each other.

    Args:
        workload: the model.
        panorama: the edit by csd.
        csd: its measure_size, for the seconds of the VAE.
        preset: settings.
        max_batch: evaluations at a time.
        rounds: repetitions.
    """
    denoiser, size = workload.denoiser, (csd.width, csd.height)
    sampling = preset.with_sampling(max_batch=max_batch)
    calls, windows = num_calls(denoiser, sampling), num_windows(denoiser, size, preset.stride)
    part = part_of(denoiser, size, preset.stride)
    part_windows = num_windows(denoiser, part, preset.stride)
    image = smooth_image(size)[..., : part[1], : part[0]]
    timed = time_rounds(workload, panorama, image, sampling, preset.stride, rounds)
    pixels = math.prod(size) / math.prod(panorama.frame.canvas_size)
    vae = csd.seconds_encode + csd.seconds_decode, pixels * (csd.seconds_encode + csd.seconds_decode)
    csd_seconds = [vae[0] + csd.evaluations * x.csd_seconds / x.csd_evaluations for x in timed]
    overlap_seconds = [vae[1] + calls * x.overlap_seconds * windows / part_windows for x in timed]
    overlap_evaluations = round(timed[0].overlap_evaluations * windows / part_windows) * calls
    return OverlapResult(
        *size,
        csd_evaluations=csd.evaluations,
        overlap_windows=windows,
        overlap_steps=calls,
        overlap_evaluations=overlap_evaluations,
        part=part,
        part_windows=part_windows,
        rounds=timed,
        vae_seconds=vae,
        computed_seconds=(statistics.median(csd_seconds), statistics.median(overlap_seconds)),
        computed_ratio=statistics.median(a / b for a, b in zip(csd_seconds, overlap_seconds, strict=True)),
        ratio_evaluations=csd.evaluations / overlap_evaluations,
        paper_evaluations=paper_evaluations(size),
        published_ratio=PUBLISHED.get(size),
    )


def time_rounds(
    workload: Workload, panorama: Panorama, image: Tensor, sampling: SamplingConfig, stride: int, rounds: int
) -> list[Round]:
    """Time both in turn, after a step of csd to warm up: about as many evaluations of each.

    image: the part on which ip2p-overlap is timed, (1, 3, H, W) in [0, 1].
    """
    device, timed = workload.device, []
    windows = num_windows(workload.denoiser, (image.shape[-1], image.shape[-2]), stride)
    steps = max(1, 3 * windows // (5 * panorama.edit.batch_size))
    steps = min(steps, (panorama.edit.num_steps - 1) // rounds)
    begun, before = 0.0, 0

    def take_turns(step: int, _: Tensor) -> bool:
        nonlocal begun, before
        if step % steps:
            return False
        seconds, evaluations = seconds_since(begun, device), counted.count - before
        if step > 0:
            timed.append(Round(seconds, evaluations, *time_overlap(workload, image, sampling, stride)))
        wait_for(device)
        begun, before = time.perf_counter(), counted.count
        return len(timed) == rounds

    with workload.denoiser.count_evaluations() as counted:
        panorama.run(callback=take_turns)
    return timed


def time_overlap(
    workload: Workload, image: Tensor, sampling: SamplingConfig, stride: int
) -> tuple[float, int]:
    """Seconds and evaluations of one sampling step of ip2p-overlap, from its first evaluation to its end."""
    marks: list[float] = []

    def mark(*_: object) -> None:
        wait_for(workload.device)
        marks.append(time.perf_counter())

    def mark_first(*_: object) -> None:
        if not marks:
            mark()

    first = workload.unet.register_forward_pre_hook(mark_first)
    try:
        with workload.denoiser.count_evaluations() as counted:
            one = replace(sampling, num_inference_steps=1)
            ip2p_overlap(workload.denoiser, image, PROMPT, one, stride=stride, callback=mark)
    finally:
        first.remove()
    begun, *ended = marks  # some schedulers have more than one call a step
    return (ended[-1] - begun) / len(ended), counted.count // len(ended)


def part_of(denoiser: InstructPix2Pix, size: Size, stride: int) -> Size:
    """Width and height of the part of an image that has about PART_WINDOWS windows."""
    least, step = denoiser.native_size, stride * denoiser.downscale
    most = PART_WINDOWS[denoiser.device.type]
    if num_windows(denoiser, size, stride) <= most:
        return size
    width = min(size[0], least + (most - 1) * step)
    rows = max(1, most // num_windows(denoiser, (width, least), stride))
    return width, min(size[1], least + (rows - 1) * step)


def num_windows(denoiser: InstructPix2Pix, size: Size, stride: int) -> int:
    """Windows of ip2p-overlap, which like csd enlarges an image smaller than one."""
    window, factor = denoiser.native_size // denoiser.downscale, denoiser.downscale
    sides = Frame.around((size[1], size[0]), denoiser.native_size, factor, 0, False).canvas_size
    return math.prod(len(axis_starts(math.ceil(side / factor), window, stride)) for side in sides)


def paper_evaluations(size: Size) -> tuple[int, int]:
    """Evaluations of csd and of ip2p-overlap with the paper's settings and a model of Stable Diffusion's."""
    denoiser = _paper_model()
    panorama = Panorama(denoiser, smooth_image(size), PROMPT, PANORAMA.edit, PANORAMA)
    csd = count_evaluations(panorama.edit, panorama.prompts, panorama.windows.num_particles)
    windows = num_windows(denoiser, size, PANORAMA.stride)
    return csd, 3 * windows * PANORAMA.sampling.num_inference_steps


@cache
def _paper_model() -> InstructPix2Pix:
    return stable_diffusion_workload(torch.device("meta"), PLAIN).denoiser


def format_overlap(result: OverlapResult, workload: Workload) -> str:
    """The figures of one comparison as a few lines of text."""
    size = result.width, result.height
    published = "" if result.published_ratio is None else f" (paper, table 8: {result.published_ratio:.2f})"
    target = f" (target: at most {TARGETS[size]:g})" if size in TARGETS else ""
    part = f"1 of {result.overlap_steps} sampling steps"
    if result.part_windows < result.overlap_windows:
        part += (
            f" on {result.part_windows} of {result.overlap_windows} windows, "
            f"{result.part[0]} x {result.part[1]} of the image"
        )
    rounds, (ours, theirs) = len(result.rounds), result.paper_evaluations
    return "\n".join(
        [
            "",
            f"csd over ip2p-overlap, {result.width} x {result.height}, {workload}, timed in turn, "
            f"median of {rounds} rounds",
            f"  csd             {result.csd_evaluations} evaluations, "
            f"{duration(result.computed_seconds[0])}, computed from {_evaluations(result.rounds)} of them",
            f"  ip2p-overlap    {result.overlap_evaluations} evaluations, "
            f"{duration(result.computed_seconds[1])}, computed from {part}",
            f"  csd / overlap   seconds {result.computed_ratio:.2f}{target}, "
            f"evaluations {result.ratio_evaluations:.2f}{published}",
            f"  paper's settings, counted: {ours} / {theirs} evaluations: {ours / theirs:.3f}{published}",
        ]
    )


def _evaluations(rounds: Sequence[Round]) -> str:
    return " + ".join(str(timed.csd_evaluations) for timed in rounds)
