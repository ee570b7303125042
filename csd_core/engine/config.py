"""The settings of an edit."""

import math
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, Self

import tyro

from csd_core.denoisers.base import ChunkSize, Guidance, check_chunk_size
from csd_core.errors import expect
from csd_core.method.svgd import KernelConfig
from csd_core.presets import Preset

FORMER_CHUNK_SIZE = "--pipeline.datamanager.edit.max-batch"
"""The former name of chunk_size in ns-train; goes with the next version."""
NUM_DECAYS = 10
"""Decays of the learning rate in a whole edit, as in 200 steps with one every 20 (appendix B)."""


@dataclass
class MethodConfig:
    """Settings of the method, the same for every kind of input."""

    guidance_scale: float = 7.5
    """Text guidance (omega_y): how strongly the instruction is followed. 3 to 15."""
    image_guidance_scale: float = 1.5
    """Image guidance (omega_s): how closely the source is kept. 1.5 to 5."""
    learning_rate: float = 2.0
    """Step size at the start. 2 for panoramas, 0.25 to 2 for videos; high values undo agreement."""
    lr_decay: float = 0.9
    """Factor on the learning rate at each of its decays."""
    batch_size: int = 16
    """Particles that exchange gradients in one step (B)."""
    t_range: tuple[float, float] = (0.2, 0.5)
    """Timesteps are sampled from this part of Stable Diffusion's schedule; 0 is clean, 1 is pure noise. Other
    schedules take the timesteps of the same signal-to-noise ratio."""
    baseline: Literal["image", "noise", "prompt"] = "image"
    """What is subtracted from the prediction: image (Eq. 9), noise (Eq. 8), prompt (DDS, appendix A)."""
    source_prompt: str = ""
    """What the source shows; for baseline prompt."""
    mixing: bool = True
    """Whether particles exchange gradients. Off: each is edited independently ("without SVGD")."""
    bandwidth_factor: float = 1.0
    """Factor on the kernel's bandwidth. 3 makes particles agree more, and removes details of single ones."""
    repulsion: float = 1.0
    """Weight of the kernel's gradient, which keeps particles apart."""
    shared_noise: bool = False
    """All particles of a step share one noise. They agree more."""
    noise_pool: int = 8
    """Number M of (timestep, noise) pairs that are sampled at the start and reused, so that the source's
    predictions are computed once per pair. 0, or fewer than 2 M updates of a particle: a new pair in every
    step."""
    negative_prompt: str = ""
    """What the result should not be; takes the place of the empty prompt in target and baseline."""
    chunk_size: Annotated[ChunkSize, tyro.conf.arg(aliases=(FORMER_CHUNK_SIZE,))] = 16
    """Evaluations of the network at a time; auto: as many as fit. Sets the memory, not the result."""
    seed: int = 0
    """Seed of noise, timesteps and batches."""

    @classmethod
    def from_preset(cls, preset: Preset, **given: Any) -> Self:
        """The settings of a preset, with those given that are not None."""
        named = {field.name for field in fields(cls)}
        suits = {name: value for name, value in vars(preset).items() if name in named}
        return cls(**{**suits, **{name: value for name, value in given.items() if value is not None}})

    def check(self) -> None:
        """Raise a UserError that names the first setting out of range."""
        low, high = self.t_range
        positive = ("learning_rate", "lr_decay", "bandwidth_factor")
        expect(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        check_chunk_size(self.chunk_size)
        for name in (*positive, "guidance_scale", "image_guidance_scale", "repulsion"):
            expect(math.isfinite(getattr(self, name)), name, "a finite number", getattr(self, name))
        for name in positive:
            expect(getattr(self, name) > 0, name, "more than 0", getattr(self, name))
        expect(self.noise_pool >= 0, "noise_pool", "0 (a new pair in every step) or more", self.noise_pool)
        expect(0 <= low < high <= 1, "t_range", "0 <= low < high <= 1", self.t_range)
        expect(self.seed >= 0, "seed", "0 or more", self.seed)
        baselines = ("image", "noise", "prompt")
        expect(self.baseline in baselines, "baseline", f"one of {', '.join(baselines)}", self.baseline)
        described = bool(self.source_prompt.strip()) or self.baseline != "prompt"
        expect(described, "source_prompt", "what the source shows, for baseline prompt", "nothing")

    @property
    def kernel(self) -> KernelConfig | None:
        """The kernel of these settings; None without mixing."""
        return KernelConfig(None, self.bandwidth_factor, self.repulsion) if self.mixing else None

    @property
    def guidance(self) -> Guidance:
        """How strongly predictions follow text and image."""
        return Guidance(self.guidance_scale, self.image_guidance_scale, self.negative_prompt)

    def in_steps(self, num_steps: int) -> "EditConfig":
        """These settings over so many steps, with NUM_DECAYS evenly spread decays."""
        every = max(1, round(num_steps / NUM_DECAYS))
        mine = {field.name: getattr(self, field.name) for field in fields(MethodConfig)}
        return EditConfig(**mine, num_steps=num_steps, lr_decay_every=every)


@dataclass
class EditConfig(MethodConfig):
    """Settings of an edit whose number of steps is fixed."""

    num_steps: int = 200
    """Optimisation steps."""
    lr_decay_every: int = 20
    """Steps between two decays of the learning rate."""

    def check(self) -> None:
        """See MethodConfig.check."""
        for name in ("num_steps", "lr_decay_every"):
            expect(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        super().check()

    def learning_rate_at(self, step: int) -> float:
        """Step size of a step, counted from 0."""
        return self.learning_rate * self.lr_decay ** (step // self.lr_decay_every)
