"""What a round costs beside training, on two views and a few rays."""

import pytest
import torch

from csd_core.bench.config import QUICK, BenchConfig
from csd_nerf.commands import bench_scene
from csd_nerf.commands.bench_scene import STEPS_BETWEEN, measure_scene


def test_a_round_is_timed_whole_and_compared_with_training(capsys: pytest.CaptureFixture[str]) -> None:
    figures = measure_scene(torch.device("cpu"), 1, views=2, size=16, edit_steps=1)
    seconds = figures["seconds"]
    assert 0 < seconds["rendering"] + seconds["editing"] <= seconds["round"]
    assert figures["ratio"] == pytest.approx(seconds["round"] / (STEPS_BETWEEN * seconds["step"]))
    assert [figures[name] for name in ("views", "size", "edit_steps", "rays")] == [2, 16, 1, 1024]
    assert not capsys.readouterr().out.strip()


def test_quick_takes_little(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def measured(device: torch.device, rounds: int, **amounts: int | None) -> dict[str, object]:
        assert amounts == {"views": 4, "size": 32, "edit_steps": 2}
        seconds = {"round": 9.0, "rendering": 3.0, "editing": 5.0, "step": 0.01}
        figures = {**amounts, "device": "cpu", "rays": 1024, "rounds": rounds}
        return {**figures, "seconds": seconds, "ratio": 0.45}

    monkeypatch.setattr(bench_scene, "measure_scene", measured)
    bench_scene.bench_scene(BenchConfig(torch.device("cpu"), **QUICK))
    printed = capsys.readouterr().out
    assert "0.450   9.0 s (renders 3.0, edit 5.0, files and the rest 1.0) over 2000 x 0.0100 s" in printed
