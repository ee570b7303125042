"""Settings that suit a model, for whatever a user leaves open."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from csd_core.baselines import SamplingConfig
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine.config import EditConfig

NUM_DECAYS = 10
"""Decays of the step size in a whole edit, as in 200 steps with one every 20 (appendix B)."""


@dataclass(frozen=True)
class Preset:
    """What is good for one model and one kind of input."""

    edit: EditConfig
    """Settings of the method. num_steps and lr_decay_every are set from the two that follow."""
    updates: float
    """How often each pixel is moved at least, in an image of many windows or a video of many frames."""
    least_steps: int
    """Optimisation steps at least."""
    stride: int = 16
    """Latent pixels from window to window: a quarter of a window."""
    fade: int = 0
    """Latent pixels over which a window's step fades out, at strides up to a quarter of a window."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Settings of the methods that sample by diffusers' pipeline."""

    def with_edit(self, **given: Any) -> EditConfig:
        """The settings of the method, with those given that are not None."""
        return replace(self.edit, **_not_none(given))

    def with_sampling(self, **given: Any) -> SamplingConfig:
        """The settings of sampling, with those given that are not None."""
        return replace(self.sampling, **_not_none(given))


def _not_none(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


class Rounds(Protocol):
    """What is drawn in rounds, in each of which every particle is drawn once."""

    steps_per_round: int

    def steps_for(self, updates: float) -> int:
        """Steps in which every pixel is expected to move that often."""
        ...


def scheduled(edit: EditConfig, rounds: Rounds, preset: Preset, num_steps: int | None) -> EditConfig:
    """The settings with their number of steps and NUM_DECAYS decays, evenly spread.

    By default whole rounds, in each of which every particle is drawn once.
    """
    a_round = rounds.steps_per_round
    least = max(preset.least_steps, rounds.steps_for(preset.updates))
    steps = num_steps or a_round * math.ceil(least / a_round)
    return replace(edit, num_steps=steps, lr_decay_every=max(1, round(steps / NUM_DECAYS)))


# 14 updates: what 200 steps of 4 windows are on the paper's largest image, 3968 x 4352 (table 8)
PANORAMA = Preset(EditConfig(learning_rate=2.0, batch_size=4), updates=14, least_steps=200)
"""Appendix B.1."""

PANORAMA_MINI = Preset(
    EditConfig(learning_rate=5.0, lr_decay=0.8, batch_size=4, guidance_scale=1.5, image_guidance_scale=1.2),
    updates=14,
    least_steps=20,
    stride=8,
    fade=8,
    sampling=SamplingConfig(num_inference_steps=6, guidance_scale=1.5, image_guidance_scale=1.2),
)
"""The editor that ships with the package; sampling as in its model card."""


def panorama_preset(denoiser: InstructPix2Pix) -> Preset:
    """The settings that suit a model."""
    return PANORAMA_MINI if denoiser.language else PANORAMA


# 66 updates: what 200 steps of 8 frames are for the 24 frames of the paper
VIDEO = Preset(EditConfig(learning_rate=0.5, batch_size=8), updates=66, least_steps=200)
"""Appendix B.2."""

VIDEO_MINI = Preset(
    EditConfig(learning_rate=10.0, lr_decay=0.8, batch_size=8, guidance_scale=1.5, image_guidance_scale=1.2),
    updates=12,
    least_steps=16,
    sampling=PANORAMA_MINI.sampling,
)
"""The editor that ships with the package."""


def video_preset(denoiser: InstructPix2Pix) -> Preset:
    """The settings that suit a model."""
    return VIDEO_MINI if denoiser.language else VIDEO
