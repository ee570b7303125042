"""What a step of the engine costs, against the bare network and against the published scheme.

    ours        the engine: five evaluations per particle, all particles in one batch
    bare        the network alone on the same batch, five evaluations per particle
    published   six evaluations per particle (one of them the same twice), one particle at a time

All three are timed in turn within every round, so that a machine that slows down slows all of them, and the
median over rounds is taken. On CUDA the network computes in half precision, on a CPU in single.

Then what panoramas and videos cost: bench_panorama.py, bench_video.py.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from csd_core.branches import edit_branches
from csd_core.cli.command import run_command
from csd_core.csd import csd_edit_gradient
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine import EditConfig, edit_latents, particle_noise
from csd_core.errors import expect
from csd_core.guidance import instruct_pix2pix
from csd_core.machine import PeakMemory, describe_machine
from csd_core.schedule import step_generator

EVALUATIONS = 5
"""Evaluations of the network per particle and step, as Eq. 9 needs them."""
OVERHEAD_AT_MOST = 1.10
SPEEDUP_AT_LEAST = 1.3


@dataclass
class BenchConfig:
    """What to measure."""

    parts: Literal["all", "engine", "panorama", "video"] = "all"
    """A step of the engine; the edit of panoramas or of videos, always with the shipped editor; or all."""
    model: Literal["both", "mini", "sd15"] = "both"
    """Engine: the shipped editor; a UNet of Stable Diffusion 1.5's size with random weights; or both."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where. auto takes CUDA where there is one."""
    particles: int | None = None
    """Engine: particles that share a step. Default: 16, or 1 for sd15 on a CPU."""
    max_batch: int = 16
    """Evaluations at a time, of engine and bare network alike."""
    steps: int | None = None
    """Engine: steps per round. Default: 4, on a CPU 1."""
    rounds: int | None = None
    """Engine: rounds, of which the median counts. Default: 5, or 1 for sd15 on a CPU."""
    sizes: tuple[str, ...] = ("1920x640", "3968x4352", "8192x4096")
    """Panorama: width x height of each."""
    compare_sizes: tuple[str, ...] = ("1920x640", "3968x4352")
    """Panorama: sizes at which csd is set against ip2p-overlap."""
    panorama_steps: int = 3
    """Panorama: steps to time at each size, of which the median counts."""
    frames: tuple[int, ...] = (24, 240, 2400)
    """Video: numbers of frames."""
    video_steps: int = 3
    """Video: steps to time at each length, of which the median counts."""
    json: Path | None = None
    """Also write the figures here."""


@dataclass(frozen=True)
class BenchResult:
    """Medians over the rounds of one model."""

    model: str
    device: str
    dtype: str
    latents: tuple[int, int]
    particles: int
    max_batch: int
    steps: int
    rounds: int
    seconds_per_evaluation: float
    """Bare network, at the engine's batch."""
    seconds_ours: float
    """Per particle and step."""
    seconds_published: float
    """Per particle and step."""
    overhead: float
    """seconds_ours over five bare evaluations, the median of the rounds' ratios."""
    speedup: float
    """seconds_published over seconds_ours, the median of the rounds' ratios."""
    peak_bare: float
    peak_ours: float
    peak_published: float
    """Peak memory in GiB: what the device allocated, or on a CPU the whole process."""


@dataclass(frozen=True)
class Workload:
    """A model and what an edit needs of it."""

    name: str
    denoiser: InstructPix2Pix
    unet: torch.nn.Module
    size: tuple[int, int]
    """Height and width of the latents."""


PROMPT = "make it night"


def measure(workload: Workload, particles: int, max_batch: int, steps: int, rounds: int) -> BenchResult:
    """Time the three schemes in turn, after one evaluation to warm up.

    Args:
        workload: the model.
        particles: N, all in every step.
        max_batch: evaluations at a time for engine and bare network.
        steps: steps per round and scheme.
        rounds: repetitions.
    """
    denoiser = workload.denoiser
    config = EditConfig(num_steps=steps, batch_size=particles, max_batch=max_batch, learning_rate=0.1)
    source = _seeded(0, (particles, denoiser.latent_channels, *workload.size), denoiser.device)
    assert len(edit_branches(config, {PROMPT: [1.0] * particles}, particles)) == EVALUATIONS
    bare = bare_evaluations(workload, EVALUATIONS * particles, max_batch)
    schemes: dict[str, Callable[[], object]] = {
        "bare": lambda: [bare() for _ in range(steps)],
        "ours": lambda: edit_latents(denoiser, source, source, source, PROMPT, config),
        "published": lambda: published_scheme(denoiser, source, source, source, PROMPT, config),
    }
    bare_evaluations(workload, 1, 1)()
    seconds: dict[str, list[float]] = {name: [] for name in schemes}
    peaks = dict.fromkeys(schemes, 0.0)
    for _ in range(rounds):
        for name, run in schemes.items():
            with PeakMemory(denoiser.device) as memory:
                start = time.perf_counter()
                run()
                wait_for(denoiser.device)
                seconds[name].append((time.perf_counter() - start) / (steps * particles))
            peaks[name] = max(peaks[name], memory.peak)
    return BenchResult(
        model=workload.name,
        device=denoiser.device.type,
        dtype=str(denoiser.dtype).removeprefix("torch."),
        latents=workload.size,
        particles=particles,
        max_batch=max_batch,
        steps=steps,
        rounds=rounds,
        seconds_per_evaluation=statistics.median(seconds["bare"]) / EVALUATIONS,
        seconds_ours=statistics.median(seconds["ours"]),
        seconds_published=statistics.median(seconds["published"]),
        overhead=_median_ratio(seconds["ours"], seconds["bare"]),
        speedup=_median_ratio(seconds["published"], seconds["ours"]),
        peak_bare=peaks["bare"],
        peak_ours=peaks["ours"],
        peak_published=peaks["published"],
    )


def bare_evaluations(workload: Workload, count: int, max_batch: int) -> Callable[[], None]:
    """A function that evaluates the network `count` times on prepared inputs and does nothing else."""
    denoiser = workload.denoiser
    sample = _seeded(1, (count, 2 * denoiser.latent_channels, *workload.size), denoiser.device)
    sample = sample.to(denoiser.dtype)
    text = denoiser.embed([PROMPT]).to(denoiser.dtype).expand(count, -1, -1)
    t = torch.full((count,), denoiser.schedule.num_timesteps // 3, device=denoiser.device)

    @torch.no_grad()
    def evaluate() -> None:
        for chunk, time_, words in zip(*(x.split(max_batch) for x in (sample, t, text)), strict=True):
            workload.unet(chunk, time_, encoder_hidden_states=words)

    return evaluate


@torch.no_grad()
def published_scheme(
    denoiser: InstructPix2Pix,
    canvas: Tensor,
    source: Tensor,
    condition: Tensor,
    prompt: str,
    config: EditConfig,
) -> Tensor:
    """The same edit as edit_latents, spent as in the published code: six evaluations, particle by particle.

    The source is asked with the same three branches as the target, its text branch with the empty prompt:
    the same evaluation twice.
    """
    texts = [denoiser.embed(["", "", words]) for words in (prompt, "")]
    for step in range(config.num_steps):
        timestep = denoiser.schedule.sample_timestep(config.t_range, step_generator(config.seed, step, 0))
        t = torch.full((3,), timestep, device=canvas.device)
        noise = particle_noise(config, step, range(len(canvas)), canvas)
        x_t = denoiser.schedule.add_noise(canvas, noise, t[0])
        source_t = denoiser.schedule.add_noise(source, noise, t[0])
        predictions: list[list[Tensor]] = [[], []]
        for i in range(len(canvas)):
            image = torch.stack([torch.zeros_like(condition[i]), condition[i], condition[i]])
            for side, noisy in enumerate((x_t, source_t)):
                eps_u, eps_i, eps_it = denoiser.predict_noise(
                    noisy[i].expand_as(image), t, texts[side], image
                )
                scales = (config.guidance_scale, config.image_guidance_scale)
                predictions[side].append(instruct_pix2pix(eps_u, eps_i, eps_it, *scales))
        target, baseline = (torch.stack(side) for side in predictions)
        weight = denoiser.schedule.weight(t[0])
        gradient = csd_edit_gradient(x_t, target, baseline, weight, kernel=config.kernel)
        canvas = canvas - config.learning_rate_at(step) * gradient
    return canvas


def mini_workload(device: torch.device) -> Workload:
    """The shipped editor, or where its weights are missing the same networks with random weights."""
    from csd_core.denoisers.loading import MINI_FOLDER, load_components

    if (MINI_FOLDER / "model_index.json").is_file():
        name, components = "mini", load_components(MINI_FOLDER, torch_dtype=_dtype(device), device=device)
    else:
        name, components = "mini (random weights)", _untrained_mini(device)
    denoiser = InstructPix2Pix(**components)
    side = denoiser.native_size // denoiser.downscale
    return Workload(name, denoiser, components["unet"], (side, side))


def stable_diffusion_workload(device: torch.device) -> Workload:
    """A UNet of Stable Diffusion 1.5's size with random weights: 8 input channels, 64 x 64, text 77 x 768."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    with device:
        # The defaults of the class are Stable Diffusion 1's, but for the width of the text.
        unet: Any = UNet2DConditionModel(sample_size=64, in_channels=8, cross_attention_dim=768)
    _move(unet, device, _dtype(device))
    # Of the other parts only factor and channels are asked for: the engine works on latents.
    vae = AutoencoderKL(**_FOUR_LEVELS)
    identity: Any = torch.nn.Identity()
    denoiser = _RandomText(unet, vae, identity, identity, DDIMScheduler())
    return Workload("Stable Diffusion 1.5 size", denoiser, unet, (64, 64))


_FOUR_LEVELS: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (8,) * 4,
    "norm_num_groups": 8,
}


def _untrained_mini(device: torch.device) -> dict[str, Any]:
    from csd_core.mini_editor import build

    tokenizer = build.build_tokenizer()
    networks: dict[str, Any] = {
        "unet": build.build_unet(),
        "vae": build.build_vae(),
        "text_encoder": build.build_text_encoder(tokenizer),
    }
    for name, network in networks.items():
        _move(network, device, torch.float32 if name == "vae" else _dtype(device))
    return {**networks, "tokenizer": tokenizer, "scheduler": build.build_scheduler()}


class _RandomText(InstructPix2Pix):
    """Stands in for a text encoder, which runs once per prompt and is not what is measured."""

    def embed(self, prompts: Any) -> Tensor:
        return _seeded(2, (1, 77, 768), self.device).to(self.dtype).expand(len(prompts), -1, -1)


def bench(config: BenchConfig) -> None:
    """Measure the engine against bare network and published scheme, and what panoramas and videos cost."""
    from csd_core.denoisers.loading import resolve_device

    device = resolve_device(None if config.device == "auto" else config.device)
    machine = describe_machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    figures: dict[str, Any] = {"machine": machine}
    measures: dict[str, Callable[[BenchConfig, torch.device], Any]] = {
        "engine": bench_engine,
        "panorama": bench_panorama,
        "video": bench_video,
    }
    for part, measure_part in measures.items():
        if config.parts in ("all", part):
            figures["results" if part == "engine" else part] = measure_part(config, device)
    if config.json:
        config.json.parent.mkdir(parents=True, exist_ok=True)
        config.json.write_text(json.dumps(figures, indent=1))


def bench_engine(config: BenchConfig, device: torch.device) -> list[dict[str, Any]]:
    """Measure and print what a step costs; the figures of each model."""
    makers = {"mini": mini_workload, "sd15": stable_diffusion_workload}
    results = []
    for name, make in makers.items():
        if config.model not in ("both", name):
            continue
        slow = name == "sd15" and device.type == "cpu"
        print(f"measuring {name} on {device.type} ...", file=sys.stderr, flush=True)
        results.append(
            measure(
                make(device),
                particles=config.particles or (1 if slow else 16),
                max_batch=config.max_batch,
                steps=config.steps or (1 if device.type == "cpu" else 4),
                rounds=config.rounds or (1 if slow else 5),
            )
        )
        print(format_result(results[-1]), flush=True)
    return [asdict(result) for result in results]


def bench_panorama(config: BenchConfig, device: torch.device) -> dict[str, Any]:
    """Measure and print what panoramas cost; the figures of each size and comparison."""
    from csd_core import bench_panorama as panorama  # which imports this module
    from csd_core.presets import PANORAMA_MINI

    expect(config.panorama_steps >= 1, "panorama_steps", "at least 1", config.panorama_steps)
    workload, batch = mini_workload(device), config.max_batch
    least = workload.denoiser.native_size
    sizes = [panorama.parse_size("sizes", text, least) for text in config.sizes]
    compared = [panorama.parse_size("compare_sizes", text, least) for text in config.compare_sizes]
    panorama.warm_up(workload, batch)
    measured: dict[tuple[int, int], panorama.SizeResult] = {}
    for size in dict.fromkeys([*sizes, *compared]):
        print(f"measuring a panorama of {size[0]} x {size[1]} ...", file=sys.stderr, flush=True)
        measured[size] = panorama.measure_size(workload, size, PANORAMA_MINI, config.panorama_steps, batch)
        print(panorama.format_size(measured[size], workload, batch), flush=True)
    comparisons = []
    for size in compared:
        print(f"measuring ip2p-overlap at {size[0]} x {size[1]} ...", file=sys.stderr, flush=True)
        comparisons.append(panorama.compare(workload, size, PANORAMA_MINI, measured[size], batch))
        print(panorama.format_comparison(comparisons[-1]), flush=True)
    return {
        "model": workload.name,
        "device": device.type,
        "dtype": str(workload.denoiser.dtype).removeprefix("torch."),
        "max_batch": batch,
        "sizes": [asdict(result) for result in measured.values()],
        "comparisons": [asdict(result) for result in comparisons],
    }


def bench_video(config: BenchConfig, device: torch.device) -> list[dict[str, Any]]:
    """Measure and print what videos cost; the figures of each length."""
    from csd_core import bench_video as video  # which imports this module
    from csd_core.presets import VIDEO_MINI

    expect(config.video_steps >= 1, "video_steps", "at least 1", config.video_steps)
    expect(min(config.frames, default=0) >= 1, "frames", "numbers of frames, at least 1", config.frames)
    workload, results = mini_workload(device), []
    for frames in config.frames:
        print(f"measuring a video of {frames} frames ...", file=sys.stderr, flush=True)
        results.append(
            video.measure_video(workload, frames, VIDEO_MINI, config.video_steps, config.max_batch)
        )
        print(video.format_video(results[-1], workload, config.max_batch), flush=True)
    return [asdict(result) for result in results]


def format_result(result: BenchResult) -> str:
    """The figures of one model as a few lines of text."""
    h, w = result.latents
    lines = [
        "",
        f"{result.model}: {result.device}, {result.dtype}, latents {h} x {w}, {result.particles} particles, "
        f"{result.max_batch} evaluations at a time, median of {result.rounds} rounds of {result.steps} steps",
        f"  bare network  {result.seconds_per_evaluation:8.4f} s an evaluation,        "
        f"peak {result.peak_bare:.2f} GiB",
        f"  ours          {result.seconds_ours:8.4f} s a particle and step, peak {result.peak_ours:.2f} GiB",
        f"  published     {result.seconds_published:8.4f} s a particle and step, "
        f"peak {result.peak_published:.2f} GiB",
        f"  ours / {EVALUATIONS} bare         {result.overhead:.3f}  (target: at most {OVERHEAD_AT_MOST})",
        f"  published / ours      {result.speedup:.2f}   (target on mini: at least {SPEEDUP_AT_LEAST})",
    ]
    return "\n".join(lines)


def _seeded(seed: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.randn(shape, generator=step_generator(seed)).to(device)


def _dtype(device: torch.device) -> torch.dtype:
    return torch.float16 if device.type == "cuda" else torch.float32


def _move(network: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    network.to(device)
    if dtype != torch.float32:  # diffusers warns of every cast, also of one that changes nothing
        network.to(dtype)


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _median_ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def main() -> int:
    """Entry point of csd-bench."""
    return run_command(BenchConfig, bench)


if __name__ == "__main__":
    sys.exit(main())
