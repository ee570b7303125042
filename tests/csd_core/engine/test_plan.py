import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from csd_core.denoisers.base import Conditioning
from csd_core.engine import plan
from csd_core.engine.config import EditConfig
from csd_core.engine.layout import Stack
from csd_core.engine.loop import edit_latents
from csd_core.engine.plan import count_evaluations, measure_evaluation
from csd_core.engine.prepared import PreparedEdit
from tests.exact_editor import ExactEditor
from tests.models import load

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
    condition = Conditioning(7, image=source)
    edit_latents(exact, source, source, condition, prompts, config, start_step=first)
    assert count_evaluations(exact, config, prompts, 7, first) == exact.evaluations


def test_counts_by_hand() -> None:
    config = EditConfig(num_steps=3, batch_size=7)
    assert count_evaluations(editor(), config, {"a": [1.0] * 7}, 7) == 3 * 7 * 5
    assert count_evaluations(editor(), config, PROMPTS, 7) == 3 * (5 * 5 + 2 * 6)
    assert count_evaluations(editor(), config, {"a": [0.4] * 7}, 7, first=2) == 7 * 5


class Job(PreparedEdit):
    """Five particles of a size in latent pixels."""

    layout = Stack(5)  # type: ignore[assignment]
    particle_size = 8, 11  # type: ignore[assignment]
    nbytes = 0  # type: ignore[assignment]
    latents = torch.empty(0), Conditioning(0)  # type: ignore[assignment]

    def __init__(self, chunk_size: int, also: Callable[[], Any] = lambda: None) -> None:
        self.prompts = {"red": [1.0] * 5}
        self.edit = EditConfig(chunk_size=chunk_size, batch_size=2, image_guidance_scale=1.0, noise_pool=0)
        self.decode_one_tile = also  # type: ignore[method-assign]

    def decode_one_tile(self) -> Tensor:
        return torch.empty(0)


def test_the_measure_is_of_whole_batches_of_the_particles_size(
    tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, shapes, order = load(tiny_epsilon), [], []
    predict = model.predict_noise

    def slow(x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        image = conditioning.tensors["image"]
        shapes.append((tuple(x_t.shape), len(t), len(conditioning), tuple(image.shape)))
        order.append("predict")
        clock.append(clock[-1] + (30 if len(shapes) == 1 else 10))  # the first warms up and does not count
        return predict(x_t, t, conditioning)

    clock = [0.0]
    monkeypatch.setattr(plan.time, "perf_counter", lambda: clock[-1])
    monkeypatch.setattr(model, "predict_noise", slow)
    cost = measure_evaluation(Job(4, lambda: order.append("also")), model)
    # 2 particles with 3 branches each, 6 evaluations: 3 and 3, not 4 and 2
    assert shapes == [((3, 4, 8, 11), 3, 3, (3, 4, 8, 11))] * (1 + plan.TIMED)
    assert order[-1] == "also"
    assert cost.seconds == 10 / 3
    assert cost.batch == 3
    assert cost.peak_gib > 0
    assert cost.condition_nbytes == 4 * 4 * 8 * 11


def test_memory_counts_what_else_is_held(tiny_epsilon: Path) -> None:
    model, held = load(tiny_epsilon), []

    def also() -> None:
        held.append(torch.ones(2**26))  # 256 MiB
        time.sleep(0.1)

    little = measure_evaluation(Job(1), model).peak_gib
    assert measure_evaluation(Job(1, also), model).peak_gib - little > 0.2


def test_random_numbers_of_others_stay(tiny_epsilon: Path) -> None:
    before = torch.random.get_rng_state()
    measure_evaluation(Job(1), load(tiny_epsilon))
    assert torch.equal(torch.random.get_rng_state(), before)
