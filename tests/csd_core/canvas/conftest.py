from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from tests.models import load


@pytest.fixture(scope="package")
def denoiser(tiny_epsilon: Path) -> InstructPix2Pix:
    return load(tiny_epsilon)


@pytest.fixture(scope="package")
def mini() -> InstructPix2Pix:
    return load("mini")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
