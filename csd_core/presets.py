"""Settings that suit a model and a kind of input; users override them one by one."""

from collections.abc import Mapping
from dataclasses import dataclass

from csd_core.choices import Kind


@dataclass(frozen=True)
class Preset:
    """What suits one model and one kind of input."""

    learning_rate: float
    """Step size at the start."""
    batch_size: int
    """Particles that exchange gradients in one step (B)."""
    updates: float
    """How often each pixel moves at least, in an image of many windows or a video of many frames."""
    least_steps: int
    """Optimisation steps at least."""
    lr_decay: float = 0.9
    """Factor on the learning rate at each of its ten decays."""
    guidance_scale: float = 7.5
    """Text guidance (omega_y)."""
    image_guidance_scale: float = 1.5
    """Image guidance (omega_s)."""
    num_inference_steps: int = 100
    """Denoising steps of the methods that sample (baselines.py)."""
    stride: int = 16
    """Latent pixels from window to window: a quarter of a window."""
    fade: int = 0
    """Latent pixels over which a window's step fades out, at strides up to a quarter of a window."""


Presets = Mapping[Kind, Preset]

INSTRUCT_PIX2PIX: Presets = {
    # 14 updates: 200 steps of 4 windows on the paper's largest image, 3968 x 4352 (table 8)
    "panorama": Preset(learning_rate=2.0, batch_size=4, updates=14, least_steps=200),
    # 66 updates: 200 steps of 8 frames for the 24 frames of the paper
    "video": Preset(learning_rate=0.5, batch_size=8, updates=66, least_steps=200),
}
"""Appendix B.1 and B.2."""

MINI: Presets = {
    "panorama": Preset(
        learning_rate=5.0,
        lr_decay=0.8,
        batch_size=4,
        updates=14,
        least_steps=20,
        stride=8,
        fade=8,
        num_inference_steps=6,
        guidance_scale=1.5,
        image_guidance_scale=1.2,
    ),
    "video": Preset(
        learning_rate=10.0,
        lr_decay=0.8,
        batch_size=8,
        updates=12,
        least_steps=16,
        num_inference_steps=6,
        guidance_scale=1.5,
        image_guidance_scale=1.2,
    ),
}
"""The editor that ships with the package; sampling as in its model card."""
