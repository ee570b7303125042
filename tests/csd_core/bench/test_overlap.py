"""csd and ip2p-overlap are timed in turn; what is computed is what the whole edits would spend."""

import math
from dataclasses import replace

import pytest

from csd_core.baselines import ip2p_overlap
from csd_core.bench import overlap
from csd_core.bench.overlap import Round, compare, format_overlap, num_windows, paper_evaluations, part_of
from csd_core.bench.panoramas import measure_size, smooth_image
from csd_core.bench.workloads import PROMPT
from csd_core.engine.config import EditConfig
from csd_core.presets import PANORAMA_MINI, Preset

SAMPLING = replace(PANORAMA_MINI.sampling, num_inference_steps=3)
PRESET = Preset(EditConfig(batch_size=3), updates=3, least_steps=4, stride=4, sampling=SAMPLING)
SIZE = (70, 50)
WINDOWS = 4 * 3  # 70 x 50 pixels are 18 x 13 latents: windows begin at 0, 4, 8, 10 and at 0, 4, 5
MAX_BATCH = 4


@pytest.fixture(scope="module")
def measured(workload):
    return measure_size(workload, SIZE, PRESET, 1, MAX_BATCH)


@pytest.fixture
def small_part(monkeypatch):
    """A part of two rows of windows."""
    monkeypatch.setitem(overlap.PART_WINDOWS, "cpu", 10)


def compared(workload, measured, rounds=2):
    result, panorama = measured
    return compare(workload, panorama, result, PRESET, MAX_BATCH, rounds)


def test_both_take_turns_with_about_as_many_evaluations(workload, measured, small_part, monkeypatch):
    turns, run = [], overlap.time_overlap
    monkeypatch.setattr(overlap, "time_overlap", lambda *args: turns.append("overlap") or run(*args))
    panorama, predict = measured[1], workload.denoiser.predict_noise
    monkeypatch.setattr(
        workload.denoiser, "predict_noise", lambda *args: turns.append("csd") or predict(*args)
    )
    timed = overlap.time_rounds(workload, panorama, smooth_image((70, 48)), SAMPLING, 4, 2)
    order = [name for k, name in enumerate(turns) if k == 0 or turns[k - 1] != name]
    assert order == ["csd", "overlap"] * 2
    for one in timed:
        assert one.overlap_evaluations == 3 * 4 * 2
        assert 0.4 < one.csd_evaluations / one.overlap_evaluations < 1.6
        assert min(one.csd_seconds, one.overlap_seconds) > 0


def test_counts_are_of_what_the_whole_edits_spend(workload, measured, batches):
    result = compared(workload, measured)
    assert result.part == SIZE
    assert result.overlap_windows == result.part_windows == WINDOWS
    assert max(batches) <= MAX_BATCH
    batches.clear()
    ip2p_overlap(workload.denoiser, smooth_image(SIZE), PROMPT, SAMPLING, stride=4)
    assert result.overlap_evaluations == sum(batches)
    assert result.overlap_steps == 3
    assert result.csd_evaluations == measured[0].evaluations
    assert result.ratio_evaluations == pytest.approx(result.csd_evaluations / result.overlap_evaluations)


def test_seconds_are_computed_from_the_rounds(workload, measured, small_part, monkeypatch):
    rounds = [Round(2.0, 10, 4.0, 24), Round(8.0, 10, 8.0, 24)]
    monkeypatch.setattr(overlap, "time_rounds", lambda *_: rounds)
    result, csd = compared(workload, measured), measured[0]
    assert (result.part, result.part_windows) == ((70, 48), 4 * 2)
    pixels = 70 * 50 / math.prod(measured[1].frame.canvas_size)
    vae = csd.seconds_encode + csd.seconds_decode, pixels * (csd.seconds_encode + csd.seconds_decode)
    assert result.vae_seconds == pytest.approx(vae)
    ratios = []
    for one in rounds:
        ours = vae[0] + csd.evaluations * one.csd_seconds / 10
        theirs = vae[1] + 3 * one.overlap_seconds * WINDOWS / 8
        ratios.append(ours / theirs)
    assert result.computed_ratio == pytest.approx(sum(ratios) / 2)
    assert result.overlap_evaluations == 3 * 3 * WINDOWS
    assert "on 8 of 12 windows, 70 x 48 of the image" in format_overlap(result, workload)


def test_a_part_has_no_more_windows_than_are_timed(workload, monkeypatch):
    denoiser = workload.denoiser
    for most in (1, 3, 5, 12):
        monkeypatch.setitem(overlap.PART_WINDOWS, "cpu", most)
        part = part_of(denoiser, SIZE, 4)
        assert min(part) >= denoiser.native_size
        assert num_windows(denoiser, part, 4) <= most
    assert part_of(denoiser, SIZE, 4) == SIZE


def test_papers_settings_are_counted_as_the_tool_would_edit(monkeypatch):
    fresh = replace(overlap.PANORAMA, edit=replace(overlap.PANORAMA.edit, noise_pool=0))
    monkeypatch.setattr(overlap, "PANORAMA", fresh)
    csd, theirs = paper_evaluations((1920, 640))
    # margins of 48 latents: 336 x 176 of them, 18 x 8 windows of 64, in rounds of 36 steps up to 200 steps
    assert csd == 6 * 36 * 4 * 5
    assert theirs == 100 * 12 * 2 * 3  # 240 x 80 latents, 12 x 2 windows


def test_small_images_are_counted_as_they_are_enlarged():
    assert paper_evaluations((300, 300))[1] == 100 * 3
