from dataclasses import replace

import torch

from csd_core.bench import speedups
from csd_core.bench.speedups import NONE, TOGETHER, bench_speedups, setups
from csd_core.bench.timing import Rounds
from csd_core.bench.workloads import PLAIN, Setup

CPU = torch.device("cpu")


def test_each_speed_up_alone_and_all_together(monkeypatch):
    monkeypatch.setattr("csd_core.bench.workloads.half_dtype", lambda _: torch.bfloat16)
    found = setups(("reuse", "compile", "channels-last", "precision"), CPU)
    pool = found["reuse"].noise_pool
    assert pool > 0
    assert found == {
        NONE: PLAIN,
        "reuse": Setup(noise_pool=pool),
        "compile": Setup(compile=True),
        "channels-last": Setup(channels_last=True),
        "precision": Setup(torch.bfloat16),
        TOGETHER: Setup(torch.bfloat16, True, True, pool),
    }
    assert list(setups(("reuse",), CPU)) == [NONE, "reuse"]


def test_gains_are_over_the_plain_scheme_and_what_is_missing_is_said(config, monkeypatch, capsys):
    def alternate(contenders, rounds, device):
        timed = Rounds(device)
        for seconds, (name, contender) in zip((6.0, 3.0, 2.0, 1.0), contenders.items(), strict=False):
            contender.run()
            timed.note(name, seconds)
        return timed

    monkeypatch.setattr(speedups, "alternate", alternate)
    monkeypatch.setattr("csd_core.bench.workloads.half_dtype", lambda _: None)
    chosen = replace(config, steps=4, speedups=("reuse", "channels-last", "precision"))
    (figures,) = bench_speedups(chosen)
    gains = figures["gains"]
    assert {name: gain["gain"] for name, gain in gains.items()} == {
        NONE: 1.0,
        "reuse": 2.0,
        "channels-last": 3.0,
        TOGETHER: 6.0,
    }
    assert gains[NONE]["evaluations"] == 5
    assert gains["reuse"]["evaluations"] == gains[TOGETHER]["evaluations"] == 3 + 2 * 2 / 4
    printed = capsys.readouterr().out
    assert "this processor has no bfloat16" in printed
    assert "6.00   1.0000 s and 4.00 evaluations" in printed
