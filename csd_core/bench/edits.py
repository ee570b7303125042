"""A short edit that is timed whole, so that what is saved later pays for what is spent earlier."""

from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from csd_core.bench.bare import Recorder
from csd_core.bench.options import BenchConfig
from csd_core.bench.timing import Contender
from csd_core.bench.workloads import PROMPT, WORKLOADS, ModelName, Setup, Workload, seeded
from csd_core.canvas.video import Frames
from csd_core.engine.config import EditConfig
from csd_core.engine.loop import edit_latents
from csd_core.engine.ranks import ALONE, Ranks
from csd_core.presets import VIDEO_MINI, scheduled


def short_edit(config: BenchConfig, model: ModelName, setup: Setup) -> "ShortEdit":
    """An edit with the settings and as many steps as a short video has with the shipped editor."""
    edit = VIDEO_MINI.with_edit(
        batch_size=config.particles,
        max_batch=config.max_batch,
        learning_rate=1.0,  # which costs nothing: an edit by random weights must not run away
    )
    edit = scheduled(edit, Frames(config.particles, config.particles), VIDEO_MINI, config.steps)
    pool = min(setup.noise_pool, edit.num_steps // 2)  # of which each comes back
    setup = replace(setup, noise_pool=pool)
    return ShortEdit(WORKLOADS[model](config.device, setup), replace(edit, noise_pool=pool))


@dataclass(frozen=True)
class ShortEdit:
    """An edit of random latents, all of them in every step."""

    workload: Workload
    config: EditConfig

    @cached_property
    def latents(self) -> Tensor:
        """Source, image condition and start (N, C, h, w)."""
        shape = self.config.batch_size, self.workload.denoiser.latent_channels, *self.workload.size
        return seeded(0, shape, self.workload.device)

    @cached_property
    def recorder(self) -> Recorder:
        """What the network was asked for when the edit was run last."""
        return Recorder(self.workload.unet)

    @property
    def particle_steps(self) -> int:
        """Steps times particles."""
        return self.config.num_steps * self.config.batch_size

    def run(self, stop_after: int | None = None, ranks: Ranks = ALONE) -> Tensor:
        """The edited latents.

        stop_after: steps after which to end.
        ranks: share it.
        """
        x = self.latents
        with self.recorder.recording():
            return edit_latents(
                self.workload.denoiser,
                x,
                x,
                x,
                PROMPT,
                self.config,
                callback=lambda step, _: step + 1 == stop_after,
                ranks=ranks,
            )

    def warm_up(self) -> None:
        """Two steps: whatever is compiled or looked up once for all."""
        self.run(stop_after=2)

    @property
    def ours(self) -> Contender:
        """The engine."""
        return Contender(self.run, self.particle_steps)

    @property
    def bare(self) -> Contender:
        """The network alone, on what the engine asked it for."""
        return Contender(self.recorder.replay, self.particle_steps)

    def describe(self, rounds: int) -> str:
        """Model and settings, as the rest of a line and another."""
        (height, width), edit = self.workload.size, self.config
        return (
            f"{self.workload.name}: {self.workload.device.type}\n"
            f"  {edit.batch_size} particles, {edit.num_steps} steps, latents {height} x {width}, "
            f"{edit.max_batch} evaluations at a time, median of {rounds} rounds"
        )
