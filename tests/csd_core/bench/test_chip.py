"""On a CPU at tiny size: what would be measured on a GPU is counted and divided as it should be."""

from dataclasses import replace

import pytest
import torch

from csd_core.bench import chip
from csd_core.bench.chip import PRODUCTS, bench_chip, count_flops, matmul, measure_chip
from csd_core.bench.edits import short_edit
from csd_core.bench.models import Setup
from csd_core.bench.timing import Timings


def test_flops_of_a_product_are_two_for_each_multiplication():
    contender = matmul(16, torch.float32, torch.device("cpu"))
    assert contender.units == count_flops(contender.run) == PRODUCTS * 2 * 16**3


def test_share_is_of_the_product_in_the_same_round(config, monkeypatch, capsys):
    edit = short_edit(config, "mini", Setup())

    def alternate(contenders, rounds):
        assert contenders["eager"].units == edit.recorder.evaluations == 2 * 2 * 5  # two steps
        timings = Timings()
        timings.seconds["matmul"] = [slow * 1e-12 for slow in (1, 2, 4)]  # the machine
        timings.seconds["eager"] = [slow * 4e-3 for slow in (1, 2, 4)]
        return timings

    monkeypatch.setattr(chip, "alternate", alternate)
    monkeypatch.setattr(chip, "count_flops", lambda run: 10**9 * edit.recorder.evaluations)
    figures = measure_chip({"eager": edit}, config, side=8)
    speed = figures["speeds"]["eager"]
    assert (figures["flops"], figures["peak_flops"]) == (10**9, pytest.approx(1e12 / 2))
    assert speed["evaluations_per_second"] == pytest.approx(1 / 8e-3)
    assert speed["share_of_peak"] == pytest.approx(10**9 / 4e-3 / 1e12)
    assert "125.00 evaluations a second, 25.0 %" in capsys.readouterr().out


def test_the_edit_is_timed_in_the_engine(config):
    edits = {name: short_edit(replace(config, steps=6), "mini", Setup()) for name in ("eager", "compiled")}
    figures = measure_chip(edits, replace(config, timed_steps=2), side=8)
    assert set(figures["speeds"]) == set(edits)
    # each timed step has a sixth of the evaluations
    assert figures["seconds_edit"] == pytest.approx(6 * figures["seconds_step"], rel=0.9)


def test_a_cpu_is_not_measured(config, capsys):
    assert bench_chip(config) == {"needs": "a GPU"}
    assert "needs a GPU" in capsys.readouterr().out
