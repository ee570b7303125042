import pytest
import torch

from csd_core.bench import ranks
from csd_core.bench.ranks import bench_ranks, time_ranks
from csd_core.bench.timing import Timings
from csd_core.engine.ranks import ALONE


def test_two_ranks_do_the_same_edit(config, capsys):
    """As a user runs it: torchrun starts both, with the editor that ships with the package."""
    figures = bench_ranks(config)
    assert (figures["ranks"], figures["threads"]) == (2, 1)
    assert figures["difference"] < 1e-4
    assert figures["ratio"] == pytest.approx(figures["alone_seconds"] / figures["shared_seconds"])
    assert f"1 rank over 2, {figures['edit']}, 1 thread each" in capsys.readouterr().out


def test_ratio_is_of_one_rank_over_all(config, monkeypatch):
    def alternate(contenders, rounds):
        assert {contender.units for contender in contenders.values()} == {2 * 4}
        timings = Timings()
        timings.seconds |= {"alone": [3.0], "shared": [2.0]}
        return timings

    monkeypatch.setattr(ranks, "alternate", alternate)
    figures = time_ranks(config, ALONE)
    assert (figures["ratio"], figures["difference"], figures["ranks"]) == (1.5, 0.0, 1)
    assert figures["threads"] == torch.get_num_threads()
