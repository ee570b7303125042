import json
from dataclasses import replace

import numpy as np
import pytest

from csd_core import bench, bench_steps, bench_video
from csd_core.bench import Workload
from csd_core.bench_video import DrawnClip, measure_video
from csd_core.config import EditConfig
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.presets import Preset
from csd_core.video import ArrayClip, VideoEdit

PRESET = Preset(EditConfig(batch_size=2, num_steps=1), updates=2, least_steps=3)
MAX_BATCH = 4


@pytest.fixture(autouse=True)
def short_prompt(monkeypatch):
    for module in (bench, bench_video):
        monkeypatch.setattr(module, "PROMPT", "a")  # the tiny model reads few tokens


@pytest.fixture(scope="module")
def workload(tiny_epsilon) -> Workload:
    denoiser = InstructPix2Pix.from_pretrained(str(tiny_epsilon))
    return Workload("tiny", denoiser, denoiser.pipeline().unet, (8, 8))


def test_a_timed_step_takes_as_long_as_it_takes(workload, monkeypatch):
    clip = ArrayClip([np.zeros((32, 40, 3), np.uint8)] * 6)
    edit = VideoEdit(workload.denoiser, clip, "a", replace(PRESET.edit, batch_size=3), PRESET)
    clock = iter(range(1000))  # a second from each look at the clock to the next
    monkeypatch.setattr(bench_steps.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(
        bench_steps, "bare_evaluations", lambda _, count, __: lambda: [next(clock) for _ in range(count)]
    )
    timed = bench_steps.time_steps(workload, edit, 2)
    assert [(step.seconds, step.evaluations, step.bare) for step in timed] == [(1, 15, 16)] * 2


def test_figures_are_of_the_edit_that_would_run(workload):
    result = measure_video(workload, 6, PRESET, 1, MAX_BATCH, finished=2)
    edit = VideoEdit(workload.denoiser, DrawnClip(6), "a", PRESET.edit, PRESET)
    assert (result.steps, result.size) == (edit.edit.num_steps, edit.size)
    assert result.evaluations == 5 * 2 * result.steps  # five for each of two frames
    assert result.latents == edit.nbytes / 2**30
    assert 0 < result.latents < result.peak
    parts = result.seconds_encode + 6 * result.seconds_frame
    assert result.computed_seconds == pytest.approx(parts + result.steps * result.seconds_step)


def test_a_drawn_clip_moves_and_holds_one_frame(workload):
    frames = DrawnClip(40, (36, 64)).frames()
    first, second = next(frames), next(frames)
    assert first.shape == (36, 64, 3)
    assert (first != second).any()
    assert len(list(frames)) == 38


def test_command_prints_every_length(workload, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bench, "mini_workload", lambda device: workload)
    monkeypatch.setattr("csd_core.presets.VIDEO_MINI", PRESET)
    monkeypatch.setattr(bench_video, "SIZE", (36, 64))
    path = tmp_path / "bench.json"
    options = ["--parts", "video", "--frames", "3", "5", "--video-steps", "1", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["csd-bench", *options, "--json", str(path)])
    assert bench.main() == 0
    printed = capsys.readouterr().out
    results = json.loads(path.read_text())["video"]
    assert [result["frames"] for result in results] == [3, 5]
    for result in results:
        assert f"video of {result['frames']} frames" in printed
        assert f"{result['peak'] - result['latents']:.3f} GiB besides the latents" in printed


@pytest.mark.parametrize("wrong", [["--frames", "0"], ["--frames"], ["--video-steps", "0"]])
def test_bad_options_are_one_line(workload, monkeypatch, capsys, wrong):
    monkeypatch.setattr(bench, "mini_workload", lambda device: workload)
    monkeypatch.setattr("sys.argv", ["csd-bench", "--parts", "video", "--device", "cpu", *wrong])
    assert bench.main() == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
