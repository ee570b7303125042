"""The one optimisation loop. Scenes, panoramas and videos differ only in the canvas they hand to it."""

import torch
from torch import Tensor

from csd_core.denoisers.base import Denoiser
from csd_core.denoisers.runtime.batching import in_chunks
from csd_core.engine.config import EditConfig
from csd_core.engine.draws import Draws, particle_noise, particles_of_step
from csd_core.engine.layout import Layout, Stack
from csd_core.engine.progress import Callback, ProgressBar
from csd_core.engine.ranks import ALONE, Ranks
from csd_core.engine.source_cache import SourceCache
from csd_core.engine.step import Noisy, Predictor, PromptWeights, edit_branches, most_evaluations
from csd_core.errors import NonFiniteError, UserError, expect
from csd_core.image_ops import pad_to_multiple
from csd_core.method.csd import csd_edit_gradient, csd_gradient

__all__ = [
    "EditConfig",
    "Layout",
    "Stack",
    "edit_images",
    "edit_latents",
    "particle_noise",
    "particles_of_step",
]

Prompt = str | PromptWeights


@torch.no_grad()
def edit_latents(
    denoiser: Denoiser,
    canvas: Tensor,
    source: Tensor,
    condition: Tensor,
    prompt: Prompt,
    config: EditConfig,
    layout: Layout | None = None,
    *,
    callback: Callback | None = None,
    start_step: int = 0,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Optimise a canvas of latents until its particles follow the instruction and agree. THE loop.

    A step depends on (canvas, config, step) alone. To resume, hand in canvas and number of steps done.

    Args:
        denoiser: the model; everything stays on its device.
        canvas: float32 latents to start from, for a Stack (N, C, h, w). Not changed in place.
        source: scaled latents of the source, same shape.
        condition: latents of the source as image condition, same shape.
        prompt: the instruction; or several, each with its share of the text guidance for every particle
            (adding up to 1, but where a prompt has a guidance of its own: appendix C.1).
        config: settings.
        layout: how particles lie in the canvas. Default: Stack.
        callback: called as callback(step, canvas) after every step, with the canvas at work: clone it to keep
            it. True ends the edit here.
        start_step: steps that are already done.
        ranks: share the evaluations. All of them call this with the same canvas, source and condition, get
            the same canvas back, and stop when the callback of one of them says so.

    Returns:
        The edited canvas.

    Raises:
        UserError: a setting out of range, or no prompt.
        NonFiniteError: a prediction was NaN or infinite; holds the canvas before that step.
    """
    config.check()
    layout = layout or Stack(len(canvas))
    branches = edit_branches(config, _prompt_weights(prompt, layout.num_particles), layout.num_particles)
    fullest = most_evaluations(branches, config, layout.num_particles)
    predictor = Predictor(denoiser, branches, config.max_batch, fullest=fullest, ranks=ranks)
    draws = Draws(config, layout.num_particles)
    source, condition = (x.to(denoiser.device, torch.float32) for x in (source, condition))
    canvas = canvas.to(denoiser.device, torch.float32, copy=True)
    schedule, add_noise = denoiser.schedule, denoiser.schedule.add_noise

    def timestep(step: int) -> Tensor:
        return torch.full((), draws.timestep(schedule, step), device=denoiser.device)

    def predict_source(step: int) -> Tensor:
        particles, t = draws.particles(step), timestep(step)
        x, image = (layout.gather(whole, particles) for whole in (source, condition))
        noisy: Noisy = {"source": add_noise(x, draws.noise(step, particles, x), t)}
        return predictor.predict(noisy, image, t, particles)["source"]

    cache = SourceCache(draws, predict_source)
    guard = _FiniteGuard(config.num_steps, canvas)
    for step in range(start_step, config.num_steps):
        # 1. a batch of particles, one timestep, noise
        particles, t = draws.particles(step), timestep(step)
        x, image = (layout.gather(whole, particles) for whole in (canvas, condition))
        noise = draws.noise(step, particles, x)
        x_t = add_noise(x, noise, t)
        # 2. noise predictions, the only expensive line: in one batch, unless the source's are read back
        noisy: Noisy = {"target": x_t}
        if not draws.pool:
            noisy["source"] = add_noise(layout.gather(source, particles), noise, t)
        eps = predictor.predict(noisy, image, t, particles)
        # 3. one gradient per particle
        w = schedule.weight(t)
        if config.baseline == "noise":
            gradients = csd_gradient(x_t, eps["target"], noise, w, kernel=config.kernel)  # Eq. 8
        else:
            baseline = cache.read(step, particles, x_t.device) if draws.pool else eps["source"]
            gradients = csd_edit_gradient(x_t, eps["target"], baseline, w, kernel=config.kernel)  # Eq. 9
        # 4. back to the canvas, one step of gradient descent
        steps = guard.accept(step, x, config.learning_rate_at(step) * gradients)
        layout.descend(canvas, steps, particles)
        guard.look(step)
        if ranks.any(callback is not None and bool(callback(step, canvas))):
            break
    guard.check()
    return canvas


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
    padded = pad_to_multiple(images.to(denoiser.device, torch.float32), denoiser.downscale)
    condition = in_chunks(denoiser.encode_condition, config.max_batch, padded)
    canvas = source = denoiser.latents_of(condition)
    if init is not None:
        start = pad_to_multiple(init.to(denoiser.device, torch.float32), denoiser.downscale)
        canvas = in_chunks(denoiser.encode, config.max_batch, start)
    with ProgressBar(config.num_steps, callback, progress and ranks.is_main) as report:
        canvas = edit_latents(
            denoiser, canvas, source, condition, prompt, config, callback=report, ranks=ranks
        )
    return in_chunks(denoiser.decode, config.max_batch, canvas)[..., :height, :width]


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
