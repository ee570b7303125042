"""The figures of panoramas are of what ran; what is computed from them is what a whole edit would spend."""

import math
from dataclasses import replace

import pytest
import torch

from csd_core.bench import panoramas
from csd_core.bench.panoramas import bench_panoramas, measure_size, smooth_image
from csd_core.bench.workloads import PROMPT
from csd_core.canvas.panorama import Panorama
from csd_core.engine.config import EditConfig
from csd_core.presets import PANORAMA_MINI, Preset

SAMPLING = replace(PANORAMA_MINI.sampling, num_inference_steps=3)
PRESET = Preset(EditConfig(batch_size=3), updates=1, least_steps=4, stride=4, sampling=SAMPLING)
SIZE = (70, 50)
MAX_BATCH = 4


def test_a_whole_edit_spends_the_evaluations_that_were_counted(workload, batches):
    measured, _ = measure_size(workload, SIZE, PRESET, 1, MAX_BATCH)
    batches.clear()
    image = smooth_image(SIZE)
    panorama = Panorama(workload.denoiser, image, PROMPT, PRESET.with_edit(max_batch=MAX_BATCH), PRESET)
    ran = []
    panorama.run(callback=lambda step, _: ran.append(step))
    assert (measured.evaluations, measured.steps) == (sum(batches), len(ran))
    assert measured.windows == panorama.windows.num_particles
    assert (measured.width, measured.height) == SIZE == (image.shape[3], image.shape[2])


def test_figures_of_a_size_are_finite_and_add_up(workload):
    measured, panorama = measure_size(workload, SIZE, PRESET, 2, MAX_BATCH)
    step = measured.step
    parts = measured.seconds_encode, measured.seconds_decode, step.seconds_step, step.seconds_per_evaluation
    assert all(math.isfinite(value) and value > 0 for value in parts)
    loop = measured.steps * step.seconds_besides + measured.evaluations * step.seconds_per_evaluation
    assert measured.computed_seconds == pytest.approx(parts[0] + parts[1] + loop)
    assert panorama.edit.num_steps == measured.steps
    assert step.timed_steps == 2
    assert 0.1 < measured.peak < 64


def test_memory_is_watched_from_encoding_to_decoding(workload, monkeypatch):
    events = []

    class Watched:
        peak = 1.5

        def __init__(self, device):
            pass

        def __enter__(self):
            events.append("begin")
            return self

        def __exit__(self, *_):
            events.append("end")

    def noted(name, function):
        return lambda *args: events.append(name) or function(*args)

    monkeypatch.setattr(panoramas, "PeakMemory", Watched)
    for name in ("encode_condition", "decode"):
        monkeypatch.setattr(workload.denoiser, name, noted(name, getattr(workload.denoiser, name)))
    monkeypatch.setattr(panoramas, "time_steps", noted("steps", panoramas.time_steps))
    result, _ = measure_size(workload, SIZE, PRESET, 1, MAX_BATCH)
    assert events == ["begin", "encode_condition", "steps", "decode", "end"]
    assert result.peak == 1.5


def test_the_image_is_smooth_and_the_same_every_time():
    image = smooth_image((200, 130))
    assert image.shape == (1, 3, 130, 200)
    assert torch.equal(image, smooth_image((200, 130)))
    assert image.diff(dim=-1).abs().max() < 0.05
    assert image.std() > 0.05


def test_every_size_is_printed_and_those_asked_for_are_compared(config, monkeypatch, capsys):
    monkeypatch.setattr(panoramas, "PANORAMA_MINI", PRESET)
    figures = bench_panoramas(replace(config, sizes=[(70, 50)], compare_sizes=[(40, 36)]))
    printed = capsys.readouterr().out
    sizes, (compared,) = figures["sizes"], figures["over_overlap"]
    assert [(size["width"], size["height"]) for size in sizes] == [(70, 50), (40, 36)]
    for size in sizes:
        assert f"panorama {size['width']} x {size['height']}" in printed
        assert f"{size['step']['seconds_step']:.4f} s, median of 1" in printed
        assert f"computed from 1 of {size['steps']} steps" in printed
    assert (compared["width"], compared["height"]) == (40, 36)
    assert f"seconds {compared['computed_ratio']:.2f}" in printed
    assert "computed from 1 of 3 sampling steps" in printed


def test_an_empty_list_of_comparisons_switches_them_off(config, monkeypatch, capsys):
    monkeypatch.setattr(panoramas, "PANORAMA_MINI", PRESET)
    assert bench_panoramas(replace(config, sizes=[(40, 36)], compare_sizes=[]))["over_overlap"] == []
    assert "overlap" not in capsys.readouterr().out
