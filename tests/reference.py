"""The paper's sums written as slowly and plainly as possible: float64, double loops, no tensor tricks.

Shares no line with the library. Particles are flat vectors here.
"""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def squared_distance(a: Array, b: Array) -> float:
    return sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True))


def median_bandwidth(particles: Array, factor: float = 1.0) -> float:
    """factor * median over all pairs i < j of |x_i - x_j|^2 / log(N + 1)."""
    n = len(particles)
    pairs = [squared_distance(particles[i], particles[j]) for i in range(n) for j in range(i + 1, n)]
    return factor * float(np.median(pairs)) / math.log(n + 1)


def kernel(a: Array, b: Array, bandwidth: float) -> float:
    return math.exp(-squared_distance(a, b) / bandwidth)


def kernel_gradient(a: Array, b: Array, bandwidth: float) -> Array:
    """The derivative of k(a, b) by its first argument."""
    return np.array([kernel(a, b, bandwidth) * -2 * (p - q) / bandwidth for p, q in zip(a, b, strict=True)])


def csd(x_t: Array, wanted: Array, weight: float, bandwidth: float, repulsion: float = 1.0) -> Array:
    """Eq. 8 and Eq. 9, to be descended: wanted[j] is prediction minus baseline of particle j."""
    n, dim = x_t.shape
    result = np.zeros((n, dim))
    for i in range(n):
        for j in range(n):
            result[i] += kernel(x_t[j], x_t[i], bandwidth) * wanted[j]
            result[i] -= repulsion * kernel_gradient(x_t[j], x_t[i], bandwidth)
        result[i] *= weight / n
    return result
