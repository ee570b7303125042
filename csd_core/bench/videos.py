"""What the edit of a video costs, by its length: memory must not grow but for the latents.

A few steps are timed, what is called computed follows from them. The frames are drawn, not read.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from csd_core.bench.options import BenchConfig
from csd_core.bench.steps import StepCost, time_steps
from csd_core.bench.timing import seconds_since
from csd_core.bench.workloads import PROMPT, WORKLOADS, Workload
from csd_core.canvas.video import VideoEdit
from csd_core.denoisers.runtime.memory import PeakMemory
from csd_core.engine.plan import count_evaluations
from csd_core.engine.progress import duration
from csd_core.presets import VIDEO_MINI, Preset

SIZE = (540, 960)
"""Height and width of the frames."""


@dataclass(frozen=True)
class VideoResult:
    """One video, edited with the model's preset. Figures named computed_ are of the whole edit."""

    frames: int
    size: tuple[int, int]
    """Height and width of the edit, in pixels."""
    steps: int
    evaluations: int
    """Of the whole edit, counted without running it."""
    latents: float
    """GiB of the latents, which grow with the frames."""
    peak: float
    """Memory in GiB: what the device allocated, or on a CPU the whole process."""
    seconds_encode: float
    """All frames: drawn, resized, encoded."""
    step: StepCost
    """Of the steps that were run, after one to warm up."""
    seconds_frame: float
    """Of a frame at the end: drawn again, decoded, brought to its size."""
    computed_seconds: float
    """Encode, what the steps take besides the network, all evaluations, finish."""

    @property
    def besides_latents(self) -> float:
        """Memory in GiB that must not grow with the frames."""
        return self.peak - self.latents


@dataclass(frozen=True)
class DrawnClip:
    """A video that is drawn as it is read: a bright square wanders over a smooth ground."""

    num_frames: int
    size: tuple[int, int] = SIZE

    def frames(self) -> Iterator[np.ndarray]:
        """See video.Clip."""
        height, width = self.size
        side = min(self.size) // 4
        ground = np.linspace(40, 200, width, dtype=np.uint8)[None, :, None].repeat(height, 0).repeat(3, 2)
        for k in range(self.num_frames):
            frame = ground.copy()
            left = 7 * k % (width - side)
            frame[side : 2 * side, left : left + side] = (230, 120, 40)
            yield frame


def bench_videos(config: BenchConfig) -> dict[str, Any]:
    """Measure and print each length, and how the memory of the longest compares with that of the shortest."""
    workload, results = WORKLOADS["mini"](config.device, None), []
    for frames in config.frames:
        print(f"measuring a video of {frames} frames ...", file=sys.stderr, flush=True)
        results.append(measure_video(workload, frames, VIDEO_MINI, config.timed_steps, config.max_batch))
        print(format_video(results[-1], workload, config.max_batch), flush=True)
    short, *_, long = sorted(results, key=lambda result: result.frames)
    ratio = long.besides_latents / short.besides_latents
    print(
        f"\nmemory besides the latents, {long.frames} frames over {short.frames}: {ratio:.3f} (target: 1)",
        flush=True,
    )
    return {
        "model": str(workload),
        "max_batch": config.max_batch,
        "lengths": [{**asdict(result), "besides_latents": result.besides_latents} for result in results],
        "memory_ratio": ratio,
    }


def measure_video(
    workload: Workload, frames: int, preset: Preset, steps: int, max_batch: int, finished: int = 32
) -> VideoResult:
    """Encode a drawn video, run its first steps, and finish some of its frames.

    Args:
        workload: the model.
        frames: N.
        preset: settings.
        steps: to time, after one to warm up.
        max_batch: evaluations at a time.
        finished: frames to finish.
    """
    denoiser = workload.denoiser
    with PeakMemory(denoiser.device) as memory:
        edit = VideoEdit(denoiser, DrawnClip(frames), PROMPT, preset.with_edit(max_batch=max_batch), preset)
        begun = time.perf_counter()
        source, _ = edit.latents
        encode = seconds_since(begun, workload.device)
        step = StepCost.of(time_steps(workload, edit, steps))
        begun = time.perf_counter()
        count = sum(1 for _ in zip(edit.finish(source), range(finished), strict=False))
        each = seconds_since(begun, workload.device) / count
    evaluations = count_evaluations(edit.edit, edit.prompts, frames)
    return VideoResult(
        frames=frames,
        size=edit.size,
        steps=edit.edit.num_steps,
        evaluations=evaluations,
        latents=edit.nbytes / 2**30,
        peak=memory.peak,
        seconds_encode=encode,
        step=step,
        seconds_frame=each,
        computed_seconds=encode + step.seconds_of(edit.edit.num_steps, evaluations) + frames * each,
    )


def format_video(result: VideoResult, workload: Workload, max_batch: int) -> str:
    """The figures of one length as a few lines of text."""
    (height, width), step = result.size, result.step
    return "\n".join(
        [
            "",
            f"video of {result.frames} frames, edited at {width} x {height}, {workload}, "
            f"{max_batch} evaluations at a time",
            f"  whole edit      {result.steps} steps, {result.evaluations} evaluations",
            f"  encode          {result.seconds_encode:8.2f} s",
            f"  a step          {step.seconds_step:8.4f} s, median of {step.timed_steps}; "
            f"{100 * step.besides_network:.1f} % of it besides the network",
            f"  finish          {result.seconds_frame:8.4f} s a frame",
            f"  peak memory     {result.peak:8.3f} GiB, {result.besides_latents:.3f} GiB besides the latents",
            f"  whole edit      {duration(result.computed_seconds)}, computed from {step.timed_steps} "
            f"of {result.steps} steps",
        ]
    )
