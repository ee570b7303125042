from dataclasses import replace

import pytest
import torch

from csd_core.bench import one_rank
from csd_core.bench.one_rank import time_ranks
from csd_core.bench.ranks import NUM_RANKS, RanksResult, bench_ranks, format_ranks
from csd_core.bench.timing import Rounds
from csd_core.engine.ranks import ALONE


def test_two_ranks_do_the_same_edit(config, capsys):
    """As a user runs it: torchrun starts both, with the editor that ships with the package."""
    figures = bench_ranks(config)
    assert (figures["ranks"], figures["threads"]) == (NUM_RANKS, 1)
    assert figures["difference"] < 1e-4
    assert figures["ratio"] == pytest.approx(figures["alone_seconds"] / figures["shared_seconds"])
    assert f"{figures['ratio']:.2f}   (target: at least 1.9)" in capsys.readouterr().out


def test_ratio_is_of_one_rank_over_all(config, monkeypatch):
    def alternate(contenders, rounds, device):
        assert {contender.units for contender in contenders.values()} == {2 * 4}
        timed = Rounds(device)
        timed.note("alone", 3.0)
        timed.note("shared", 2.0)
        return timed

    threads = torch.get_num_threads()
    monkeypatch.setattr(one_rank, "alternate", alternate)
    result = time_ranks(replace(config, steps=4), ALONE)
    assert (result.ratio, result.difference, result.ranks) == (1.5, 0.0, 1)
    assert isinstance(result, RanksResult)
    assert f"{threads} thread each" in format_ranks(result)
