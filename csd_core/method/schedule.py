"""alpha(t) and sigma(t) of a diffusion model, and the one way in which random numbers are seeded.

T        number of training timesteps; t is an integer in 0 .. T-1
alpha    sqrt(alphas_cumprod[t])        sigma    sqrt(1 - alphas_cumprod[t])
x_t      alpha_t x_0 + sigma_t eps      (Eq. 1)
v        alpha_t eps - sigma_t x_0      (velocity, arXiv:2202.00512)
"""

import numpy as np
import torch
from torch import Tensor


class NoiseSchedule:
    """The variance-preserving schedule of a diffusion model.

    Args:
        alphas_cumprod: (T,), alpha_t squared, each in [0, 1].

    Raises:
        ValueError: alphas_cumprod is not 1-D, is empty or leaves [0, 1].
    """

    def __init__(self, alphas_cumprod: Tensor) -> None:
        if alphas_cumprod.ndim != 1 or len(alphas_cumprod) == 0:
            raise ValueError(f"alphas_cumprod: expected shape (T,), got {tuple(alphas_cumprod.shape)}")
        if not bool(((alphas_cumprod >= 0) & (alphas_cumprod <= 1)).all()):
            raise ValueError("alphas_cumprod: expected values in [0, 1]")
        squared = alphas_cumprod.detach().double()
        self._alpha = squared.sqrt().float()
        self._sigma = (1 - squared).sqrt().float()

    @property
    def num_timesteps(self) -> int:
        """T."""
        return len(self._alpha)

    def to(self, device: torch.device | str) -> "NoiseSchedule":
        """The same schedule with its tables on another device."""
        moved = object.__new__(NoiseSchedule)
        moved._alpha, moved._sigma = self._alpha.to(device), self._sigma.to(device)
        return moved

    def alpha(self, t: Tensor) -> Tensor:
        """alpha_t, float32, shape of t (integers on the schedule's device)."""
        return self._alpha.take(t)  # unlike [t], never reads a lone t back from the device

    def sigma(self, t: Tensor) -> Tensor:
        """sigma_t, float32, shape of t."""
        return self._sigma.take(t)

    def weight(self, t: Tensor) -> Tensor:
        """w(t) = sigma_t squared, the weight of a timestep in Eq. 5, 8 and 9."""
        return self.sigma(t).square()

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha_t x0 + sigma_t noise (Eq. 1). x0, noise: (n, ...); t: (n,) or ()."""
        return _per_item(self.alpha(t), x0) * x0 + _per_item(self.sigma(t), x0) * noise

    def noise_from_velocity(self, v: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """eps = alpha_t v + sigma_t x_t (arXiv:2202.00512). v, x_t: (n, ...); t: (n,) or ()."""
        return _per_item(self.alpha(t), v) * v + _per_item(self.sigma(t), v) * x_t

    def sample_timestep(self, t_range: tuple[float, float], generator: torch.Generator) -> int:
        """One t, uniform over the integers of [low T, high T), drawn from a CPU generator."""
        low, high = (round(bound * self.num_timesteps) for bound in t_range)
        low = min(low, self.num_timesteps - 1)
        return int(torch.randint(low, max(high, low + 1), (), generator=generator))


def step_generator(seed: int, *key: int) -> torch.Generator:
    """A CPU generator that depends on (seed, *key) and nothing else.

    Keys in use: (pair, 0) the timestep; (pair, particle + 1) the noise of a particle; (pair, 1, 1) what all
    particles share of it; (epoch, 0, 0) the order in which batches are drawn; (round, 0, 0, 0) the seed of a
    round of a scene; (cycle, 0, 0, 0, 0) the order of a pool's pairs; (item,) the noise that a sampled edit
    begins with. Keys of different length never meet (spawn keys of numpy's SeedSequence).
    """
    state = np.random.SeedSequence(entropy=seed, spawn_key=key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def _per_item(value: Tensor, like: Tensor) -> Tensor:
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)) if value.ndim else value
