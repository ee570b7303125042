"""What the edit of a video costs, by its length: memory must not grow, except by the latents."""

import sys
from functools import partial
from itertools import islice
from typing import Any

from torch import Tensor

from csd_core.bench import models
from csd_core.bench.config import BenchConfig, Size
from csd_core.bench.edits import video_edit
from csd_core.bench.steps import measure_edit
from csd_core.canvas.video import VideoEdit

SIZE: Size = (960, 540)
FINISHED = 32
"""Frames that are decoded, where there are more."""


def bench_videos(config: BenchConfig) -> dict[str, Any]:
    """Measure and print each length, and the memory of the longest over that of the shortest."""
    model, costs = models.load_model("mini", config.device), []
    for frames in sorted(config.frames):
        print(f"measuring a video of {frames} frames ...", file=sys.stderr, flush=True)
        prepare = partial(video_edit, model, frames, SIZE)
        cost, edit = measure_edit(model, prepare, _finish, config.timed_steps)
        height, width = edit.size
        print(f"\nvideo of {frames} frames, edited at {width} x {height}, {model}\n{cost}", flush=True)
        costs.append(cost)
    ratio = costs[-1].besides_latents / costs[0].besides_latents
    print(f"\nmemory besides the latents, most frames over fewest: {ratio:.3f}", flush=True)
    return {"model": str(model), "lengths": [cost.figures() for cost in costs], "memory_ratio": ratio}


def _finish(edit: VideoEdit, source: Tensor) -> float:
    return sum(1 for _ in islice(edit.finish(source), FINISHED)) / edit.num_particles
