"""Ours over the scheme of the published code: six evaluations for each particle, one particle at a time."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from csd_core.bench.edits import ShortEdit, short_edit
from csd_core.bench.options import BenchConfig
from csd_core.bench.timing import Contender, alternate
from csd_core.bench.workloads import PROMPT, ModelName, Setup, default_setup
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine.config import EditConfig
from csd_core.engine.loop import particle_noise
from csd_core.method.csd import csd_edit_gradient
from csd_core.method.guidance import instruct_pix2pix
from csd_core.method.schedule import step_generator

AT_LEAST = {"cpu": 2.0, "cuda": 4.0}
"""The target by device."""
PART = 8
"""Of the steps of the edit the published scheme is timed for one in so many; they all cost the same."""

PUBLISHED, PUBLISHED_FLOAT32 = "published", "published, float32"
PLAIN, DEFAULT = "ours, plain", "ours, by default"


@dataclass(frozen=True)
class Comparison:
    """Of one model."""

    model: str
    device: str
    setups: dict[str, str]
    """Name -> precision, memory format, draws."""
    particle_steps_per_second: dict[str, float]
    """Of each; the ratios are the medians of those of each round."""
    plain_over_published: float
    default_over_published: float
    default_over_published_float32: float | None
    """What precision adds is in this one too. None where float32 is the default."""


def bench_published(config: BenchConfig) -> list[dict[str, Any]]:
    """Measure and print it for each model."""
    results = []
    for model in config.models:
        edits = compared_edits(config, model)
        result = measure_published(edits, config.rounds)
        print(format_published(edits, result, config.rounds), flush=True)
        results.append(asdict(result))
    return results


def compared_edits(config: BenchConfig, model: ModelName) -> dict[str, ShortEdit]:
    """The same edit for every scheme, all but one in the precision that is the default."""
    default = default_setup(config.device)
    plain = short_edit(config, model, Setup(default.dtype))
    edits = {PUBLISHED: plain, PLAIN: plain, DEFAULT: short_edit(config, model, default)}
    if default.dtype != torch.float32:
        edits[PUBLISHED_FLOAT32] = short_edit(config, model, Setup(torch.float32))
    return edits


def measure_published(edits: dict[str, ShortEdit], rounds: int) -> Comparison:
    """Time all schemes in turn."""
    contenders = {}
    for name, edit in edits.items():
        published = name in (PUBLISHED, PUBLISHED_FLOAT32)
        edit.warm_up()
        contenders[name] = published_contender(edit) if published else edit.ours
    workload = edits[DEFAULT].workload
    timed = alternate(contenders, rounds, workload.device)
    return Comparison(
        model=workload.name,
        device=workload.device.type,
        setups={name: str(edit.workload.setup) for name, edit in edits.items()},
        particle_steps_per_second={name: 1 / timed.median(name) for name in edits},
        plain_over_published=timed.ratio(PUBLISHED, PLAIN),
        default_over_published=timed.ratio(PUBLISHED, DEFAULT),
        default_over_published_float32=(
            timed.ratio(PUBLISHED_FLOAT32, DEFAULT) if PUBLISHED_FLOAT32 in edits else None
        ),
    )


def published_contender(edit: ShortEdit) -> Contender:
    """The published scheme for a part of the steps of an edit."""
    short = replace(edit.config, num_steps=max(1, edit.config.num_steps // PART))
    x, denoiser = edit.latents, edit.workload.denoiser
    run: Callable[[], Tensor] = lambda: published_scheme(denoiser, x, x, x, PROMPT, short)  # noqa: E731
    return Contender(run, short.num_steps * len(x))


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
    the same evaluation twice. Draws are fresh in every step.
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


def format_published(edits: dict[str, ShortEdit], result: Comparison, rounds: int) -> str:
    """The figures as a few lines of text."""
    lines = ["", f"ours over the published scheme, {edits[DEFAULT].describe(rounds)}"]
    for name, rate in result.particle_steps_per_second.items():
        lines.append(f"  {name:<20}{rate:9.3f} particle-steps a second; {result.setups[name]}")
    target = AT_LEAST[result.device]
    lines += [
        f"  plain / published   {result.plain_over_published:9.2f}",
        f"  default / published {result.default_over_published:9.2f}   (target: at least {target:g})",
    ]
    if result.default_over_published_float32 is None:
        lines.append("  precision adds nothing here: float32 is the default")
    else:
        lines.append(
            f"  default / published {result.default_over_published_float32:9.2f}   with the published scheme "
            "in float32: what precision adds is in it"
        )
    return "\n".join(lines)
