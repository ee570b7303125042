"""What a round costs beside training, on two views and a few rays."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from csd_nerf.commands import bench_scene
from csd_nerf.commands.bench_scene import STEPS_BETWEEN, measure_scene


def test_a_round_is_timed_whole_and_set_against_training() -> None:
    result = measure_scene(torch.device("cpu"), 1, views=2, size=16, edit_steps=1)
    parts = result.render_seconds + result.edit_seconds
    assert 0 < parts <= result.round_seconds
    assert result.ratio == pytest.approx(result.round_seconds / (STEPS_BETWEEN * result.step_seconds))
    assert (result.views, result.size, result.edit_steps, result.rays) == (2, 16, 1, 1024)


def test_quick_takes_little(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def measured(device: torch.device, rounds: int, **amounts: int | None) -> bench_scene.SceneResult:
        assert amounts == {"views": 4, "size": 32, "edit_steps": 2}
        return bench_scene.SceneResult(device.type, 4, 32, 2, 1024, rounds, 9.0, 3.0, 5.0, 0.01, 0.45)

    monkeypatch.setattr(bench_scene, "measure_scene", measured)
    config: Any = SimpleNamespace(device=torch.device("cpu"), rounds=1, quick=True)
    assert bench_scene.bench_scene(config)["ratio"] == 0.45
    printed = capsys.readouterr().out
    assert "0.450   9.0 s (renders 3.0, edit 5.0, files and the rest 1.0) over 2000 x 0.0100 s" in printed
