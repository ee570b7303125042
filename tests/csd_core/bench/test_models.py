import pytest
import torch

from csd_core.bench import models
from csd_core.bench.chip import count_flops
from csd_core.bench.models import Setup, default_setup, speedups
from csd_core.denoisers.runtime.device import default_dtype
from csd_core.errors import UserError
from tests.csd_core.bench.conftest import load_model

CPU = torch.device("cpu")


def test_stable_diffusions_size_is_860_million_parameters_and_803_gflop():
    model = load_model("sd15", torch.device("meta"), Setup())
    # 859,520,964 of Stable Diffusion 1.5, and 4 more input channels of its first 3 x 3 convolution.
    assert sum(p.numel() for p in model.unet.parameters()) == 859_520_964 + 4 * 3 * 3 * 320
    assert (model.denoiser.downscale, model.latent_shape) == (8, (4, 64, 64))
    x, t, text = (torch.empty(shape, device="meta") for shape in ((1, 8, 64, 64), (1,), (1, 77, 768)))
    with torch.no_grad():
        flops = count_flops(lambda: model.unet(x, t, encoder_hidden_states=text))
    assert flops == pytest.approx(803e9, rel=0.005)


def test_the_default_is_what_the_commands_do():
    assert default_setup(CPU).dtype == default_dtype(CPU)
    assert not default_setup(CPU).compile


def test_a_speed_up_that_the_device_lacks_has_a_reason(monkeypatch):
    def absent(_):
        raise UserError("compile: expected a compiler")

    monkeypatch.setattr(models, "check_compiler", absent)
    monkeypatch.setattr(models, "default_dtype", lambda _: torch.float32)
    found = speedups(CPU)
    assert found["compile"] == "compile: expected a compiler"
    assert found["precision"] == "float32 is the fastest here"
    assert found["channels-last"] == {"channels_last": True}
