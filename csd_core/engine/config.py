"""The settings of an edit."""

import math
from dataclasses import dataclass
from typing import Literal

from csd_core.denoisers.runtime.batching import MaxBatch, check_max_batch
from csd_core.errors import expect
from csd_core.method.svgd import KernelConfig


@dataclass
class EditConfig:
    """Settings of an edit, the same for every command."""

    guidance_scale: float = 7.5
    """Text guidance (omega_y): how strongly the instruction is followed. 3 to 15."""
    image_guidance_scale: float = 1.5
    """Image guidance (omega_s): how closely the source is kept. 1.5 to 5."""
    num_steps: int = 200
    """Optimisation steps."""
    learning_rate: float = 2.0
    """Step size at the start. 2 for panoramas, 0.25 to 2 for videos; high values undo agreement."""
    lr_decay: float = 0.9
    """Factor on the learning rate every lr_decay_every steps."""
    lr_decay_every: int = 20
    """Steps between two decays."""
    batch_size: int = 16
    """Particles that exchange gradients in one step (B)."""
    t_range: tuple[float, float] = (0.2, 0.5)
    """Timesteps are drawn from this part of the schedule; 0 is clean, 1 is pure noise."""
    baseline: Literal["image", "noise", "prompt"] = "image"
    """What is subtracted from the prediction: image (Eq. 9), noise (Eq. 8), prompt (DDS, appendix A)."""
    source_prompt: str = ""
    """What the source shows; for baseline prompt."""
    mixing: bool = True
    """Whether particles exchange gradients. Off: each is edited by itself ("without SVGD")."""
    bandwidth_factor: float = 1.0
    """Widens the kernel. 3 makes particles agree more, at the price of what is particular to each."""
    repulsion: float = 1.0
    """Weight of the force that keeps particles apart."""
    shared_noise: bool = False
    """All particles of a step share one draw of noise. They agree more."""
    noise_pool: int = 8
    """Draw timestep and noise from M pairs fixed at the start, so that the source is evaluated once for each:
    3 + 2 M / updates evaluations of a particle in a step, not 5. 0, or fewer than 2 M updates of a particle:
    drawn anew in every step."""
    negative_prompt: str = ""
    """What the result should not be; takes the place of the empty prompt in target and baseline."""
    max_batch: MaxBatch = 16
    """Evaluations of the model at a time; auto: as many as fit. The result stays the same."""
    seed: int = 0
    """Seed of noise, timesteps and batches."""

    def check(self) -> None:
        """Raise a UserError that names the first setting out of range."""
        low, high = self.t_range
        positive = ("learning_rate", "lr_decay", "bandwidth_factor")
        for name in ("num_steps", "lr_decay_every", "batch_size"):
            expect(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        check_max_batch(self.max_batch)
        for name in (*positive, "guidance_scale", "image_guidance_scale", "repulsion"):
            expect(math.isfinite(getattr(self, name)), name, "a finite number", getattr(self, name))
        for name in positive:
            expect(getattr(self, name) > 0, name, "more than 0", getattr(self, name))
        expect(self.noise_pool >= 0, "noise_pool", "0 (fresh draws) or more", self.noise_pool)
        expect(0 <= low < high <= 1, "t_range", "0 <= low < high <= 1", self.t_range)
        expect(self.seed >= 0, "seed", "0 or more", self.seed)
        baselines = ("image", "noise", "prompt")
        expect(self.baseline in baselines, "baseline", f"one of {', '.join(baselines)}", self.baseline)
        described = bool(self.source_prompt.strip()) or self.baseline != "prompt"
        expect(described, "source_prompt", "what the source shows, for baseline prompt", "nothing")

    def learning_rate_at(self, step: int) -> float:
        """Step size of a step, counted from 0."""
        return self.learning_rate * self.lr_decay ** (step // self.lr_decay_every)

    @property
    def kernel(self) -> KernelConfig | None:
        """The kernel these settings stand for; None without mixing."""
        return KernelConfig(None, self.bandwidth_factor, self.repulsion) if self.mixing else None
