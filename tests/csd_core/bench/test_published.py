"""The published scheme is the same edit for one evaluation more, and is charged for what it does."""

from dataclasses import replace

import pytest
import torch

from csd_core.bench import published
from csd_core.bench.edits import short_edit
from csd_core.bench.published import (
    DEFAULT,
    PLAIN,
    PUBLISHED,
    PUBLISHED_FLOAT32,
    compared_edits,
    format_published,
    measure_published,
    published_contender,
    published_scheme,
)
from csd_core.bench.timing import Rounds
from csd_core.bench.workloads import PLAIN as PLAIN_SETUP
from csd_core.bench.workloads import Setup
from csd_core.engine.loop import EditConfig, edit_latents

PARTICLES = 3
SECONDS = {PUBLISHED: 2.0, PUBLISHED_FLOAT32: 8.0, PLAIN: 1.0, DEFAULT: 0.5}


def latents(workload, seed):
    shape = (PARTICLES, workload.denoiser.latent_channels, *workload.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_published_scheme_gives_the_same_edit_for_one_evaluation_more(workload, batches):
    config = EditConfig(num_steps=2, learning_rate=0.5, noise_pool=0)
    canvas, source, condition = (latents(workload, seed) for seed in range(3))
    given = (workload.denoiser, canvas, source, condition, "make it night", config)
    published = published_scheme(*given)
    assert batches == [3, 3] * PARTICLES * config.num_steps
    batches.clear()
    ours = edit_latents(*given)
    assert sum(batches) == 5 * PARTICLES * config.num_steps
    assert (ours - canvas).abs().max() > 0.01
    torch.testing.assert_close(published, ours, rtol=1e-3, atol=1e-4)


def test_a_part_of_its_steps_is_timed_and_charged(config):
    edit, sizes = short_edit(replace(config, steps=16), "mini", PLAIN_SETUP), []
    contender = published_contender(edit)
    edit.workload.unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    contender.run()
    assert sizes == [3, 3] * config.particles * 2
    assert contender.units == 2 * config.particles


def rounds_of(contenders, rounds, device):
    timed = Rounds(device)
    for _ in range(rounds):
        for name in contenders:
            timed.note(name, SECONDS[name])
    return timed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ratios_are_of_one_precision_and_what_it_adds_stands_apart(config, monkeypatch, dtype):
    monkeypatch.setattr(published, "alternate", rounds_of)
    monkeypatch.setattr(published, "default_setup", lambda _: Setup(dtype, channels_last=True))
    edits = compared_edits(config, "mini")
    result = measure_published(edits, 2)
    assert (result.plain_over_published, result.default_over_published) == (2.0, 4.0)
    assert result.particle_steps_per_second[PLAIN] == 1.0
    setups = {name: edit.workload.setup for name, edit in edits.items()}
    assert setups[PUBLISHED] == setups[PLAIN] == Setup(dtype)
    printed = format_published(edits, result, 2)
    assert "4.00   (target: at least 2)" in printed
    if dtype == torch.float32:
        assert result.default_over_published_float32 is None
        assert "precision adds nothing" in printed
    else:
        assert setups[PUBLISHED_FLOAT32] == Setup(torch.float32)
        assert result.default_over_published_float32 == 16.0
        assert "16.00   with the published scheme in float32" in printed
