"""The shipped editor on windows of 8 x 8 latents, which are quicker, wherever the benchmark loads it."""

from typing import Any, cast

import pytest
import torch

from csd_core.bench import models
from csd_core.bench.config import QUICK, BenchConfig, ModelName
from csd_core.bench.models import Setup, TimedModel
from csd_core.presets import Preset

load_model = models.load_model
PRESET = Preset(learning_rate=5.0, batch_size=3, updates=1, least_steps=4, stride=4, num_inference_steps=3)


def small_model(name: ModelName, device: torch.device, setup: Setup | None = None) -> TimedModel:
    assert name == "mini"
    model = load_model(name, device, setup)
    denoiser, vae, unet = model.denoiser, model.denoiser.vae, cast(Any, model.unet)
    unet.register_to_config(sample_size=8)
    denoiser.native_size, denoiser.presets = 32, {"panorama": PRESET, "video": PRESET}
    vae.tile_above, vae.tile_size, vae.tile_overlap = 64, 48, 16
    return model


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small editor in place of the shipped one."""
    monkeypatch.setattr(models, "load_model", small_model)


@pytest.fixture(scope="session")
def model() -> TimedModel:
    return small_model("mini", torch.device("cpu"), Setup(channels_last=True))


@pytest.fixture
def batches(model: TimedModel):
    """The batch size of each evaluation of the network of `model`, as it happens."""
    sizes: list[int] = []
    handle = model.unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    yield sizes
    handle.remove()


@pytest.fixture
def config() -> BenchConfig:
    """Little of everything."""
    return BenchConfig(torch.device("cpu"), **{**QUICK, "steps": 4, "sizes": ((70, 50),)})
