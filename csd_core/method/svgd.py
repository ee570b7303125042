"""The kernel of Stein variational gradient descent (Sec. 2.3; Liu and Wang, arXiv:1608.04471).

    x_i      particle i of N, any shape                  d_ij   squared distance of x_i and x_j
    k_ij     k(x_i, x_j) = exp(-d_ij / h)                h      bandwidth
    grad_i   sum_j grad_{x_j} k(x_j, x_i)                = (2 / h) sum_j k_ij (x_i - x_j) for squared l2

Everything is computed in float32, or in float64 where the particles are.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Bandwidth below which particles count as equal, per element: noisy latents have a variance of about 1 per
# element, so this is a distance of a thousandth of their spread. It bounds the repulsion of equal particles.
MIN_BANDWIDTH = 1e-6


@dataclass(frozen=True)
class KernelConfig:
    """How particles exchange gradients."""

    bandwidth: float | None = None
    """Bandwidth h. None: the median of the squared distances over log(N + 1), computed in every step."""
    bandwidth_factor: float = 1.0
    """Multiplies the median bandwidth (not a fixed one). Larger: gradients are averaged over more
    particles."""
    repulsion: float = 1.0
    """Weight of the kernel gradient, which keeps particles apart. 0: only the scores are mixed."""


def to_compute_dtype(x: Tensor) -> Tensor:
    """float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def squared_l2(particles: Tensor) -> Tensor:
    """Squared l2 distances (N, N) of particles (N, ...), from differences: equal ones give exactly 0."""
    flat = to_compute_dtype(particles).flatten(1)
    return torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").square()


def median_bandwidth(squared_distances: Tensor, factor: float = 1.0, floor: float = MIN_BANDWIDTH) -> Tensor:
    """factor * median of the off-diagonal squared distances / log(N + 1), at least floor.

    An off-diagonal weight is then about (N + 1) ** (-1 / factor).

    Args:
        squared_distances: (N, N), symmetric.
        factor: widens the kernel.
        floor: the result when particles are (nearly) equal, or alone.

    Returns:
        (), finite for every N >= 1.
    """
    n = len(squared_distances)
    if n == 1:
        return squared_distances.new_tensor(floor)
    row, column = torch.triu_indices(n, n, offset=1, device=squared_distances.device)
    median = squared_distances[row, column].quantile(0.5)
    return (median * (factor / math.log(n + 1))).clamp(min=floor)


def rbf_kernel(squared_distances: Tensor, bandwidth: Tensor | float) -> Tensor:
    """k_ij = exp(-d_ij / h), (N, N), from squared distances (N, N)."""
    return torch.exp(-squared_distances / bandwidth)


def rbf_kernel_gradient(particles: Tensor, kernel: Tensor, bandwidth: Tensor | float) -> Tensor:
    """sum_j grad_{x_j} k(x_j, x_i) for every i, shape of particles (N, ...); kernel (N, N) on squared l2."""
    x = to_compute_dtype(particles).flatten(1)
    x = x - x.mean(dim=0)  # only differences matter; near 0 they lose fewer digits
    gradient = (2 / bandwidth) * (kernel.sum(dim=1, keepdim=True) * x - kernel @ x)
    return gradient.view(particles.shape)


def kernel_and_gradient(
    particles: Tensor, config: KernelConfig, squared_distances: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """k (N, N) and sum_j grad_{x_j} k(x_j, x_i) (N, ...). No gradient flows through either.

    Args:
        particles: (N, ...).
        config: bandwidth and the like.
        squared_distances: (N, N), symmetric, to use another distance than l2 (LPIPS, say). For the repulsion
            it must depend on particles by autograd, and particles must require a gradient.

    Raises:
        ValueError: a repulsion is asked for, but squared_distances does not depend on particles.
    """
    if squared_distances is None:
        x = particles.detach()
        d = squared_l2(x)
        h = _bandwidth(d, config, MIN_BANDWIDTH * x[0].numel())
        k = rbf_kernel(d, h)
        return k, rbf_kernel_gradient(x, k, h)
    h = _bandwidth(squared_distances.detach(), config, MIN_BANDWIDTH)
    k = rbf_kernel(to_compute_dtype(squared_distances), h)
    return k.detach(), _gradient_by_autograd(k, particles, config)


def _bandwidth(squared_distances: Tensor, config: KernelConfig, floor: float) -> Tensor:
    d = to_compute_dtype(squared_distances)
    if config.bandwidth is not None:
        return d.new_full((), config.bandwidth)
    return median_bandwidth(d, config.bandwidth_factor, floor)


def _gradient_by_autograd(k: Tensor, particles: Tensor, config: KernelConfig) -> Tensor:
    # - grad_{x_i} sum_j k(x_i, x_j), which for a kernel of differences equals sum_j grad_{x_j} k(x_j, x_i).
    # k is symmetric: half of the sum over all pairs holds every pair once.
    if config.repulsion == 0:
        return torch.zeros_like(particles, dtype=k.dtype)
    if not (k.requires_grad and particles.requires_grad):
        raise ValueError(
            "squared_distances: the repulsion needs their derivative; compute them from particles that "
            "require a gradient, or set repulsion to 0"
        )
    return -torch.autograd.grad(0.5 * k.sum(), particles)[0].to(k.dtype)
