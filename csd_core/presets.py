"""Settings that suit a model, for whatever a user leaves open."""

from dataclasses import dataclass, field, replace
from typing import Any

from csd_core.baselines import SamplingConfig
from csd_core.config import EditConfig
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix


@dataclass(frozen=True)
class Preset:
    """What is good for one model and one kind of input."""

    edit: EditConfig
    """Settings of the method. num_steps and lr_decay_every are set from the two that follow."""
    updates: float
    """How often each pixel is moved at least, on a canvas of many windows."""
    least_steps: int
    """Optimisation steps at least."""
    stride: int = 16
    """Latent pixels from window to window: a quarter of a window."""
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


# 14 updates: what 200 steps of 4 windows are on the paper's largest image, 3968 x 4352 (table 8)
PANORAMA = Preset(EditConfig(learning_rate=2.0, batch_size=4), updates=14, least_steps=200)
"""Appendix B.1."""

PANORAMA_MINI = Preset(
    EditConfig(learning_rate=4.0, lr_decay=0.8, batch_size=4, guidance_scale=1.5, image_guidance_scale=1.2),
    updates=14,
    least_steps=20,
    stride=8,
    sampling=SamplingConfig(num_inference_steps=6, guidance_scale=1.5, image_guidance_scale=1.2),
)
"""The editor that ships with the package; sampling as in its model card."""


def panorama_preset(denoiser: InstructPix2Pix) -> Preset:
    """The settings that suit a model."""
    return PANORAMA_MINI if denoiser.language else PANORAMA
