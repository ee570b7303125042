"""On a CPU at tiny size: what a GPU would be measured by is counted and divided as it should be."""

import math
from dataclasses import replace

import pytest
import torch

from csd_core.bench import chip
from csd_core.bench.chip import (
    EAGER,
    MATMUL,
    bench_chip,
    count_flops,
    format_chip,
    matmul_contender,
    measure_chip,
)
from csd_core.bench.timing import Rounds
from csd_core.bench.workloads import PLAIN, stable_diffusion_workload

CPU = torch.device("cpu")
FLOPS = 10**9


def test_an_evaluation_at_stable_diffusions_size_is_803_gflop():
    flops = count_flops(lambda: stable_diffusion_workload(torch.device("meta"), PLAIN))
    assert flops == pytest.approx(803e9, rel=0.005)


def test_flops_of_a_product_are_two_for_each_multiplication(monkeypatch):
    from torch.utils.flop_counter import FlopCounterMode

    contender = matmul_contender(16, torch.float32, CPU)
    with FlopCounterMode(display=False) as counter:
        contender.run()
    assert contender.units == counter.get_total_flops() == chip.REPEATS * 2 * 16**3


def test_network_is_timed_at_the_batch_it_is_charged_for(workload, batches):
    contender = chip.network_contender(workload, 3)
    contender.run()
    assert batches == [3] * chip.REPEATS
    assert contender.units == 3 * chip.REPEATS


def test_share_is_of_the_product_in_the_same_round(config, workload, monkeypatch):
    def alternate(contenders, rounds, device):
        timed = Rounds(device)
        for slow in (1, 2, 4):  # the machine
            timed.note(MATMUL, slow * 1e-12)
            timed.note(EAGER, slow * 4e-3)
        return timed

    monkeypatch.setattr(chip, "alternate", alternate)
    monkeypatch.setattr(chip, "FRAMES", 2)
    monkeypatch.setattr(chip, "STEPS", 3)
    result = measure_chip({EAGER: workload}, FLOPS, config, side=8)
    speed = result.speeds[EAGER]
    assert result.peak_flops == pytest.approx(1e12 / 2)
    assert speed.evaluations_per_second == pytest.approx(1 / 8e-3)
    assert speed.share_of_peak == pytest.approx(FLOPS / 4e-3 / 1e12)
    assert result.evaluations == 5 * 2 * 3
    assert speed.computed_seconds == pytest.approx(result.evaluations * 8e-3)
    assert "25.0 % of that product (target: 40 %)" in format_chip(result, 3)


def test_the_edit_is_timed_in_the_engine(config, workload, batches, monkeypatch):
    monkeypatch.setattr(chip, "FRAMES", 2)
    monkeypatch.setattr(chip, "STEPS", 6)
    result = measure_chip({EAGER: workload}, FLOPS, replace(config, timed_steps=2), side=8)
    assert result.timed_steps == 2
    assert all(
        math.isfinite(x) and x > 0 for x in (result.seconds_step, result.seconds_edit, result.peak_flops)
    )
    # each timed step has a sixth of the evaluations
    assert result.seconds_edit == pytest.approx(6 * result.seconds_step, rel=0.9)


def test_a_cpu_is_told_that_it_needs_a_gpu(config, capsys):
    assert bench_chip(config) == {"needs": "a GPU"}
    assert "needs a GPU" in capsys.readouterr().out
