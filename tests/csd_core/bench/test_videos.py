from dataclasses import replace

import pytest

from csd_core.bench import videos
from csd_core.bench.videos import DrawnClip, bench_videos, measure_video
from csd_core.canvas.video import VideoEdit
from csd_core.engine.config import EditConfig
from csd_core.presets import Preset

PRESET = Preset(EditConfig(batch_size=2, noise_pool=0), updates=2, least_steps=3)
MAX_BATCH = 4


def test_figures_are_of_the_edit_that_would_run(workload, monkeypatch):
    monkeypatch.setattr(videos, "SIZE", (36, 64))
    result = measure_video(workload, 6, PRESET, 1, MAX_BATCH, finished=2)
    edit = VideoEdit(workload.denoiser, DrawnClip(6, (36, 64)), "make it night", PRESET.edit, PRESET)
    assert (result.steps, result.size) == (edit.edit.num_steps, edit.size)
    assert result.evaluations == 5 * 2 * result.steps  # five for each of two frames
    assert result.latents == edit.nbytes / 2**30
    assert 0 < result.latents < result.peak
    loop = result.step.seconds_of(result.steps, result.evaluations)
    assert result.computed_seconds == pytest.approx(result.seconds_encode + 6 * result.seconds_frame + loop)


def test_a_drawn_clip_moves_and_holds_one_frame():
    frames = DrawnClip(40, (36, 64)).frames()
    first, second = next(frames), next(frames)
    assert first.shape == (36, 64, 3)
    assert (first != second).any()
    assert len(list(frames)) == 38


def test_every_length_is_printed_and_the_longest_set_over_the_shortest(config, monkeypatch, capsys):
    monkeypatch.setattr(videos, "VIDEO_MINI", PRESET)
    monkeypatch.setattr(videos, "SIZE", (36, 64))
    figures = bench_videos(replace(config, frames=(5, 3)))
    printed, lengths = capsys.readouterr().out, figures["lengths"]
    assert [length["frames"] for length in lengths] == [5, 3]
    for length in lengths:
        assert f"video of {length['frames']} frames" in printed
        assert length["besides_latents"] == length["peak"] - length["latents"]
        assert f"{length['besides_latents']:.3f} GiB besides the latents" in printed
    assert figures["memory_ratio"] == lengths[0]["besides_latents"] / lengths[1]["besides_latents"]
    assert "5 frames over 3" in printed
