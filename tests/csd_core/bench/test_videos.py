from dataclasses import replace

import pytest

from csd_core.bench import videos
from csd_core.bench.videos import bench_videos


@pytest.fixture(autouse=True)
def small_clip(monkeypatch):
    monkeypatch.setattr(videos, "SIZE", (64, 36))
    monkeypatch.setattr(videos, "FINISHED", 2)


def test_every_length_is_printed_and_memory_is_that_of_the_longest_over_the_shortest(config, capsys):
    figures = bench_videos(replace(config, frames=(5, 3)))
    printed, lengths = capsys.readouterr().out, figures["lengths"]
    assert [length["particles"] for length in lengths] == [3, 5]
    for length in lengths:
        assert f"video of {length['particles']} frames" in printed
        assert length["besides_latents"] == length["peak"] - length["latents"] > 0
        # 5 evaluations of each frame in a round of one or two steps
        assert (
            length["evaluations"]
            == 5 * length["steps"] * length["particles"] / {3: 1, 5: 2}[length["particles"]]
        )
    assert figures["memory_ratio"] == lengths[1]["besides_latents"] / lengths[0]["besides_latents"]
