"""The cost of a whole edit follows from the steps that were timed."""

from dataclasses import replace

import pytest

from csd_core.bench import steps, timing
from csd_core.bench.edits import Recorder, video_edit
from csd_core.bench.panoramas import measure_size
from csd_core.bench.steps import StepCost, TimedStep, time_steps


def time_video(model, count):
    edit = video_edit(model, 3, (40, 32))
    edit.edit = replace(edit.edit, chunk_size=4)
    return time_steps(model.unet, lambda callback: edit.run(callback=callback), count)


def test_a_step_is_timed_apart_from_the_network(model, monkeypatch):
    clock = iter(range(1000))  # a second from each reading of the clock to the next
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(Recorder, "replay", lambda recorder: [next(clock) for _ in recorder.calls])
    assert time_video(model, 2) == [TimedStep(seconds=1, evaluations=15, network_seconds=5)] * 2


def test_network_runs_after_each_timed_step_on_the_same_batches(model, batches):
    timed = time_video(model, 2)
    step = batches[: len(batches) // 5]
    assert (sum(step), max(step)) == (15, 4)
    assert batches == step * 5  # one to warm up, and two with the network alone after each
    assert [one.evaluations for one in timed] == [15, 15]


def test_cost_of_a_whole_edit_is_that_of_its_steps_and_evaluations():
    cost = StepCost.of([TimedStep(12.0, 5, 10.0), TimedStep(6.0, 5, 5.0), TimedStep(24.0, 5, 20.0)])
    assert (cost.timed_steps, cost.seconds) == (3, 12.0)
    assert (cost.seconds_per_evaluation, cost.seconds_besides) == (2.0, 2.0)
    assert cost.share_besides == pytest.approx(1 / 6)
    # 10 steps with 3 evaluations in place of 5: what is besides the network stays
    assert cost.seconds_of(10, 30) == 10 * 2 + 30 * 2


def test_memory_is_measured_from_encoding_to_decoding(model, monkeypatch):
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

    monkeypatch.setattr(steps, "PeakMemory", Watched)
    for name in ("encode_condition", "decode"):
        monkeypatch.setattr(model.denoiser, name, noted(name, getattr(model.denoiser, name)))
    monkeypatch.setattr(steps, "time_steps", noted("steps", steps.time_steps))
    cost, edit = measure_size(model, (70, 50), 1)
    assert events == ["begin", "encode_condition", "steps", "decode", "end"]
    assert (cost.peak, cost.latents) == (1.5, edit.nbytes / 2**30)
