"""Models of the tests, loaded as users load them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from csd_core.denoisers.families import load_denoiser
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix


def load(folder: Path | str, **options: Any) -> InstructPix2Pix:
    """A model of InstructPix2Pix, by default in float32 on the CPU."""
    model = load_denoiser(str(folder), **{"torch_dtype": torch.float32, "device": "cpu", **options})
    assert isinstance(model, InstructPix2Pix)
    return model


@contextmanager
def loaded_once_by_commands() -> Iterator[None]:
    """Inside the block the editing commands of this process load each model once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("csd_core.cli.run.load_denoiser", cache(load_denoiser))
        yield
