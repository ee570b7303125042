"""Ratios are of one edit computed in several ways, and of what was timed in the same round."""

from dataclasses import replace

import pytest
import torch

from csd_core.bench import models, short
from csd_core.bench.edits import short_edit
from csd_core.bench.models import Setup
from csd_core.bench.short import bench_overhead, bench_published, bench_speedups, published_scheme
from csd_core.bench.timing import Timings


@pytest.fixture
def seconds(monkeypatch):
    """Name -> seconds of contenders, which run once and are not timed."""
    given: dict[str, float] = {}

    def alternate(contenders, rounds):
        timings = Timings()
        for name, contender in contenders.items():
            contender.run()
            timings.seconds[name] = [slow * given[name] for slow in range(1, rounds + 1)]  # the machine
        return timings

    monkeypatch.setattr(short, "alternate", alternate)
    return given


def ratios(figures):
    return {name: line["ratio"] for name, line in figures["lines"].items()}


def test_overhead_is_of_the_engine_over_the_network(config, seconds, capsys):
    seconds |= {"fresh noise": 4.0, "fresh noise, network": 2.0}
    seconds |= {"by default": 3.0, "by default, network": 2.0}
    (figures,) = bench_overhead(replace(config, rounds=3))
    assert ratios(figures) == {"fresh noise": 2.0, "by default": 1.5}
    assert figures["lines"]["fresh noise"]["evaluations"] == 5
    assert figures["lines"]["by default"]["evaluations"] == 3 + 2 * 2 / 4
    assert "2.000   8.0000 s and 5.00 evaluations a particle-step" in capsys.readouterr().out


def test_published_scheme_is_charged_for_six_evaluations_of_each_particle(config):
    edit, sizes = short_edit(config, "mini", Setup()), []
    contender = published_scheme(edit)
    edit.model.unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    contender.run()
    assert sizes == [3, 3] * config.particles
    assert contender.units == config.particles


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_precision_gains_over_the_published_scheme_is_kept_apart(config, seconds, monkeypatch, dtype):
    seconds |= {"published": 2.0, "published, float32": 8.0, "plain": 1.0, "by default": 0.5}
    monkeypatch.setattr(short, "default_setup", lambda _: Setup(dtype, channels_last=True))
    figures = bench_published(config)
    assert ratios(figures[0]) == {"plain": 2.0, "by default": 4.0}
    assert figures[0]["lines"]["plain"]["setup"] == str(Setup(dtype))
    in_float32 = [] if dtype == torch.float32 else [{"plain": 8.0, "by default": 16.0}]
    assert [ratios(each) for each in figures[1:]] == in_float32


def test_each_speed_up_alone_and_all_together(config, seconds, monkeypatch, capsys):
    seconds |= {"plain": 6.0, "reuse": 3.0, "channels-last": 2.0, "together": 1.0}
    monkeypatch.setattr(models, "default_dtype", lambda _: torch.float32)
    (figures,) = bench_speedups(config)
    assert ratios(figures) == {"plain": 1.0, "reuse": 2.0, "channels-last": 3.0, "together": 6.0}
    setups = {name: line["setup"] for name, line in figures["lines"].items()}
    assert setups["together"] == str(Setup(channels_last=True, noise_pool=2))
    assert figures["lines"]["reuse"]["evaluations"] == 3 + 2 * 2 / 4
    assert "precision       none   float32 is the fastest here" in capsys.readouterr().out
