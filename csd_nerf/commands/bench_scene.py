"""What a round of edits costs beside the training of the scene: the part `scene` of csd-bench.

The scene is the demo's, the settings are those of csd-nerf2nerf-tiny. A round is timed whole (renders,
encoding, steps, decoding, files), in turn with steps of training.
"""

import copy
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from nerfstudio.engine.callbacks import TrainingCallbackLocation

from csd_core.bench.config import BenchConfig
from csd_core.bench.timing import Timings, timer
from csd_nerf.commands.demo_scene import write_demo_scene
from csd_nerf.console import choose_lines
from csd_nerf.csd_config import csd_nerf2nerf_tiny
from csd_nerf.csd_trainer import CSDTrainer
from csd_nerf.editing.progress import RunProgress
from csd_nerf.editing.rounds import Rounds

STEPS_BETWEEN = 2000
"""Steps of training between two rounds, as in the paper."""
PROMPT = "make it night"
_SPARE = 2
"""Views beyond those of a round: nerfstudio holds one in ten out of training."""
_STEPS = 12
"""Steps of training timed together: every sixth also trains the proposal networks, after their warm-up."""
_FIRST = 1000
"""The step at which training starts: past all schedules of the proposal networks."""


def bench_scene(config: BenchConfig) -> dict[str, Any]:
    """Measure and print it."""
    print(f"measuring a round of edits on {config.device.type} ...", file=sys.stderr, flush=True)
    views, size, edit_steps = (4, 32, 2) if config.quick else (16, 128, None)
    figures = measure_scene(config.device, config.rounds, views=views, size=size, edit_steps=edit_steps)
    print(format_scene(figures), flush=True)
    return figures


def measure_scene(
    device: torch.device, rounds: int, *, views: int, size: int, edit_steps: int | None = None
) -> dict[str, Any]:
    """Time steps of training and rounds of edits in turn; the figures, in seconds.

    Args:
        device: of scene and editor.
        rounds: rounds of edits.
        views: views of a round.
        size: pixels of their side.
        edit_steps: steps of an edit. Default: the preset's.
    """
    timings = Timings()
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(Path(folder), device, views, size, edit_steps)
        datamanager, edits = trainer.datamanager, Rounds(Path(folder) / "edits")
        choose_lines(ours=False, nerfstudios=False)  # the trainer has chosen others
        datamanager._load_denoiser()
        step = _train(trainer, _FIRST, _STEPS)  # the first are slow
        for _ in range(rounds):
            start = timer()
            step = _train(trainer, step, _STEPS)
            trained = timer()
            datamanager.run_round(step, trainer.model, edits, _RoundTimer(timings))
            timings.seconds["step"].append((trained - start) / _STEPS)
            timings.seconds["round"].append(timer() - trained)
    choose_lines(nerfstudios=True)
    settings = datamanager.config
    return {
        "device": device.type,
        "views": views,
        "size": size,
        "edit_steps": settings.edit.num_steps,
        "rays": settings.train_num_rays_per_batch,
        "rounds": rounds,
        "seconds": {name: timings.median(name) for name in timings.seconds},
        "ratio": timings.ratio("round", "step") / STEPS_BETWEEN,
    }


def format_scene(figures: dict[str, Any]) -> str:
    """The figures as two lines of text."""
    seconds, size = figures["seconds"], figures["size"]
    other = seconds["round"] - seconds["rendering"] - seconds["editing"]
    return (
        f"\na round of {figures['views']} views of {size} x {size} over {STEPS_BETWEEN} steps of training, "
        f"{figures['device']}, {figures['edit_steps']} steps of the edit, {figures['rays']} rays a step of "
        f"training, median of {figures['rounds']}\n"
        f"  seconds         {figures['ratio']:6.3f}   {seconds['round']:.1f} s (renders "
        f"{seconds['rendering']:.1f}, edit {seconds['editing']:.1f}, files and the rest {other:.1f}) "
        f"over {STEPS_BETWEEN} x {seconds['step']:.4f} s"
    )


def _trainer(folder: Path, device: torch.device, views: int, size: int, steps: int | None) -> CSDTrainer:
    config: Any = copy.deepcopy(csd_nerf2nerf_tiny.config)
    datamanager = config.pipeline.datamanager
    datamanager.data = write_demo_scene(folder / "scene", num_views=views + _SPARE, size=size)
    datamanager.prompt, datamanager.edit.batch_size = PROMPT, views
    datamanager.edit.num_steps = steps or datamanager.edit.num_steps
    config.output_dir, config.vis, config.machine.device_type = folder / "runs", "none", device.type
    config.base_steps = config.max_num_iterations = 10**6  # rounds are started below
    config.set_timestamp()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def _train(trainer: CSDTrainer, first: int, count: int) -> int:
    """Steps of training as nerfstudio's loop takes them; returns the next step."""
    for step in range(first, first + count):
        trainer.pipeline.train()
        _call_back(trainer, step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        trainer.train_iteration(step)
        _call_back(trainer, step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
    return first + count


def _call_back(trainer: CSDTrainer, step: int, where: TrainingCallbackLocation) -> None:
    for callback in trainer.callbacks:
        callback.run_callback_at_location(step, location=where)


class _RoundTimer(RunProgress):
    """Notes the seconds of each part of a round, and shows nothing."""

    def __init__(self, timings: Timings) -> None:
        self._timings = timings

    @contextmanager
    def round(self, number: int) -> Iterator[None]:
        del number
        yield

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        del total
        start = timer()
        yield lambda count: None
        self._timings.seconds[name].append(timer() - start)
