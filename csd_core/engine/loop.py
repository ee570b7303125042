"""The one optimisation loop. Scenes, panoramas and videos differ only in the canvas that they hand to it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from csd_core.denoisers.base import Conditioning, Denoiser, PromptWeights
from csd_core.denoisers.runtime.batching import at_a_time, in_chunks
from csd_core.engine.config import EditConfig
from csd_core.engine.layout import Layout, Stack, gather_condition
from csd_core.engine.progress import Callback, ProgressBar
from csd_core.engine.ranks import ALONE, Ranks
from csd_core.engine.step import Step
from csd_core.errors import NonFiniteError, UserError, expect
from csd_core.image_ops import pad_to_multiple

Prompt = str | PromptWeights
SYNCHRONIZE_EVERY = 20
"""Steps after which ranks take rank 0's canvas: unlike devices round differently."""


@torch.no_grad()
def edit_latents(
    denoiser: Denoiser,
    canvas: Tensor,
    source: Tensor,
    condition: Conditioning,
    prompt: Prompt,
    config: EditConfig,
    layout: Layout | None = None,
    *,
    callback: Callback | None = None,
    start_step: int = 0,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Optimise a canvas of latents until its particles follow the instruction and agree. THE loop.

    A step depends on (canvas, config, step) alone. To resume, pass the canvas and the number of steps done.

    Args:
        denoiser: the model; everything stays on its device.
        canvas: float32 latents to start from, for a Stack (N, C, h, w). Not changed in place.
        source: latents of the source, same shape.
        condition: of the source, see Denoiser.encode_condition; rows as the canvas.
        prompt: the instruction; or several, each with its share of the text guidance for every particle
            (they add up to 1, except where a prompt has a guidance of its own: appendix C.1).
        config: settings.
        layout: how particles lie in the canvas. Default: Stack.
        callback: called as callback(step, canvas) after every step, with the canvas at work: clone it to keep
            it. True ends the edit here.
        start_step: steps that are already done.
        ranks: share the evaluations. All of them call this with the same canvas, source and condition, get
            the same canvas back, and stop when the callback of one of them returns True.

    Returns:
        The edited canvas.

    Raises:
        UserError: a setting out of range, or no prompt.
        NonFiniteError: a prediction was NaN or infinite; holds the canvas before that step.
    """
    config.check()
    layout = layout or Stack(len(canvas))
    device = denoiser.device
    source, condition = source.to(device, torch.float32), condition.to(device)
    canvas = canvas.to(device, torch.float32, copy=True)

    def source_of(particles: Sequence[int]) -> tuple[Tensor, Conditioning]:
        return layout.gather(source, particles), gather_condition(layout, condition, particles)

    prompts = _prompt_weights(prompt, layout.num_particles)
    method = Step(denoiser, prompts, config, layout.num_particles, source_of, ranks)
    guard = _FiniteGuard(config.num_steps, canvas)
    for step in range(start_step, config.num_steps):
        particles = method.draws.particles(step)
        x = layout.gather(canvas, particles)
        gradients = method.gradients(step, x)
        steps = guard.accept(step, x, config.learning_rate_at(step) * gradients)
        layout.descend(canvas, steps, particles)
        guard.look(step)
        if (step + 1) % SYNCHRONIZE_EVERY == 0:
            ranks.synchronize(canvas)
        if ranks.any(callback is not None and bool(callback(step, canvas))):
            break
    guard.check()
    return canvas


def encode(denoiser: Denoiser, images: Tensor, chunk_size: int) -> tuple[Tensor, Conditioning]:
    """Latents and condition of images (n, 3, H, W) in [0, 1], so many at a time; n rows each."""
    latents = in_chunks(denoiser.encode, chunk_size, images)
    parts = zip(images.split(chunk_size), latents.split(chunk_size), strict=True)
    return latents, Conditioning.cat([denoiser.encode_condition(*part) for part in parts])


@torch.no_grad()
def edit_images(
    denoiser: Denoiser,
    images: Tensor,
    prompt: Prompt,
    config: EditConfig,
    *,
    init: Tensor | None = None,
    callback: Callback | None = None,
    progress: bool = False,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Edit images so that they agree with each other: encode, optimise, decode.

    Args:
        denoiser: the model.
        images: (N, 3, H, W) in [0, 1], any H and W: source and condition.
        prompt: see edit_latents.
        config: settings.
        init: (N, 3, H, W) in [0, 1], where the optimisation starts. Default: images.
        callback: see edit_latents; the canvas is latents.
        progress: show a progress bar.
        ranks: see edit_latents.

    Returns:
        (N, 3, H, W) in [0, 1], float32, on the denoiser's device.

    Raises:
        UserError, NonFiniteError: see edit_latents.
    """
    config.check()
    _prompt_weights(prompt, len(images))  # bad input is reported before anything is computed
    if init is not None and init.shape != images.shape:
        raise UserError(f"init: expected the shape of images {tuple(images.shape)}, got {tuple(init.shape)}")
    height, width = images.shape[-2:]
    chunk_size = at_a_time(config.chunk_size)
    padded = pad_to_multiple(images.to(denoiser.device, torch.float32), denoiser.multiple)
    source, condition = encode(denoiser, padded, chunk_size)
    canvas = source
    if init is not None:
        start = pad_to_multiple(init.to(denoiser.device, torch.float32), denoiser.multiple)
        canvas = in_chunks(denoiser.encode, chunk_size, start)
    with ProgressBar(config.num_steps, callback, progress and ranks.is_main) as report:
        canvas = edit_latents(
            denoiser, canvas, source, condition, prompt, config, callback=report, ranks=ranks
        )
    return in_chunks(denoiser.decode, chunk_size, canvas)[..., :height, :width]


class _FiniteGuard:
    """Watches for NaN without making the host wait for the device in every step.

    From the first bad step on the canvas stays as it was before; the host looks every CHECK_EVERY steps.
    """

    CHECK_EVERY = 10

    def __init__(self, num_steps: int, canvas: Tensor) -> None:
        self.num_steps, self.canvas = num_steps, canvas
        self.bad_step = torch.full((), -1, device=canvas.device)
        self.interval = 1 if canvas.device.type == "cpu" else self.CHECK_EVERY

    def accept(self, step: int, x: Tensor, steps: Tensor) -> Tensor:
        """steps to take from particles x, or zeros once one went wrong."""
        failed_now = (self.bad_step < 0) & ~(x - steps).isfinite().all()
        self.bad_step = torch.where(failed_now, step, self.bad_step)
        return torch.where(self.bad_step < 0, steps, 0)

    def look(self, step: int) -> None:
        """Check now and then."""
        if (step + 1) % self.interval == 0:
            self.check()

    def check(self) -> None:
        """Raise NonFiniteError if a step went wrong."""
        bad_step = int(self.bad_step)
        if bad_step >= 0:
            raise NonFiniteError(bad_step, self.num_steps, self.canvas)


def _prompt_weights(prompt: Prompt, num_particles: int) -> PromptWeights:
    weights = {prompt: [1.0] * num_particles} if isinstance(prompt, str) else prompt
    expect(len(weights) > 0 and all(text.strip() for text in weights), "prompt", "an instruction", "nothing")
    for text, shares in weights.items():
        expect(len(shares) == num_particles, f"weights of {text!r}", f"{num_particles} of them", len(shares))
    return weights
