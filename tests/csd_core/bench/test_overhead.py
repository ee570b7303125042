import pytest

from csd_core.bench import overhead
from csd_core.bench.edits import short_edit
from csd_core.bench.overhead import bench_overhead, format_overhead, measure_overhead
from csd_core.bench.timing import Rounds
from csd_core.bench.workloads import PLAIN


def test_ratio_is_of_the_engine_over_the_bare_network(config, monkeypatch):
    edit = short_edit(config, "mini", PLAIN)

    def alternate(contenders, rounds, device):
        assert (list(contenders), rounds) == (["plain", "bare, plain"], 3)
        assert contenders["plain"].units == contenders["bare, plain"].units == edit.particle_steps
        contenders["plain"].run()
        timed = Rounds(device)
        for ours, bare in ((3.0, 2.0), (4.0, 2.0), (5.0, 1.0)):
            timed.note("plain", ours)
            timed.note("bare, plain", bare)
        return timed

    monkeypatch.setattr(overhead, "alternate", alternate)
    results = measure_overhead({"plain": edit}, 3)
    result = results["plain"]
    assert (result.ratio, result.seconds, result.bare_seconds) == (2.0, 4.0, 2.0)
    assert result.evaluations == 5 * edit.particle_steps
    printed = format_overhead({"plain": edit}, results, 3)
    assert "2.000   4.0000 s over 2.0000 s a particle-step" in printed


def test_it_is_measured_as_by_default(config, capsys):
    figures = bench_overhead(config)
    assert figures[-1]["ratio"] == pytest.approx(figures[-1]["seconds"] / figures[-1]["bare_seconds"])
    assert "by default" in capsys.readouterr().out
