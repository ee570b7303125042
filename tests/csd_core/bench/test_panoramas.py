"""Whole edits are computed from timed steps of csd and of ip2p-overlap, in turn."""

import itertools
import math

import pytest

from csd_core.bench import panoramas
from csd_core.bench.edits import overlap_steps, panorama_edit
from csd_core.bench.panoramas import bench_panoramas, compare_with_overlap, measure_size, num_windows

SIZE = (70, 50)
WINDOWS = 4 * 3  # 70 x 50 pixels are 18 x 13 latents: windows begin at 0, 4, 8, 10 and at 0, 4, 5


def test_a_whole_edit_has_the_evaluations_that_were_counted(model, batches):
    cost, _ = measure_size(model, SIZE, 2)
    batches.clear()
    panorama = panorama_edit(model, SIZE)
    ran = []
    panorama.run(callback=lambda step, _: ran.append(step))
    assert (cost.evaluations, cost.steps) == (sum(batches), len(ran))
    assert cost.particles == panorama.num_particles
    parts = cost.seconds_encode, cost.seconds_finish, cost.step.seconds_of(cost.steps, cost.evaluations)
    assert cost.computed_seconds == pytest.approx(sum(parts))
    assert all(math.isfinite(seconds) and seconds > 0 for seconds in parts)


def test_both_take_turns_with_about_as_many_evaluations(model, monkeypatch):
    monkeypatch.setitem(panoramas.WINDOWS_ALONG, "cpu", 3)
    cost, panorama = measure_size(model, SIZE, 1)
    turns, run, predict = [], panoramas.overlap_steps, model.denoiser.predict_noise
    monkeypatch.setattr(panoramas, "overlap_steps", lambda *args: turns.append("overlap") or run(*args))
    monkeypatch.setattr(model.denoiser, "predict_noise", lambda *args: turns.append("csd") or predict(*args))
    compare_with_overlap(model, panorama, cost, SIZE, 2)
    assert [name for name, _ in itertools.groupby(turns)] == ["csd", "overlap"] * 2


def test_evaluations_are_those_of_the_whole_edits(model, monkeypatch, batches):
    cost, panorama = measure_size(model, SIZE, 1)
    batches.clear()
    overlap_steps(model, SIZE, 3, lambda _: None)
    overlap = sum(batches)
    assert overlap == 3 * 3 * WINDOWS
    for along in (2, 7):  # a part, and all of the image
        monkeypatch.setitem(panoramas.WINDOWS_ALONG, "cpu", along)
        figures = compare_with_overlap(model, panorama, cost, SIZE, 1)
        assert figures["evaluations"] == {"csd": cost.evaluations, "ip2p-overlap": overlap}
        assert figures["counted"] == cost.evaluations / overlap


def test_seconds_of_whole_edits_follow_from_those_of_the_timed_steps(model, monkeypatch):
    monkeypatch.setitem(panoramas.WINDOWS_ALONG, "cpu", 3)
    cost, panorama = measure_size(model, SIZE, 1)
    timed = iter([(2.0, 10), (4.0, 24), (8.0, 10), (8.0, 24)])  # seconds, evaluations
    monkeypatch.setattr(panoramas, "between_marks", lambda *_: next(timed))
    figures = compare_with_overlap(model, panorama, cost, SIZE, 2)
    vae = cost.seconds_encode + cost.seconds_finish
    overlap_vae = vae * 70 * 50 / math.prod(panorama.frame.canvas_size)
    part = 3 * 3  # windows of 64 x 50 pixels, of 4 * 3
    assert num_windows(model, (64, 50), 4) == part
    csd = [vae + cost.evaluations * seconds / 10 for seconds in (2, 8)]
    overlap = [overlap_vae + 3 * seconds * WINDOWS / part for seconds in (4, 8)]
    assert figures["seconds"]["csd"] == pytest.approx(csd)
    assert figures["seconds"]["ip2p-overlap"] == pytest.approx(overlap)
    assert figures["ratio"] == pytest.approx((csd[0] / overlap[0] + csd[1] / overlap[1]) / 2)


def test_every_size_is_printed(config, capsys):
    (figures,) = bench_panoramas(config)["sizes"]
    printed = capsys.readouterr().out
    assert "panorama 70 x 50, mini, cpu" in printed
    assert f"seconds {figures['over_overlap']['ratio']:.2f}, evaluations" in printed
