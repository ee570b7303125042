from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from csd_core.baselines import SamplingConfig, ip2p_overlap
from csd_core.denoisers.base import Branch, Conditioning
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine.config import EditConfig
from csd_core.engine.loop import edit_images
from tests.conftest import NATIVE_SIZE
from tests.models import load

CPU = torch.device("cpu")


def images(n: int, width: int = NATIVE_SIZE) -> Tensor:
    return torch.rand(n, 3, NATIVE_SIZE, width, generator=torch.Generator().manual_seed(0))


def test_an_edit_is_the_same(tiny_epsilon: Path) -> None:
    config = EditConfig(num_steps=2, learning_rate=0.1)
    whole = edit_images(load(tiny_epsilon), images(2), "red", config)
    assert torch.equal(edit_images(load(tiny_epsilon, offload=True), images(2), "red", config), whole)


def test_the_usual_ways_are_the_same(tiny_epsilon: Path) -> None:
    config, image = SamplingConfig(num_inference_steps=2, chunk_size=3), images(1, 2 * NATIVE_SIZE)
    whole = ip2p_overlap(load(tiny_epsilon), image, "red", config, stride=4)
    offloaded = ip2p_overlap(load(tiny_epsilon, offload=True), image, "red", config, stride=4)
    torch.testing.assert_close(offloaded, whole, rtol=0, atol=1e-5)


def test_diffusers_pipeline_runs_over_it(tiny_epsilon: Path) -> None:
    def sampled(model: InstructPix2Pix) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        pipeline: Any = model.pipeline()
        return pipeline("red", images(1), num_inference_steps=2, generator=generator, output_type="pt").images

    assert torch.equal(sampled(load(tiny_epsilon, offload=True)), sampled(load(tiny_epsilon)))


class Moves:
    """What moves to the device and what away from it, in their order, on a machine that has only a CPU.

    The device is a CPU of another name: cpu:0 is where things run, cpu is the host.
    """

    def __init__(self, model: InstructPix2Pix, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        parts = model.pipeline().components
        for name in ("text_encoder", "vae", "unet"):
            part: Any = parts[name]
            monkeypatch.setattr(part, "to", lambda device, name=name: self.seen.append(f"{name} {device}"))


def test_each_network_comes_when_it_is_called_and_makes_room_for_the_next(
    tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(tiny_epsilon, offload=True)
    moves = Moves(model, monkeypatch)
    parts: dict[str, Any] = model.pipeline().components
    for name in ("text_encoder", "vae", "unet"):
        assert parts[name]._hf_hook.execution_device == model.device == CPU
        parts[name]._hf_hook.execution_device = torch.device("cpu", 0)  # not where the parameters are
    nothing = Conditioning(1, image=torch.zeros(1, 4, 8, 8))
    given = model.conditioning(Branch(True, "red", ()), nothing)
    assert moves.seen == ["text_encoder cpu:0", "text_encoder cpu"]
    latents = model.encode(images(1))
    model.predict_noise(latents, torch.tensor([3.0]), given)
    model.decode(latents)
    assert moves.seen[2:] == ["vae cpu:0", "unet cpu:0", "vae cpu:0"]
    assert parts["unet"]._hf_hook.prev_module_hook.model is parts["vae"]
    assert parts["vae"]._hf_hook.prev_module_hook.model is parts["unet"]
    assert parts["text_encoder"]._hf_hook.prev_module_hook is None


def test_moving_the_model_moves_where_it_runs(tiny_epsilon: Path) -> None:
    model = load(tiny_epsilon, offload=True)
    before = model.pipeline().unet
    model.to("cpu")
    hook: Any = model.pipeline().unet
    assert hook is before
    assert hook._hf_hook.execution_device == model.device
    assert model.encode(images(1)).device == CPU
