"""Small images and videos, and edits of them in a few steps."""

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from csd_core.canvas.panorama import Panorama
from csd_core.canvas.video import VideoEdit
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine.config import MethodConfig
from csd_core.io.arrays import ArrayClip
from csd_core.presets import Preset, Presets

SIZE = (45, 61)
QUICK: Presets = {
    "panorama": Preset(
        learning_rate=2.0, batch_size=4, guidance_scale=3.0, updates=1, least_steps=4, stride=4
    ),
    "video": Preset(learning_rate=0.5, batch_size=4, guidance_scale=3.0, updates=2, least_steps=3),
}


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """A smooth random image (1, 3, height, width)."""
    coarse = torch.rand(1, 3, height // 8 + 2, width // 8 + 2, generator=torch.Generator().manual_seed(seed))
    size = (height, width)
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=True)


def moving(count: int = 6, size: tuple[int, int] = SIZE, seed: int = 0) -> list[np.ndarray]:
    """Frames cut one after the other, 3 pixels apart, from blurred noise."""
    height, width = size
    wide = np.random.default_rng(seed).integers(0, 256, (height, width + 3 * count, 3), np.uint8)
    wide = cv2.blur(wide, (5, 5))
    return [wide[:, 3 * k : 3 * k + width].copy() for k in range(count)]


def panorama(
    denoiser: InstructPix2Pix,
    image: Tensor | None = None,
    prompt: str | None = "red",
    given: dict[str, Any] | None = None,
    **how: Any,
) -> Panorama:
    """given: settings of MethodConfig."""
    preset, image = QUICK["panorama"], picture(40, 60) if image is None else image
    config = MethodConfig.from_preset(preset, **given or {})
    return Panorama(denoiser, image, prompt, config, preset=preset, **how)


def video(
    denoiser: InstructPix2Pix,
    clip: Any = None,
    prompt: str = "red",
    given: dict[str, Any] | None = None,
    **how: Any,
) -> VideoEdit:
    """As panorama. clip: frames, or any Clip."""
    preset, clip = QUICK["video"], moving() if clip is None else clip
    clip = ArrayClip(clip) if isinstance(clip, list) else clip
    return VideoEdit(
        denoiser, clip, prompt, MethodConfig.from_preset(preset, **given or {}), preset=preset, **how
    )
