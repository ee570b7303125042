"""Base training, then editing, in one command; and how a run is resumed from a checkpoint.

A step belongs to base training while step < base_steps. Rounds of edits come before the steps base_steps,
base_steps + edit_interval, ... A checkpoint holds the next step: it can lie between a round and that step.
"""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import Trainer, TrainerConfig

from csd_core.command import end_now, print_once, warnings_as_notes
from csd_core.engine.config import FORMER_CHUNK_SIZE
from csd_core.engine.ranks import ALONE, LostRankError, Ranks
from csd_core.errors import UserError
from csd_core.machine import FreeCores
from csd_nerf.console import CONSOLE, choose_lines
from csd_nerf.csd_datamanager import CSDDataManager
from csd_nerf.csd_model import CSDModel
from csd_nerf.editing.progress import RunProgress
from csd_nerf.editing.rounds import Rounds
from csd_nerf.nerfstudio_compat.launch import data_parallel_anywhere, take_over_launch, without_data_parallel
from csd_nerf.nerfstudio_compat.quiet import silence_others
from csd_nerf.runs.checkpoint import (
    BASE_FOLDER,
    STATE,
    keep_copy,
    random_state,
    read_checkpoint,
    set_random_state,
    write_checkpoint,
)

_CHECK_LOSS_EVERY = 10  # steps on a GPU, where reading the loss waits for the device


@dataclass
class CSDTrainerConfig(TrainerConfig):
    """nerfstudio's settings, and how long the scene is trained before it is edited."""

    _target: type = field(default_factory=lambda: CSDTrainer)
    base_steps: int = 30000
    """Steps of base training on the photos; max_num_iterations counts them too. Skipped with --load-dir of a
    nerfacto run."""
    verbose: bool = False
    """Print nerfstudio's own lines: the whole configuration, folders, writers."""

    def set_timestamp(self) -> None:
        """Name the run and check everything: ns-train calls this before it prints or writes anything."""
        super().set_timestamp()
        from csd_nerf.runs.checks import prepare

        choose_lines(nerfstudios=self.verbose)
        if any(word.replace("_", "-").startswith(FORMER_CHUNK_SIZE) for word in sys.argv):
            new = FORMER_CHUNK_SIZE.replace("max-batch", "chunk-size")
            CONSOLE.print(
                f"note: {FORMER_CHUNK_SIZE} is now called {new}; the old name goes with the next version"
            )
        with plain_messages():
            prepare(self)
        if self.machine.num_devices > 1:
            take_over_launch()


class CSDTrainer(Trainer):
    """nerfstudio's trainer with two phases and checkpoints that hold the schedule of edits.

    With --machine.num-devices N there are N of them, each in its process: they sample different rays and
    average their gradients, so the scene is the same on all. Only rank 0 writes and prints.
    """

    config: CSDTrainerConfig
    progress: RunProgress

    def __init__(self, config: CSDTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        self.ranks = ALONE if world_size == 1 else _join(config, local_rank)
        choose_lines(ours=self.ranks.is_main, nerfstudios=config.verbose)
        silence_others()
        super().__init__(config, local_rank, world_size)
        self.editing = False
        self._total_steps = config.max_num_iterations
        self._next_step = 0
        self._random_state: dict[str, Any] | None = None

    @property
    def datamanager(self) -> CSDDataManager:
        """Views and schedule."""
        return cast(CSDDataManager, self.pipeline.datamanager)

    @property
    def model(self) -> CSDModel:
        """The scene."""
        return cast(CSDModel, self.pipeline.model)

    # ---- setting up

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Build everything; load a checkpoint if one is named."""
        with plain_messages(ranks=self.ranks), data_parallel_anywhere():
            super().setup(test_mode)
        before, after = (
            TrainingCallbackLocation.BEFORE_TRAIN_ITERATION,
            TrainingCallbackLocation.AFTER_TRAIN_ITERATION,
        )
        self.callbacks.insert(0, TrainingCallback([before], self._edit_if_due, update_every_num_iters=1))
        self.callbacks.append(TrainingCallback([after], self._step_done, update_every_num_iters=1))
        shares_cores = self.device == "cpu" and self.ranks.is_alone
        self.progress = RunProgress(
            self._next_step,
            self._total_steps,
            self._rounds_left,
            self._phase_of,
            tick=FreeCores().look if shares_cores else lambda: None,
        )

    def setup_optimizers(self) -> Optimizers:
        """New optimisers; without one for the cameras while editing, since their poses would drift."""
        groups = self.pipeline.get_param_groups()
        if self.editing:
            groups.pop("camera_opt", None)
        return Optimizers(self.config.optimizers.copy(), groups)

    def _begin_editing(self) -> None:
        """Reset the optimisers (appendix B.3) and freeze the cameras."""
        self.editing = True
        for parameter in self.model.camera_optimizer.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        self.optimizers = self.setup_optimizers()

    # ---- edits

    def _edit_if_due(self, step: int) -> None:
        if step >= self.config.base_steps and not self.editing:
            self._begin_editing()
        if self.datamanager.is_due(step, self.config.base_steps, self.ranks):
            self._edit(step)

    def _edit(self, step: int) -> None:
        """A round, between two checkpoints: one that fails costs nothing, one that is done is never lost."""
        manager, first = self.datamanager, self.datamanager.rounds_done == 0
        # a checkpoint for each single view would cost more than its edit; a killed run repeats some edits
        with_checkpoints = manager.config.schedule == "rounds"
        if first:
            manager.measure_base(self.model, self.ranks)
        elif with_checkpoints:
            manager.measure_round(self.model, self.ranks)
        if self.ranks.is_main:
            manager.quality.write(self.base_dir)
        if with_checkpoints or first:
            self.save_checkpoint(step)
        if first and step > 0 and self.ranks.is_main:
            keep_copy(self._checkpoint_path(), self.base_dir / BASE_FOLDER)
        manager.run_round(step, self.model, Rounds(self.base_dir / "edits"), self.progress, self.ranks)
        if with_checkpoints:
            self.save_checkpoint(step)

    # ---- training

    def train(self) -> None:
        """Train the remaining steps of max_num_iterations, which counts from the start of the run."""
        left = max(self._total_steps - self._next_step, 0)
        if left == 0:
            CONSOLE.print(f"All {self._total_steps} steps are done; to continue, raise --max-num-iterations.")
        if self._random_state is not None:
            set_random_state(self._random_state)
        self.config.max_num_iterations = left  # nerfstudio's loop takes it as the number of steps to do
        try:
            with plain_messages(self._kept, self.ranks), self.progress:
                super().train()
                if self.datamanager.rounds_done:
                    self.datamanager.measure_round(self.model, self.ranks)
                    if self.ranks.is_main:
                        self.datamanager.quality.write(self.base_dir)
        finally:
            self.config.max_num_iterations = self._total_steps
        CONSOLE.print(f"Done: {self.base_dir / 'config.yml'}")

    def train_iteration(self, step: int) -> Any:
        """One step. A loss that is not finite stops the run."""
        result = super().train_iteration(step)
        watched = self.device == "cpu" or step % _CHECK_LOSS_EVERY == 0
        if watched and not bool(torch.isfinite(result[0])):
            raise FloatingPointError(
                f"training step {step}: the loss is {float(result[0])}; lower the learning rate"
            )
        return result

    def _step_done(self, step: int) -> None:
        self._next_step = step + 1
        self.progress.step_done(step)

    def _phase_of(self, step: int) -> str:
        return "base training" if step < self.config.base_steps else "training on edits"

    def _rounds_left(self, step: int) -> int:
        due = range(self.config.base_steps, self._total_steps, self.datamanager.config.edit_interval)
        return sum(round_step >= step for round_step in due)

    def _kept(self) -> str:
        """What remains after a failure, as a sentence."""
        if not any(self.checkpoint_dir.glob("step-*.ckpt")):
            return ""
        return f" The last good state is kept: continue with --load-dir {self.checkpoint_dir}"

    # ---- checkpoints

    def save_checkpoint(self, step: int) -> None:
        """Save scene and schedule before the next step, under the number of the last one.

        `step` is ignored: nerfstudio's count is one off when a run stops early.
        """
        states = self.ranks.gather(random_state())
        self.ranks.broadcast(lambda: self._write_checkpoint(states))

    def _write_checkpoint(self, random_states: list[dict[str, Any]]) -> None:
        content = {
            "step": max(self._next_step - 1, 0),
            "pipeline": {
                without_data_parallel(key): value for key, value in self.pipeline.state_dict().items()
            },
            "optimizers": {name: value.state_dict() for name, value in self.optimizers.optimizers.items()},
            "schedulers": {name: value.state_dict() for name, value in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
            STATE: {
                "next_step": self._next_step,
                "base_steps": self.config.base_steps,
                "editing": self.editing,
                "steps_before": self.model.steps_before,
                "sampler": self.model.sampler_state(),
                "edit": self.datamanager.edit_state(),
                "random": random_states[0],
                "random_of_others": random_states[1:],
            },
        }
        only_latest = self.config.save_only_latest_checkpoint
        write_checkpoint(content, self._checkpoint_path(), only_latest=only_latest)

    def _checkpoint_path(self) -> Path:
        return self.checkpoint_dir / f"step-{max(self._next_step - 1, 0):09d}.ckpt"

    def _load_checkpoint(self) -> None:
        path = self.config.load_checkpoint
        if path is None:
            return
        checkpoint = read_checkpoint(path)
        try:
            if checkpoint.get(STATE) is None:
                self._take_scene(checkpoint, path)
            else:
                self._resume(checkpoint, path)
        except (UserError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # torch, nerfstudio and we read parts of it
            got = f"one that is damaged or of another version ({type(error).__name__}: {error})"
            raise UserError(f"{path}: expected a whole checkpoint, got {got}; name another") from error

    def _take_scene(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Load the weights of a finished nerfacto run, nothing else."""
        self._load_scene(checkpoint["pipeline"])
        self.model.steps_before = checkpoint["step"] + 1
        CONSOLE.print(f"The scene of {path} was taken, trained for {self.model.steps_before} steps.")

    def _resume(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Continue a run of ours as if it had never stopped."""
        state = checkpoint[STATE]
        self._load_scene(checkpoint["pipeline"])
        if state["editing"]:
            self._begin_editing()
        self.optimizers.load_optimizers(checkpoint["optimizers"])
        self.optimizers.load_schedulers(checkpoint["schedulers"])
        self.grad_scaler.load_state_dict(checkpoint["scalers"])
        self._next_step = self._start_step = state["next_step"]
        self.model.steps_before = state["steps_before"]
        self.model.load_sampler_state(state["sampler"])
        states = [state["random"], *state.get("random_of_others", [])]  # a rank that is new has none
        self._random_state = states[self.ranks.rank] if self.ranks.rank < len(states) else None
        before, now = Rounds(path.parent.parent / "edits"), Rounds(self.base_dir / "edits")
        self.datamanager.load_edit_state(state["edit"], before)
        self.ranks.broadcast(lambda: now.take_over(before, self.datamanager.rounds_done))
        CONSOLE.print(
            f"Continuing from {path}: step {self._next_step} of {self.config.max_num_iterations}, "
            f"{self.datamanager.rounds_done} rounds of edits done."
        )

    def _load_scene(self, weights: dict[str, torch.Tensor]) -> None:
        own = {without_data_parallel(key): key for key in self.pipeline.state_dict()}
        try:
            self.pipeline.load_state_dict({own[key]: value for key, value in weights.items() if key in own})
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(
                f"the checkpoint's scene does not fit: {reason}; give --pipeline.model... as in that run"
            ) from error


def _join(config: CSDTrainerConfig, local_rank: int) -> Ranks:
    """The ranks that nerfstudio has started this process among."""
    if config.machine.device_type == "cuda":
        torch.cuda.set_device(local_rank)  # before any group is made: nccl uses the current device
    return Ranks.joined()


@contextmanager
def plain_messages(kept: Callable[[], str] = lambda: "", ranks: Ranks = ALONE) -> Iterator[None]:
    """Print warnings as lines `note: ...`; errors that a user can fix end the command with one line."""
    try:
        with warnings_as_notes() if ranks.is_main else warnings.catch_warnings(action="ignore"):
            yield
    except UserError as error:
        _stop(f"{error}", 2, ranks, isinstance(error, LostRankError))
    except FloatingPointError as error:
        _stop(f"{error}.{kept()}", 1, ranks)
    except torch.OutOfMemoryError as error:
        less = "lower --pipeline.datamanager.edit.chunk-size, or use csd-nerf2nerf-small"
        _stop(f"out of GPU memory ({error}): {less}.{kept()}", 1, ranks)


def _stop(message: str, code: int, ranks: Ranks, alone: bool = False) -> NoReturn:
    """alone: other ranks may not have had the same error."""
    print_once(f"error: {' '.join(message.split())}", ranks, alone)
    if not ranks.is_alone:
        end_now(code)  # a device may be waiting for a rank that has ended
    raise SystemExit(code)
