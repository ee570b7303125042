"""What a round costs beside training, on two views and a few rays."""

import pytest
import torch

from csd_nerf.commands.bench_scene import STEPS_BETWEEN, measure_scene


def test_a_round_is_timed_whole_and_compared_with_training(capsys: pytest.CaptureFixture[str]) -> None:
    figures = measure_scene(torch.device("cpu"), 1, views=8, size=16, edit_steps=1)
    seconds = figures["seconds"]
    assert 0 < seconds["rendering"] + seconds["editing"] <= seconds["round"]
    assert figures["ratio"] == pytest.approx(seconds["round"] / (STEPS_BETWEEN * seconds["step"]))
    assert [figures[name] for name in ("views", "size", "edit_steps", "rays")] == [8, 16, 1, 1024]
    assert not capsys.readouterr().out.strip()
