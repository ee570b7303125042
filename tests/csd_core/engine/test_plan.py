import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine import plan
from csd_core.engine.config import EditConfig
from csd_core.engine.loop import edit_latents
from csd_core.engine.plan import count_evaluations, measure_evaluation
from tests.exact_editor import ExactEditor

PROMPTS = {"a": [1.0, 0.5, 0.0, 0.0, 0.0, 1.0, 0.2], "b": [0.0, 0.5, 1.0, 1.0, 1.0, 0.0, 0.8]}


def editor() -> ExactEditor:
    return ExactEditor(torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"batch_size": 3},
        {"batch_size": 1},
        {"batch_size": 3, "seed": 7},
        {"image_guidance_scale": 1.0},
        {"guidance_scale": 1.5},
        {"guidance_scale": 0.0},
        {"baseline": "noise"},
        {"baseline": "prompt", "source_prompt": "a photo"},
        {"num_steps": 1},
        {"num_steps": 13, "batch_size": 3, "noise_pool": 2},
        {"num_steps": 5, "noise_pool": 2, "image_guidance_scale": 1.0},
        {"num_steps": 5, "noise_pool": 2, "baseline": "noise"},
        {"num_steps": 5, "noise_pool": 2, "baseline": "prompt", "source_prompt": "a photo"},
    ],
)
@pytest.mark.parametrize("prompts", [PROMPTS, {"a": [1.0] * 7}], ids=["two", "one"])
@pytest.mark.parametrize("first", [0, 3])
def test_the_engine_asks_for_as_many_as_were_counted(
    settings: dict[str, Any], prompts: dict[str, list[float]], first: int
) -> None:
    config = EditConfig(**{"num_steps": 5, **settings})
    exact, source = editor(), torch.randn(7, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    edit_latents(exact, source, source, source, prompts, config, start_step=first)
    assert count_evaluations(config, prompts, 7, first) == exact.evaluations


def test_counts_by_hand() -> None:
    config = EditConfig(num_steps=3, batch_size=7)
    assert count_evaluations(config, {"a": [1.0] * 7}, 7) == 3 * 7 * 5
    assert count_evaluations(config, PROMPTS, 7) == 3 * (5 * 5 + 2 * 6)
    assert count_evaluations(config, {"a": [0.4] * 7}, 7, first=2) == 7 * 5


def test_the_measure_is_of_whole_batches_of_the_particles_size(
    tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, shapes, order = InstructPix2Pix.from_pretrained(str(tiny_epsilon)), [], []
    predict = model.predict_noise

    def slow(x_t: Tensor, t: Tensor, text: Tensor, image: Tensor) -> Tensor:
        shapes.append((tuple(x_t.shape), len(t), len(text), tuple(image.shape)))
        order.append("predict")
        clock.append(clock[-1] + (30 if len(shapes) == 1 else 10))  # the first warms up and does not count
        return predict(x_t, t, text, image)

    clock = [0.0]
    monkeypatch.setattr(plan.time, "perf_counter", lambda: clock[-1])
    monkeypatch.setattr(model, "predict_noise", slow)
    cost = measure_evaluation(model, "red", (8, 11), 6, lambda: order.append("also"), fullest=10)
    assert shapes == [((5, 4, 8, 11), 5, 5, (5, 4, 8, 11))] * (1 + plan.TIMED)  # 10 are 5 and 5, not 6 and 4
    assert order[-1] == "also"
    assert cost.seconds == 10 / 5
    assert cost.batch == 5
    assert cost.peak_gib > 0


def test_memory_counts_what_else_is_held(tiny_epsilon: Path) -> None:
    model, held = InstructPix2Pix.from_pretrained(str(tiny_epsilon)), []

    def also() -> None:
        held.append(torch.ones(2**26))  # 256 MiB
        time.sleep(0.1)

    little = measure_evaluation(model, "red", (8, 8), 1, lambda: None, fullest=5).peak_gib
    assert measure_evaluation(model, "red", (8, 8), 1, also, fullest=5).peak_gib - little > 0.2


def test_random_numbers_of_others_stay(tiny_epsilon: Path) -> None:
    model = InstructPix2Pix.from_pretrained(str(tiny_epsilon))
    before = torch.random.get_rng_state()
    measure_evaluation(model, "red", (8, 8), 1, lambda: None, fullest=5)
    assert torch.equal(torch.random.get_rng_state(), before)
