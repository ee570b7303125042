"""What a round of edits costs beside the training of the scene: the part `scene` of csd-bench.

The scene is the demo's, the settings are those of csd-nerf2nerf-tiny. A round is timed whole (renders,
encoding, steps, decoding, files), in turn with steps of training.
"""

import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from nerfstudio.engine.callbacks import TrainingCallbackLocation

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
"""Views beyond those of a round, for nerfstudio holds one in ten out of training."""
_BLOCK = 6
"""Steps timed together: once in six the proposal networks learn, after their warm-up."""
_BEGINS = 1000
"""The step that the schedules of the proposal networks believe in: past all of them."""


class Amounts(Protocol):
    """What the settings of csd-bench say to this part."""

    @property
    def device(self) -> torch.device: ...
    @property
    def rounds(self) -> int: ...
    @property
    def quick(self) -> bool: ...


@dataclass(frozen=True)
class SceneResult:
    """Medians over the rounds, in seconds."""

    device: str
    views: int
    size: int
    """Pixels of a view's side."""
    edit_steps: int
    rays: int
    """Of a step of training."""
    rounds: int
    round_seconds: float
    render_seconds: float
    """Of a round: the renders of its views."""
    edit_seconds: float
    """Of a round: encoding, steps, decoding."""
    step_seconds: float
    ratio: float
    """A round over STEPS_BETWEEN steps, the median of the rounds' ratios."""


def bench_scene(config: Amounts) -> dict[str, Any]:
    """Measure and print it."""
    print(f"measuring a round of edits on {config.device.type} ...", file=sys.stderr, flush=True)
    views, size, steps = (4, 32, 2) if config.quick else (16, 128, None)
    result = measure_scene(config.device, config.rounds, views=views, size=size, edit_steps=steps)
    print(format_scene(result), flush=True)
    return asdict(result)


def measure_scene(
    device: torch.device, rounds: int, *, views: int, size: int, edit_steps: int | None = None
) -> SceneResult:
    """Time steps of training and rounds of edits in turn.

    Args:
        device: of scene and editor.
        rounds: rounds of edits.
        views: views of a round.
        size: pixels of their side.
        edit_steps: steps of an edit. Default: the preset's.
    """
    with tempfile.TemporaryDirectory() as folder, _without_a_word():
        trainer = _trainer(Path(folder), device, views, size, edit_steps)
        progress, edits = _Stopwatch(), Rounds(Path(folder) / "edits")
        trainer.datamanager._load_denoiser()
        step = _train(trainer, _BEGINS, 2 * _BLOCK)  # the first are slow
        times: dict[str, list[float]] = {"step": [], "round": [], "rendering": [], "editing": []}
        for _ in range(rounds):
            began = _now(device)
            step = _train(trainer, step, 2 * _BLOCK)
            between = _now(device)
            trainer.datamanager.run_round(step, trainer.model, edits, progress)
            times["step"].append((between - began) / (2 * _BLOCK))
            times["round"].append(_now(device) - between)
            for part, seconds in progress.seconds.items():
                times[part].append(seconds)
    median = {name: statistics.median(seconds) for name, seconds in times.items()}
    datamanager = trainer.datamanager.config
    return SceneResult(
        device=device.type,
        views=views,
        size=size,
        edit_steps=datamanager.edit.num_steps,
        rays=datamanager.train_num_rays_per_batch,
        rounds=rounds,
        round_seconds=median["round"],
        render_seconds=median["rendering"],
        edit_seconds=median["editing"],
        step_seconds=median["step"],
        ratio=statistics.median(
            a / (STEPS_BETWEEN * b) for a, b in zip(times["round"], times["step"], strict=True)
        ),
    )


def format_scene(result: SceneResult) -> str:
    """The figures as a few lines of text."""
    other = result.round_seconds - result.render_seconds - result.edit_seconds
    return "\n".join(
        [
            "",
            f"a round of {result.views} views of {result.size} x {result.size} over {STEPS_BETWEEN} steps of "
            f"training, {result.device}, {result.edit_steps} steps of the edit, {result.rays} rays a step of "
            f"training, median of {result.rounds}",
            f"  seconds         {result.ratio:6.3f}   {result.round_seconds:.1f} s (renders "
            f"{result.render_seconds:.1f}, edit {result.edit_seconds:.1f}, files and the rest {other:.1f}) "
            f"over {STEPS_BETWEEN} x {result.step_seconds:.4f} s",
        ]
    )


def _trainer(folder: Path, device: torch.device, views: int, size: int, steps: int | None) -> CSDTrainer:
    config: Any = copy.deepcopy(csd_nerf2nerf_tiny.config)
    datamanager = config.pipeline.datamanager
    datamanager.data = write_demo_scene(folder / "scene", num_views=views + _SPARE, size=size)
    datamanager.prompt, datamanager.edit.batch_size = PROMPT, views
    datamanager.edit.num_steps = steps or datamanager.edit.num_steps
    config.output_dir, config.vis, config.machine.device_type = folder / "runs", "none", device.type
    config.base_steps = config.max_num_iterations = 10**6  # rounds come when they are called for
    config.set_timestamp()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def _train(trainer: CSDTrainer, first: int, count: int) -> int:
    """Steps of training as nerfstudio's loop takes them; the step that comes next."""
    for step in range(first, first + count):
        trainer.pipeline.train()
        _call_back(trainer, step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        trainer.train_iteration(step)
        _call_back(trainer, step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
    return first + count


def _call_back(trainer: CSDTrainer, step: int, where: TrainingCallbackLocation) -> None:
    for callback in trainer.callbacks:
        callback.run_callback_at_location(step, location=where)


class _Stopwatch(RunProgress):
    """Notes what the parts of a round take, and shows nothing."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def round(self, number: int) -> Iterator[None]:
        del number
        yield

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        del total
        began = time.perf_counter()
        yield lambda count: None
        self.seconds[name] = time.perf_counter() - began


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def _without_a_word() -> Iterator[None]:
    choose_lines(ours=False, nerfstudios=False)
    try:
        yield
    finally:
        choose_lines(nerfstudios=True)
