"""The figures of panoramas are of what ran; what is computed from them is what a whole edit would spend."""

import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from csd_core import bench, bench_panorama
from csd_core.baselines import ip2p_overlap
from csd_core.bench import PROMPT
from csd_core.config import EditConfig
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.errors import UserError
from csd_core.panorama import Panorama
from csd_core.presets import PANORAMA_MINI, Preset

SAMPLING = replace(PANORAMA_MINI.sampling, num_inference_steps=3)
PRESET = Preset(EditConfig(batch_size=3), updates=1, least_steps=4, stride=4, sampling=SAMPLING)
SIZE = (70, 50)
MAX_BATCH = 4


@pytest.fixture(scope="module")
def workload():
    """The networks of the mini editor on windows of 8 x 8 latents, which are quicker."""
    torch.manual_seed(0)  # missing weights are random, made by libraries that know no generator
    made = bench.mini_workload(torch.device("cpu"))
    unet: Any = made.unet
    unet.register_to_config(sample_size=8)
    parts = made.denoiser.pipeline().components
    denoiser = InstructPix2Pix(
        **{name: parts[name] for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")}
    )
    return bench.Workload("tiny", denoiser, parts["unet"], (8, 8))


@pytest.fixture
def batches(workload):
    """The batch size of each evaluation of the network, as it happens."""
    sizes = []
    handle = workload.unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    yield sizes
    handle.remove()


@pytest.fixture(scope="module")
def measured(workload):
    return bench_panorama.measure_size(workload, SIZE, PRESET, 1, MAX_BATCH)


@pytest.fixture
def small_parts(monkeypatch):
    """The size above which a part is timed, and the part."""
    monkeypatch.setattr(bench_panorama, "PART_ABOVE", SIZE[0] * SIZE[1] - 1)
    monkeypatch.setattr(bench_panorama, "PART_WINDOWS", 10)


def numbers(figures):
    return [value for value in figures.values() if isinstance(value, int | float)]


def test_a_whole_edit_spends_the_evaluations_that_were_counted(workload, batches, measured):
    image = bench_panorama.smooth_image(SIZE)
    panorama = Panorama(workload.denoiser, image, PROMPT, PRESET.with_edit(max_batch=MAX_BATCH), PRESET)
    ran = []
    panorama.run(callback=lambda step, _: ran.append(step))
    assert (measured.evaluations, measured.steps) == (sum(batches), len(ran))
    assert measured.windows == panorama.windows.num_particles
    assert (measured.width, measured.height) == SIZE == (image.shape[3], image.shape[2])


def test_figures_of_a_size_are_finite_and_add_up(measured):
    assert all(math.isfinite(value) and value > 0 for value in numbers(asdict(measured))[:-1])
    parts = measured.seconds_encode + measured.seconds_decode
    assert measured.computed_seconds == pytest.approx(parts + measured.steps * measured.seconds_step)
    bare = 5 * 3 * measured.seconds_per_evaluation
    assert measured.computed_besides_network == pytest.approx(1 - bare / measured.seconds_step)
    assert -1 < measured.computed_besides_network < 1
    assert 0.1 < measured.peak < 64


def test_bare_network_runs_after_each_timed_step_in_the_same_batches(workload, batches):
    result = bench_panorama.measure_size(workload, SIZE, PRESET, 2, MAX_BATCH)
    step = [4, 4, 4, 3]  # three windows, five evaluations each
    assert batches == step + 2 * (step + step)
    assert result.timed_steps == 2


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

    monkeypatch.setattr(bench_panorama, "PeakMemory", Watched)
    for name in ("encode", "decode"):
        monkeypatch.setattr(workload.denoiser, name, noted(name, getattr(workload.denoiser, name)))
    monkeypatch.setattr(bench_panorama, "time_steps", noted("steps", bench_panorama.time_steps))
    result = bench_panorama.measure_size(workload, SIZE, PRESET, 1, MAX_BATCH)
    assert events == ["begin", "encode", "steps", "decode", "end"]
    assert result.peak == 1.5


def test_timed_overlap_counts_what_the_whole_edit_spends(workload, batches, measured):
    result = bench_panorama.compare(workload, SIZE, PRESET, measured, MAX_BATCH)
    assert result.timed.evaluations == sum(batches) == 3 * result.overlap_windows
    assert max(batches) == MAX_BATCH
    assert result.timed_height == SIZE[1]
    batches.clear()
    ip2p_overlap(workload.denoiser, bench_panorama.smooth_image(SIZE), PROMPT, SAMPLING, stride=4)
    assert result.computed_overlap_evaluations == sum(batches)
    assert result.overlap_steps == 3


def test_computed_seconds_of_overlap_are_the_timed_parts(workload, measured):
    result = bench_panorama.compare(workload, SIZE, PRESET, measured, MAX_BATCH)
    timed = result.timed
    assert all(math.isfinite(value) and value > 0 for value in numbers({**asdict(result), **asdict(timed)}))
    seconds = timed.seconds_encode + 3 * timed.seconds_step + timed.seconds_decode
    assert result.computed_overlap_seconds == pytest.approx(seconds)
    assert result.computed_ratio_seconds == pytest.approx(measured.computed_seconds / seconds)
    ratio = measured.evaluations / result.computed_overlap_evaluations
    assert result.computed_ratio_evaluations == pytest.approx(ratio)
    assert timed.seconds_step > max(timed.seconds_encode, timed.seconds_decode)


def test_of_a_large_image_a_part_is_timed_and_scaled(workload, batches, measured, small_parts):
    result = bench_panorama.compare(workload, SIZE, PRESET, measured, MAX_BATCH)
    timed, columns = result.timed, 4  # 70 pixels are 18 latents: windows begin at 0, 4, 8 and 10
    assert (timed.windows, result.timed_height) == (2 * columns, 32 + 4 * 4)
    assert timed.evaluations == sum(batches) == 3 * timed.windows
    scale = result.overlap_windows / timed.windows
    assert result.computed_overlap_evaluations == 3 * 3 * result.overlap_windows
    pixels = SIZE[1] / result.timed_height
    seconds = scale * 3 * timed.seconds_step + pixels * (timed.seconds_encode + timed.seconds_decode)
    assert result.computed_overlap_seconds == pytest.approx(seconds)
    assert f"{timed.windows} of {result.overlap_windows} windows" in bench_panorama.format_comparison(result)


def test_papers_settings_are_counted_as_the_tool_would_edit(workload, measured):
    csd, overlap = bench_panorama._paper_evaluations((1920, 640))
    # margins of 48 latents: 336 x 176 of them, 18 x 8 windows of 64, in rounds of 36 steps up to 200 steps
    assert csd == 6 * 36 * 4 * 5
    assert overlap == 100 * 12 * 2 * 3  # 240 x 80 latents, 12 x 2 windows


def test_small_images_are_counted_as_they_are_enlarged():
    assert bench_panorama._paper_evaluations((300, 300))[1] == 100 * 3


def test_the_image_is_smooth_and_the_same_every_time():
    image = bench_panorama.smooth_image((200, 130))
    assert image.shape == (1, 3, 130, 200)
    assert torch.equal(image, bench_panorama.smooth_image((200, 130)))
    assert image.diff(dim=-1).abs().max() < 0.05
    assert image.std() > 0.05


@pytest.mark.parametrize("text", ["64", "64x", "64x31", "-64x64", "64x64x64", "a4x64", "²00x200"])
def test_a_size_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="compare_sizes: expected WIDTHxHEIGHT"):
        bench_panorama.parse_size("compare_sizes", text, 32)
    assert bench_panorama.parse_size("sizes", "32X640", 32) == (32, 640)


def run(monkeypatch, workload, *args):
    monkeypatch.setattr(bench, "mini_workload", lambda device: workload)
    monkeypatch.setattr("csd_core.presets.PANORAMA_MINI", PRESET)
    command = ["csd-bench", "--parts", "panorama", "--panorama-steps", "1", "--device", "cpu"]
    engine = ["--model", "mini", "--particles", "1", "--rounds", "1"]
    monkeypatch.setattr("sys.argv", [*command, *engine, *args])
    return bench.main()


def test_command_prints_every_size_and_writes_json(monkeypatch, capsys, tmp_path, workload):
    path = tmp_path / "bench.json"
    sizes = ["--sizes", "70x50", "--compare-sizes", "40x36"]
    assert run(monkeypatch, workload, *sizes, "--json", str(path)) == 0
    printed = capsys.readouterr().out
    figures = json.loads(path.read_text())
    assert sorted(figures) == ["machine", "panorama"]
    measured, (comparison,) = figures["panorama"]["sizes"], figures["panorama"]["comparisons"]
    assert [(size["width"], size["height"]) for size in measured] == [(70, 50), (40, 36)]
    assert comparison["csd"] == measured[1]
    for size in measured:
        assert f"panorama {size['width']} x {size['height']}" in printed
        assert f"{size['seconds_step']:.4f} s, median of 1" in printed
        assert f"computed from 1 of {size['steps']} steps" in printed
    assert f"seconds {comparison['computed_ratio_seconds']:.2f}" in printed
    assert "computed from 1 of 3 sampling steps" in printed


def test_an_empty_list_of_comparisons_switches_them_off(monkeypatch, capsys, workload):
    assert run(monkeypatch, workload, "--sizes", "40x36", "--compare-sizes") == 0
    printed = capsys.readouterr().out
    assert "panorama 40 x 36" in printed
    assert "overlap" not in printed


@pytest.mark.parametrize(
    "wrong", [["--sizes", "70x5"], ["--compare-sizes", "wide"], ["--panorama-steps", "0"]]
)
def test_bad_options_are_refused_before_anything_is_measured(monkeypatch, capsys, workload, batches, wrong):
    assert run(monkeypatch, workload, *wrong) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not batches
