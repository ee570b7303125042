"""The benchmark times what it says it times, and the published scheme it compares with is the same edit."""

import json
import re
import time

import pytest
import torch

from csd_core import bench
from csd_core.engine import EditConfig, edit_latents
from csd_core.machine import PeakMemory

PARTICLES = 3


@pytest.fixture(scope="module")
def workload():
    torch.manual_seed(0)  # random weights; the networks are made by libraries that know no generator
    made = bench.mini_workload(torch.device("cpu"))
    return bench.Workload("tiny", made.denoiser, made.unet, (8, 8))


@pytest.fixture
def evaluated(workload):
    """The batch size of each evaluation of the network, as it happens."""
    sizes = []
    handle = workload.unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    yield sizes
    handle.remove()


def latents(workload, seed):
    shape = (PARTICLES, workload.denoiser.latent_channels, *workload.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_published_scheme_gives_the_same_edit_for_one_evaluation_more(workload, evaluated):
    config = EditConfig(num_steps=2, learning_rate=0.5)
    canvas, source, condition = (latents(workload, seed) for seed in range(3))
    published = bench.published_scheme(workload.denoiser, canvas, source, condition, "make it night", config)
    assert evaluated == [3, 3] * PARTICLES * config.num_steps
    evaluated.clear()
    ours = edit_latents(workload.denoiser, canvas, source, condition, "make it night", config)
    assert sum(evaluated) == 5 * PARTICLES * config.num_steps
    assert (ours - canvas).abs().max() > 0.01
    torch.testing.assert_close(published, ours, rtol=1e-3, atol=1e-4)


def test_every_scheme_spends_the_evaluations_it_is_charged_for(workload, evaluated):
    result = bench.measure(workload, PARTICLES, max_batch=4, steps=2, rounds=1)
    warm_up, per_step = 1, (5 + 5 + 6) * PARTICLES
    assert sum(evaluated) == warm_up + 2 * per_step
    assert evaluated[1:5] == evaluated[5:9] == [4, 4, 4, 3]  # bare: the engine's own split, in both steps
    assert max(evaluated) == 4
    assert result.overhead == pytest.approx(result.seconds_ours / (5 * result.seconds_per_evaluation))
    assert result.speedup == pytest.approx(result.seconds_published / result.seconds_ours)
    assert 0.1 < result.peak_ours < 64


def test_peak_memory_sees_what_was_held_only_for_a_moment():
    with PeakMemory(torch.device("cpu")) as before:
        pass
    with PeakMemory(torch.device("cpu")) as memory:
        held = torch.ones(2**28 // 4)  # 256 MiB, written to
        held.sum()
        time.sleep(0.1)  # ten samples, should another process have the core
        del held
    assert memory.peak - before.peak == pytest.approx(0.25, abs=0.1)


def test_stable_diffusion_workload_has_the_size_it_claims():
    workload = bench.stable_diffusion_workload(torch.device("meta"))
    parameters = sum(p.numel() for p in workload.unet.parameters())
    # 859,520,964 of Stable Diffusion 1.5, and 4 more input channels of its first 3 x 3 convolution.
    assert parameters == 859_520_964 + 4 * 3 * 3 * 320
    assert (workload.denoiser.downscale, workload.denoiser.native_size) == (8, 512)


def test_command_prints_machine_targets_and_writes_json(monkeypatch, capsys, tmp_path, workload):
    monkeypatch.setattr(bench, "mini_workload", lambda device: workload)
    path = tmp_path / "new" / "bench.json"
    options = ["--parts", "engine", "--model", "mini", "--particles", "2", "--rounds", "1"]
    options += ["--sizes", "--compare-sizes"]
    monkeypatch.setattr("sys.argv", ["csd-bench", *options, "--json", str(path)])
    assert bench.main() == 0
    printed = capsys.readouterr().out
    assert re.search(r"cores \d+", printed)
    assert "at most 1.1" in printed
    figures = json.loads(path.read_text())
    assert sorted(figures) == ["machine", "results"]
    (result,) = figures["results"]
    assert f"{result['overhead']:.3f}" in printed
    assert f"{result['speedup']:.2f}" in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what a machine with CUDA has")
def test_asking_for_an_absent_gpu_is_one_line_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["csd-bench", "--device", "cuda"])
    assert bench.main() == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
