"""What the edit of a video costs, by its length: memory must not grow but for the latents.

A few steps are timed, what is called computed follows from them. The frames are drawn, not read.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from csd_core.bench import PROMPT, Workload
from csd_core.bench_steps import seconds_since, time_steps
from csd_core.machine import PeakMemory
from csd_core.plan import count_evaluations
from csd_core.presets import Preset
from csd_core.video import VideoEdit
from csd_core.wording import duration

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
    timed_steps: int
    seconds_step: float
    """The median of the timed steps."""
    seconds_frame: float
    """Of a frame at the end: drawn again, decoded, brought to its size."""
    computed_seconds: float
    """Encode, steps, finish."""
    computed_besides_network: float
    """Share of a step that is not the network."""

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
        encode = seconds_since(begun, denoiser)
        timed = time_steps(replace(workload, size=edit.particle_size), edit, steps)
        begun = time.perf_counter()
        count = sum(1 for _ in zip(edit.finish(source), range(finished), strict=False))
        each = seconds_since(begun, denoiser) / count
    step = statistics.median(step.seconds for step in timed)
    return VideoResult(
        frames=frames,
        size=edit.size,
        steps=edit.edit.num_steps,
        evaluations=count_evaluations(edit.edit, edit.prompts, frames),
        latents=edit.nbytes / 2**30,
        peak=memory.peak,
        seconds_encode=encode,
        timed_steps=len(timed),
        seconds_step=step,
        seconds_frame=each,
        computed_seconds=encode + edit.edit.num_steps * step + frames * each,
        computed_besides_network=statistics.median(1 - step.bare / step.seconds for step in timed),
    )


def format_video(result: VideoResult, workload: Workload, max_batch: int) -> str:
    """The figures of one length as a few lines of text."""
    device, dtype = workload.denoiser.device.type, str(workload.denoiser.dtype).removeprefix("torch.")
    height, width = result.size
    return "\n".join(
        [
            "",
            f"video of {result.frames} frames, edited at {width} x {height}, {workload.name}: "
            f"{device}, {dtype}, {max_batch} evaluations at a time",
            f"  whole edit      {result.steps} steps, {result.evaluations} evaluations",
            f"  encode          {result.seconds_encode:8.2f} s",
            f"  a step          {result.seconds_step:8.4f} s, median of {result.timed_steps}; "
            f"{100 * result.computed_besides_network:.1f} % of it besides the network",
            f"  finish          {result.seconds_frame:8.4f} s a frame",
            f"  peak memory     {result.peak:8.3f} GiB, {result.besides_latents:.3f} GiB besides the latents",
            f"  whole edit      {duration(result.computed_seconds)}, computed from {result.timed_steps} "
            f"of {result.steps} steps",
        ]
    )
