from dataclasses import replace

import numpy as np
import pytest

from csd_core.bench import steps, timing
from csd_core.bench.bare import Recorder
from csd_core.bench.steps import Step, StepCost, time_steps
from csd_core.canvas.video import ArrayClip, VideoEdit
from csd_core.presets import VIDEO_MINI

FRESH = replace(VIDEO_MINI.edit, noise_pool=0)


def edit_of(workload, frames=3, **settings):
    clip = ArrayClip([np.zeros((32, 40, 3), np.uint8)] * frames)
    return VideoEdit(workload.denoiser, clip, "make it night", replace(FRESH, **settings), VIDEO_MINI)


def test_a_timed_step_takes_as_long_as_it_takes(workload, monkeypatch):
    clock = iter(range(1000))  # a second from each look at the clock to the next
    for module in (steps, timing):
        monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(
        Recorder, "replay", lambda recorder: [next(clock) for _ in range(recorder.evaluations)]
    )
    timed = time_steps(workload, edit_of(workload), 2)
    assert timed == [Step(seconds=1, evaluations=15, bare=16)] * 2


def test_bare_network_runs_after_each_timed_step_on_the_same_rows_and_chunks(workload, batches):
    timed = time_steps(workload, edit_of(workload, max_batch=4), 2)
    step = batches[: len(batches) // 5]
    assert (sum(step), max(step)) == (15, 4)
    assert batches == step * 5  # one to warm up, and two with the bare network after each
    assert [one.evaluations for one in timed] == [15, 15]


def test_cost_of_a_whole_edit_is_what_steps_and_evaluations_take():
    cost = StepCost.of([Step(12.0, 5, 10.0), Step(6.0, 5, 5.0), Step(24.0, 5, 20.0)])
    assert (cost.timed_steps, cost.seconds_step) == (3, 12.0)
    assert (cost.seconds_per_evaluation, cost.seconds_besides) == (2.0, 2.0)
    assert cost.besides_network == pytest.approx(1 / 6)
    # 10 steps with 3 evaluations in place of 5: what is besides the network stays
    assert cost.seconds_of(10, 30) == 10 * 2 + 30 * 2
