"""One step of the method: noisy particles in, one gradient per particle out (Eq. 8 and 9).

The edit loop descends a canvas along these gradients. Particles that are rendered from something else, a
scene for example, pass them to `backward`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from csd_core.denoisers.base import Conditioning, Denoiser, PromptWeights
from csd_core.engine.config import EditConfig
from csd_core.engine.draws import Draws
from csd_core.engine.predict import Predictor, Side, edit_branches
from csd_core.engine.ranks import ALONE, Ranks
from csd_core.engine.source_cache import SourceCache
from csd_core.method.csd import csd_edit_gradient, csd_gradient

Source = Callable[[Sequence[int]], tuple[Tensor, Conditioning]]
"""Numbers of B particles -> latents (B, C, h, w) of their source, and its condition, B rows."""


class Step:
    """A step of an edit, as a function of the particles; all that it samples follows from (seed, step).

    Args:
        denoiser: the model.
        prompts: instructions with their shares.
        config: settings.
        num_particles: N.
        source: gives sources.
        ranks: share the evaluations.

    Attributes:
        draws: which particles a step takes, and its timestep and noise.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        prompts: PromptWeights,
        config: EditConfig,
        num_particles: int,
        source: Source,
        ranks: Ranks = ALONE,
    ) -> None:
        self._denoiser, self._config, self._source = denoiser, config, source
        denoiser.warn_of(prompts)
        branches = edit_branches(denoiser, config, prompts, num_particles)
        self._predictor = Predictor(denoiser, branches, config, num_particles, ranks)
        self.draws = Draws(config, num_particles)
        self._cache = SourceCache(self.draws, self._predict_source)

    def gradients(self, step: int, x: Tensor) -> Tensor:
        """One gradient to descend for each particle of a step, (B, C, h, w) float32.

        Args:
            step: its number, from 0; `draws.particles(step)` are its particles.
            x: (B, C, h, w), these particles, clean. No gradient flows through this method.
        """
        config, schedule, particles = self._config, self._denoiser.schedule, self.draws.particles(step)
        # 1. one timestep, and noise for each particle
        t, noise = self._timestep(step), self.draws.noise(step, particles, x)
        x_t = schedule.add_noise(x, noise, t)
        # 2. noise predictions, the only expensive line: in one batch, unless the source's are read back
        source, condition = self._source(particles)
        noisy: dict[Side, Tensor] = {"target": x_t}
        if not self.draws.pool and config.baseline != "noise":
            noisy["source"] = schedule.add_noise(source, noise, t)
        eps = self._predictor.predict(noisy, condition, t, particles)
        # 3. one gradient per particle; the kernel compares particles at unit noise variance
        compared, w = schedule.normalize(x_t, t), schedule.weight(t)
        if config.baseline == "noise":
            return csd_gradient(compared, eps["target"], noise, w, kernel=config.kernel)  # Eq. 8
        baseline = self._cache.read(step, particles, x.device) if self.draws.pool else eps["source"]
        return csd_edit_gradient(compared, eps["target"], baseline, w, kernel=config.kernel)  # Eq. 9

    def _predict_source(self, step: int) -> Tensor:
        particles, t = self.draws.particles(step), self._timestep(step)
        source, condition = self._source(particles)
        noise = self.draws.noise(step, particles, source)
        noisy: dict[Side, Tensor] = {"source": self._denoiser.schedule.add_noise(source, noise, t)}
        return self._predictor.predict(noisy, condition, t, particles)["source"]

    def _timestep(self, step: int) -> Tensor:
        """(), on the device."""
        return torch.full(
            (), self.draws.timestep(self._denoiser.schedule, step), device=self._denoiser.device
        )
