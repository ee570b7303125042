"""Noise schedules, and the one way in which random numbers are seeded.

t        a timestep, a float tensor on the schedule's device
x_t      alpha(t) x_0 + sigma(t) eps      (Eq. 1)
v        what a network predicts in place of eps
w(t)     sigma^2 / (alpha^2 + sigma^2), the weight of a timestep in Eq. 5, 8 and 9

                        t            alpha, sigma              v
    VariancePreserving  0 .. T - 1   sqrt(alphas_cumprod[t]),  alpha eps - sigma x_0  (arXiv:2202.00512)
                                     alpha^2 + sigma^2 = 1
    RectifiedFlow       0 .. 1       1 - t, t                  eps - x_0              (arXiv:2209.03003)

At one signal-to-noise ratio the two differ by a factor alone: x_t of the flow times (alpha + sigma) of the
other kind is x_t of the other kind. Normalised to unit noise variance they are equal, and so are Eq. 8 and 9.
"""

from abc import ABC, abstractmethod
from typing import Self

import numpy as np
import torch
from torch import Tensor


class Schedule(ABC):
    """alpha(t) and sigma(t) of a diffusion model. Results are float32, shape of t."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """The same schedule on another device."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Factor of the clean image."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Factor of the noise."""

    @abstractmethod
    def noise_from_velocity(self, v: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """eps, where the network predicts v. v, x_t: (n, ...); t: (n,) or ()."""

    @abstractmethod
    def timestep(self, share: float) -> float:
        """The timestep at a share in [0, 1] of Stable Diffusion's schedule; 0 is clean, 1 is noise.

        A share stands for the same signal-to-noise ratio in every kind of schedule.
        """

    @abstractmethod
    def sample_timestep(self, t_range: tuple[float, float], generator: torch.Generator) -> float:
        """A timestep between two shares, uniform over the timesteps of the schedule; a CPU generator."""

    def weight(self, t: Tensor) -> Tensor:
        """w(t)."""
        alpha, sigma = self.alpha(t).square(), self.sigma(t).square()
        return sigma / (alpha + sigma)

    def normalize(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t / sqrt(alpha^2 + sigma^2): equal for all kinds of schedules. x_t: (n, ...); t: (n,) or ()."""
        return x_t / _per_item((self.alpha(t).square() + self.sigma(t).square()).sqrt(), x_t)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha x0 + sigma noise (Eq. 1). x0, noise: (n, ...); t: (n,) or ()."""
        return _per_item(self.alpha(t), x0) * x0 + _per_item(self.sigma(t), x0) * noise


class VariancePreserving(Schedule):
    """T timesteps in a table; a t between two of them counts as the nearest.

    Args:
        alphas_cumprod: (T,), alpha squared, each in [0, 1].

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

    def to(self, device: torch.device | str) -> "VariancePreserving":
        """See Schedule."""
        moved = object.__new__(VariancePreserving)
        moved._alpha, moved._sigma = self._alpha.to(device), self._sigma.to(device)
        return moved

    def alpha(self, t: Tensor) -> Tensor:
        """See Schedule."""
        return self._alpha.take(t.round().long())  # unlike [t], never reads a lone t back from the device

    def sigma(self, t: Tensor) -> Tensor:
        """See Schedule."""
        return self._sigma.take(t.round().long())

    def weight(self, t: Tensor) -> Tensor:
        """w(t) = sigma^2."""
        return self.sigma(t).square()

    def normalize(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t itself, since alpha^2 + sigma^2 = 1."""
        return x_t

    def noise_from_velocity(self, v: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """eps = alpha v + sigma x_t (arXiv:2202.00512)."""
        return _per_item(self.alpha(t), v) * v + _per_item(self.sigma(t), v) * x_t

    def timestep(self, share: float) -> float:
        """See Schedule."""
        return float(min(round(share * self.num_timesteps), self.num_timesteps - 1))

    def sample_timestep(self, t_range: tuple[float, float], generator: torch.Generator) -> float:
        """One of the integers of [low T, high T)."""
        low, high = (round(bound * self.num_timesteps) for bound in t_range)
        low = min(low, self.num_timesteps - 1)
        return float(torch.randint(low, max(high, low + 1), (), generator=generator))


def stable_diffusion_schedule() -> VariancePreserving:
    """Stable Diffusion's schedule: scaled_linear from 0.00085 to 0.012 over 1000 timesteps."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return VariancePreserving((1 - betas).cumprod(0))


class RectifiedFlow(Schedule):
    """x_t = (1 - t) x_0 + t eps: t is sigma, in [0, 1].

    A share means the signal-to-noise ratio of Stable Diffusion's schedule there, so that t_range [0.2, 0.5]
    is sigma in [0.364, 0.618]; timesteps are sampled as there.
    """

    def __init__(self) -> None:
        self._reference = stable_diffusion_schedule()

    def to(self, device: torch.device | str) -> "RectifiedFlow":
        """See Schedule; there is nothing to move."""
        return self

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t."""
        return 1 - t.float()

    def sigma(self, t: Tensor) -> Tensor:
        """t."""
        return t.float()

    def noise_from_velocity(self, v: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """eps = x_t + (1 - t) v."""
        return x_t + _per_item(self.alpha(t), v) * v

    def timestep(self, share: float) -> float:
        """See Schedule."""
        return self._sigma_at(self._reference.timestep(share))

    def sample_timestep(self, t_range: tuple[float, float], generator: torch.Generator) -> float:
        """See Schedule."""
        return self._sigma_at(self._reference.sample_timestep(t_range, generator))

    def _sigma_at(self, reference_timestep: float) -> float:
        t = torch.tensor(reference_timestep)
        alpha, sigma = float(self._reference.alpha(t)), float(self._reference.sigma(t))
        return sigma / (alpha + sigma)


def step_generator(seed: int, *key: int) -> torch.Generator:
    """A CPU generator that depends on (seed, *key) alone.

    Keys in use: (pair, 0) the timestep; (pair, particle + 1) the noise of a particle; (pair, 1, 1) the part
    of it that all particles share; (epoch, 0, 0) the order of batches; (round, 0, 0, 0) the seed of a round
    of a scene; (cycle, 0, 0, 0, 0) the order of reused pairs; (item,) the first noise of a sampled edit.
    Keys of different length never meet (spawn keys of numpy's SeedSequence).
    """
    state = np.random.SeedSequence(entropy=seed, spawn_key=key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def _per_item(value: Tensor, like: Tensor) -> Tensor:
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)) if value.ndim else value
