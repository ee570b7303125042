from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from csd_core.denoisers.base import Conditioning
from csd_core.engine import step as engine
from csd_core.engine.config import EditConfig
from csd_core.engine.draws import Draws
from csd_core.engine.loop import edit_latents
from csd_core.engine.source_cache import SourceCache
from tests.exact_editor import ExactEditor
from tests.models import load

CPU = torch.device("cpu")
POOL = EditConfig(num_steps=31, batch_size=3, noise_pool=4, learning_rate=0.3)
PARTICLES = 7


def latents(seed: int, side: int = 4) -> Tensor:
    return torch.randn(PARTICLES, 4, side, side, generator=torch.Generator().manual_seed(seed))


def editor() -> ExactEditor:
    return ExactEditor(latents(0)[:3])


def edited(denoiser: Any, config: EditConfig, side: int = 4, **more: Any) -> Tensor:
    source = latents(1, side)
    condition = Conditioning(len(source), image=source)
    return edit_latents(denoiser, more.pop("canvas", source), source, condition, "red", config, **more)


class Reads(SourceCache):
    """Evaluates whatever is read, and keeps nothing."""

    def read(self, step: int, particles: Any, device: torch.device) -> Tensor:
        assert list(particles) == self._draws.particles(step)
        return self._evaluate(step)


@pytest.mark.parametrize(
    "settings", [{}, {"batch_size": 16}, {"baseline": "prompt", "source_prompt": "blue"}]
)
def test_what_is_read_back_is_what_would_be_evaluated(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    config = replace(POOL, **settings)
    with_cache = edited(editor(), config)
    assert (with_cache - latents(1)).abs().max() > 0.1
    monkeypatch.setattr(engine, "SourceCache", Reads)
    torch.testing.assert_close(with_cache, edited(editor(), config), rtol=1e-5, atol=1e-5)


def test_a_particle_takes_3_and_2_of_each_pair() -> None:
    exact = editor()
    edited(exact, replace(POOL, num_steps=30))  # ten rounds
    assert exact.evaluations == PARTICLES * (3 * 10 + 2 * 4)


def test_without_a_source_branch_nothing_is_read() -> None:
    exact = editor()
    edited(exact, replace(POOL, num_steps=30, baseline="noise"))
    assert exact.evaluations == PARTICLES * 3 * 10


@pytest.mark.parametrize("limit", [0, 2**30])
@pytest.mark.parametrize("begin", [1, 5, 13, 20])
def test_a_resumed_edit_is_the_same_to_the_last_bit(
    tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch, begin: int, limit: int
) -> None:
    monkeypatch.setattr(engine, "SourceCache", lambda draws, evaluate: SourceCache(draws, evaluate, limit))
    model = load(tiny_epsilon)
    config, canvases = replace(POOL, num_steps=22), []
    whole = edited(model, config, 8, callback=lambda step, canvas: canvases.append(canvas.clone()))
    again = edited(model, config, 8, canvas=canvases[begin - 1], start_step=begin)
    assert torch.equal(again, whole)


def caches(limit: int) -> tuple[SourceCache, list[int]]:
    asked: list[int] = []
    draws = Draws(POOL, PARTICLES)

    def evaluate(step: int) -> Tensor:
        asked.append(step)
        return torch.stack([latents(100 + draws.pair(step))[p] for p in draws.particles(step)])

    return SourceCache(draws, evaluate, limit), asked


def test_above_the_limit_half_precision_is_kept_and_given_back_from_the_start() -> None:
    draws, single = Draws(POOL, PARTICLES), 4 * 4 * 4 * 4
    (exact, _), (rounded, _) = caches(4 * PARTICLES * single), caches(4 * PARTICLES * single - 1)
    for step in range(POOL.num_steps):
        particles = draws.particles(step)
        truth = torch.stack([latents(100 + draws.pair(step))[p] for p in particles])
        assert torch.equal(exact.read(step, particles, CPU), truth)
        assert torch.equal(rounded.read(step, particles, CPU), truth.half().float())
        assert exact.nbytes == 2 * rounded.nbytes


def test_each_pair_is_asked_about_once_and_dropped_when_it_is_not_needed_any_more() -> None:
    cache, asked = caches(2**30)
    draws, held = Draws(POOL, PARTICLES), []
    for step in range(POOL.num_steps):
        cache.read(step, draws.particles(step), CPU)
        held.append(cache.nbytes // (4 * 4 * 4 * 4))
    assert asked == list(range(4 * 3))  # the first four rounds, of three steps each
    assert max(held) == 4 * PARTICLES
    assert SourceCache.most_bytes(draws, (4, 4, 4)) == (max(held) * 4 * 4 * 4 * 4, False)
    last_round = len(draws.particles(30))  # of one step: what the others would have been read for stays
    assert held[-1] <= PARTICLES - last_round
