"""What the edit of a panorama costs, by size, and against ip2p-overlap (baselines.py).

A whole edit at these sizes takes a CPU hours. So a part of each is timed, and what is called computed follows
from it: a few steps of csd, one sampling step of ip2p-overlap (of large images on a CPU, for a part of them).
"""

import math
import statistics
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from csd_core.baselines import SamplingConfig, ip2p_overlap, num_calls
from csd_core.bench import PROMPT, Workload, bare_evaluations, stable_diffusion_workload, wait_for
from csd_core.bench_steps import seconds_since, time_steps
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.errors import expect
from csd_core.images import resize
from csd_core.machine import PeakMemory
from csd_core.panorama import Frame, Panorama
from csd_core.plan import count_evaluations
from csd_core.presets import PANORAMA, Preset
from csd_core.schedule import step_generator
from csd_core.windows import axis_starts
from csd_core.wording import duration

Size = tuple[int, int]
"""Width and height in pixels."""

PART_ABOVE = 2_000_000
"""Pixels above which a CPU times ip2p-overlap on a part of the canvas."""
PART_WINDOWS = 120
"""Windows of such a part: as many rows of windows as have no more, at least one."""
PUBLISHED: dict[Size, float] = {(1920, 640): 1.10, (3968, 4352): 0.56}
"""Seconds of csd over seconds of ip2p-overlap in the paper (table 8)."""


@dataclass(frozen=True)
class SizeResult:
    """One image, edited with the model's preset. Figures named computed_ are of the whole edit."""

    width: int
    height: int
    windows: int
    steps: int
    evaluations: int
    """Of the whole edit, counted without running it."""
    timed_steps: int
    """Steps that were run, after one to warm up."""
    seconds_encode: float
    """Checks, windows and latents."""
    seconds_step: float
    """Everything in the engine's loop, the median of the timed steps."""
    seconds_per_evaluation: float
    """Bare network at the batches of a step, timed after each; the median."""
    seconds_decode: float
    peak: float
    """Memory in GiB during all of it: what the device allocated, or on a CPU the whole process."""
    computed_seconds: float
    """Encode, steps times seconds_step, decode."""
    computed_besides_network: float
    """Share of a step that is not the network: 1 - bare / step, the median of the timed steps."""


@dataclass(frozen=True)
class OverlapTime:
    """What one sampling step of ip2p-overlap took on one image."""

    windows: int
    evaluations: int
    """Of the step, counted as they happened."""
    seconds_encode: float
    seconds_step: float
    seconds_decode: float


@dataclass(frozen=True)
class ComparisonResult:
    """csd against ip2p-overlap on one image, each with the model's preset, and by count the paper's."""

    width: int
    height: int
    csd: SizeResult
    overlap_windows: int
    overlap_steps: int
    """Sampling steps of the whole edit."""
    timed_height: int
    """Pixels of the height on which ip2p-overlap was timed."""
    timed: OverlapTime
    computed_overlap_evaluations: int
    computed_overlap_seconds: float
    """The timed step times steps and windows; encode and decode once, by pixels."""
    computed_ratio_evaluations: float
    """csd over ip2p-overlap."""
    computed_ratio_seconds: float
    paper_csd_evaluations: int
    """With PANORAMA and the windows of Stable Diffusion, as csd-edit-panorama edits by default; counted."""
    paper_overlap_evaluations: int
    paper_ratio: float
    """Of evaluations, and so of the seconds they take."""
    published_ratio: float | None
    """Of seconds, in the paper."""


def parse_size(name: str, text: str, least: int) -> Size:
    """'1920x640' as (1920, 640).

    Raises:
        UserError: it is none, or a side is shorter than `least` pixels.
    """
    sides = text.lower().split("x")
    good = len(sides) == 2 and all(side.isascii() and side.isdigit() and int(side) >= least for side in sides)
    expect(good, name, f"WIDTHxHEIGHT in pixels, each at least {least}", repr(text))
    return int(sides[0]), int(sides[1])


def smooth_image(size: Size) -> Tensor:
    """A random image (1, 3, H, W) in [0, 1] without detail, the same every time."""
    width, height = size
    coarse = torch.rand(1, 3, height // 64 + 2, width // 64 + 2, generator=step_generator(0))
    return resize(coarse, (height, width))


def warm_up(workload: Workload, max_batch: int) -> None:
    """One evaluation at the full batch, and one tile through the VAE and back."""
    denoiser = workload.denoiser
    bare_evaluations(workload, max_batch, max_batch)()
    denoiser.decode(denoiser.encode(torch.zeros(1, 3, denoiser.tile_size, denoiser.tile_size)))
    wait_for(denoiser.device)


def measure_size(workload: Workload, size: Size, preset: Preset, steps: int, max_batch: int) -> SizeResult:
    """Prepare the edit of a smooth image, run its first steps and decode.

    Args:
        workload: the model.
        size: of the image.
        preset: settings.
        steps: to time, after one to warm up.
        max_batch: evaluations at a time.
    """
    denoiser = workload.denoiser
    image = smooth_image(size)
    with PeakMemory(denoiser.device) as memory:
        start = time.perf_counter()
        panorama = Panorama(denoiser, image, PROMPT, preset.with_edit(max_batch=max_batch), preset)
        source, _ = panorama.latents
        encode = seconds_since(start, denoiser)
        timed = time_steps(workload, panorama, steps)
        start = time.perf_counter()
        panorama.finish(source)
        decode = seconds_since(start, denoiser)
    step = statistics.median(step.seconds for step in timed)
    edit, windows = panorama.edit, panorama.windows.num_particles
    return SizeResult(
        *size,
        windows=windows,
        steps=edit.num_steps,
        evaluations=count_evaluations(edit, panorama.prompts, windows),
        timed_steps=len(timed),
        seconds_encode=encode,
        seconds_step=step,
        seconds_per_evaluation=statistics.median(step.bare / step.evaluations for step in timed),
        seconds_decode=decode,
        peak=memory.peak,
        computed_seconds=encode + edit.num_steps * step + decode,
        computed_besides_network=statistics.median(1 - step.bare / step.seconds for step in timed),
    )


def compare(
    workload: Workload, size: Size, preset: Preset, csd: SizeResult, max_batch: int
) -> ComparisonResult:
    """Time a sampling step of ip2p-overlap, and set the whole edit against that of csd.

    Args:
        workload: the model.
        size: of the image.
        preset: settings.
        csd: measure_size of the same.
        max_batch: evaluations at a time.
    """
    denoiser = workload.denoiser
    part = part_height(denoiser, size, preset.stride)
    sampling = preset.with_sampling(max_batch=max_batch)
    steps = num_calls(denoiser, sampling)
    windows = _num_windows(denoiser, size, preset.stride)
    timed = time_overlap(workload, smooth_image(size)[..., :part, :], sampling, preset.stride)
    evaluations = round(timed.evaluations * windows / timed.windows) * steps
    seconds = (
        steps * timed.seconds_step * windows / timed.windows
        + (timed.seconds_encode + timed.seconds_decode) * size[1] / part
    )
    paper_csd, paper_overlap = _paper_evaluations(size)
    return ComparisonResult(
        *size,
        csd=csd,
        overlap_windows=windows,
        overlap_steps=steps,
        timed_height=part,
        timed=timed,
        computed_overlap_evaluations=evaluations,
        computed_overlap_seconds=seconds,
        computed_ratio_evaluations=csd.evaluations / evaluations,
        computed_ratio_seconds=csd.computed_seconds / seconds,
        paper_csd_evaluations=paper_csd,
        paper_overlap_evaluations=paper_overlap,
        paper_ratio=paper_csd / paper_overlap,
        published_ratio=PUBLISHED.get(size),
    )


def time_overlap(workload: Workload, image: Tensor, sampling: SamplingConfig, stride: int) -> OverlapTime:
    """Time ip2p-overlap with one sampling step: what precedes its first evaluation, the step, the rest."""
    denoiser = workload.denoiser
    marks: list[float] = []

    def mark(*_: object) -> None:
        wait_for(denoiser.device)
        marks.append(time.perf_counter())

    def mark_first(*_: object) -> None:
        if len(marks) == 1:
            mark()

    first = workload.unet.register_forward_pre_hook(mark_first)
    try:
        with denoiser.count_evaluations() as counted:
            mark()
            one = replace(sampling, num_inference_steps=1)
            ip2p_overlap(denoiser, image, PROMPT, one, stride=stride, callback=mark)
            mark()
    finally:
        first.remove()
    start, begun, *ended, end = marks
    windows = _num_windows(denoiser, (image.shape[-1], image.shape[-2]), stride)
    return OverlapTime(
        windows=windows,
        evaluations=counted.count // len(ended),  # some schedulers have more than one call a step
        seconds_encode=begun - start,
        seconds_step=(ended[-1] - begun) / len(ended),
        seconds_decode=end - ended[-1],
    )


def part_height(denoiser: InstructPix2Pix, size: Size, stride: int) -> int:
    """Pixels of the height on which ip2p-overlap is timed: on a CPU, of a large image, a part."""
    width, height = size
    if denoiser.device.type != "cpu" or width * height <= PART_ABOVE:
        return height
    columns = _num_windows(denoiser, (width, denoiser.native_size), stride)
    rows = max(1, PART_WINDOWS // columns)
    return min(height, denoiser.native_size + (rows - 1) * stride * denoiser.downscale)


def _num_windows(denoiser: InstructPix2Pix, size: Size, stride: int) -> int:
    """Windows of ip2p-overlap, which like csd enlarges an image smaller than one."""
    window, factor = denoiser.native_size // denoiser.downscale, denoiser.downscale
    sides = Frame.around(size, denoiser.native_size, factor, 0, False).canvas_size
    return math.prod(len(axis_starts(side // factor, window, stride)) for side in sides)


def _paper_evaluations(size: Size) -> tuple[int, int]:
    """Evaluations of csd and of ip2p-overlap with the paper's settings and a model of Stable Diffusion's."""
    denoiser = stable_diffusion_workload(torch.device("meta")).denoiser
    panorama = Panorama(denoiser, smooth_image(size), PROMPT, PANORAMA.edit, PANORAMA)
    csd = count_evaluations(panorama.edit, panorama.prompts, panorama.windows.num_particles)
    windows = _num_windows(denoiser, size, PANORAMA.stride)
    return csd, 3 * windows * PANORAMA.sampling.num_inference_steps


def format_size(result: SizeResult, workload: Workload, max_batch: int) -> str:
    """The figures of one size as a few lines of text."""
    device, dtype = workload.denoiser.device.type, str(workload.denoiser.dtype).removeprefix("torch.")
    return "\n".join(
        [
            "",
            f"panorama {result.width} x {result.height}, {workload.name}: {device}, {dtype}, "
            f"{max_batch} evaluations at a time",
            f"  whole edit      {result.windows} windows, {result.steps} steps, "
            f"{result.evaluations} evaluations",
            f"  prepare, encode {result.seconds_encode:8.2f} s",
            f"  a step          {result.seconds_step:8.4f} s, median of {result.timed_steps}; "
            f"{100 * result.computed_besides_network:.1f} % of it besides the network "
            f"({result.seconds_per_evaluation:.4f} s a bare evaluation)",
            f"  decode          {result.seconds_decode:8.2f} s",
            f"  peak memory     {result.peak:8.2f} GiB",
            f"  whole edit      {duration(result.computed_seconds)}, {_computed(result)}: "
            "encode + steps x a step + decode",
        ]
    )


def format_comparison(result: ComparisonResult) -> str:
    """The figures of one comparison as a few lines of text."""
    csd, timed = result.csd, result.timed
    part = f"computed from 1 of {result.overlap_steps} sampling steps"
    if timed.windows < result.overlap_windows:
        part += (
            f" on {timed.windows} of {result.overlap_windows} windows, "
            f"{result.width} x {result.timed_height} of the image"
        )
    published = "" if result.published_ratio is None else f" (paper, table 8: {result.published_ratio:.2f})"
    csd_seconds, overlap_seconds = (
        duration(count * csd.seconds_per_evaluation)
        for count in (result.paper_csd_evaluations, result.paper_overlap_evaluations)
    )
    return "\n".join(
        [
            "",
            f"csd against ip2p-overlap, {result.width} x {result.height}",
            f"  csd             {csd.evaluations} evaluations, "
            f"{duration(csd.computed_seconds)}, {_computed(csd)}",
            f"  ip2p-overlap    {result.computed_overlap_evaluations} evaluations, "
            f"{duration(result.computed_overlap_seconds)}, {part}",
            f"  csd / overlap   evaluations {result.computed_ratio_evaluations:.2f}, "
            f"seconds {result.computed_ratio_seconds:.2f}{published}",
            f"  paper's settings, counted: "
            f"{result.paper_csd_evaluations} / {result.paper_overlap_evaluations} evaluations, "
            f"{csd_seconds} / {overlap_seconds} at {csd.seconds_per_evaluation:.4f} s each: "
            f"{result.paper_ratio:.3f}{published}",
        ]
    )


def _computed(result: SizeResult) -> str:
    return f"computed from {result.timed_steps} of {result.steps} steps"
