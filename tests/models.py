"""Models of the tests, loaded as users load them."""

from pathlib import Path
from typing import Any

import torch

from csd_core.denoisers.families import load_denoiser
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix


def load(folder: Path | str, **options: Any) -> InstructPix2Pix:
    """A model of InstructPix2Pix, by default in float32 on the CPU."""
    model = load_denoiser(str(folder), **{"torch_dtype": torch.float32, "device": "cpu", **options})
    assert isinstance(model, InstructPix2Pix)
    return model
