"""The shipped editor on windows of 8 x 8 latents, which are quicker, wherever the benchmark asks for it."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from csd_core.bench import options, workloads
from csd_core.bench.options import BenchConfig, BenchOptions
from csd_core.bench.workloads import Setup, Workload

CPU = torch.device("cpu")


def small_workload(device: torch.device, setup: Setup | None = None) -> Workload:
    torch.manual_seed(0)  # missing weights are random, made by libraries that know no generator
    made = workloads.mini_workload(device, setup)
    unet: Any = made.unet
    unet.register_to_config(sample_size=8)
    denoiser = made.denoiser
    denoiser.native_size, denoiser.tile_above = 32, 64
    denoiser.tile_size, denoiser.tile_overlap = 48, 16
    return replace(made, size=(8, 8))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small editor in place of the shipped one, and images as small as its windows."""
    monkeypatch.setitem(workloads.WORKLOADS, "mini", small_workload)
    monkeypatch.setattr(options, "LEAST_SIDE", 32)


@pytest.fixture(scope="session")
def workload() -> Workload:
    return small_workload(CPU, Setup(channels_last=True))


@pytest.fixture
def batches(workload: Workload):
    """The batch size of each evaluation of the network of `workload`, as it happens."""
    sizes: list[int] = []
    handle = workload.unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    yield sizes
    handle.remove()


@pytest.fixture
def config() -> BenchConfig:
    """Little of everything."""
    return BenchOptions(quick=True, device="cpu", sizes=("70x50",), compare_sizes=()).settled()
