"""Collaborative Score Distillation: Eq. 8 and Eq. 9 of arXiv:2307.04787.

    N          number of particles
    x_t        noisy particles x_t^(i), (N, ...)
    eps(x_t)   guided noise prediction for each of them
    w          w(t), weight of the timestep
    k_ji       k(x_t^(j), x_t^(i)), the kernel on noisy particles (svgd.py)
    E_j        the score of particle j: prediction minus baseline
                 Eq. 8:  eps(x_t^(j)) - noise
                 Eq. 9:  eps(x_t^(j); image, text) - eps(source x~_t^(j); image)

    g_i  =  w / N  sum_j (  k_ji E_j  -  grad_{x_j} k_ji  )           update:  x_i <- x_i - lr * g_i

Signs. The paper prints "+ grad k" beside a descent update. Followed to the letter this pulls particles
together; SVGD, and the text around the equations, ask for repulsion, hence the minus.
Index. The paper prints E^(i) in the sum of Eq. 9. It is E^(j), as in Eq. 8: mixing is the point of the sum.
N = 1. k = 1 and grad k = 0 leave w * E, which is SDS (Eq. 5), to the last bit.
"""

from torch import Tensor

from csd_core.method.svgd import KernelConfig, kernel_and_gradient, to_compute_dtype

DEFAULT_KERNEL = KernelConfig()


def csd_gradient(
    x_t: Tensor,
    noise_pred: Tensor,
    noise: Tensor,
    weight: float | Tensor,
    *,
    kernel: KernelConfig | None = DEFAULT_KERNEL,
    squared_distances: Tensor | None = None,
) -> Tensor:
    """The gradient to descend for each particle: Eq. 8.

    Args:
        x_t: (N, ...), noisy particles; the kernel looks at these.
        noise_pred: (N, ...), guided noise predictions at x_t.
        noise: (N, ...), the noise that made x_t.
        weight: w(t), a number or a tensor ().
        kernel: how particles exchange gradients. None: not at all ("without SVGD"), SDS on each of them.
        squared_distances: (N, N), instead of squared l2; see svgd.kernel_and_gradient.

    Returns:
        (N, ...), float32, or float64 where the inputs are. Nothing is differentiated through it.
    """
    return _collaborate(x_t, noise_pred, noise, weight, kernel, squared_distances)  # Eq. 8


def csd_edit_gradient(
    x_t: Tensor,
    noise_pred: Tensor,
    baseline_noise_pred: Tensor,
    weight: float | Tensor,
    *,
    kernel: KernelConfig | None = DEFAULT_KERNEL,
    squared_distances: Tensor | None = None,
) -> Tensor:
    """The gradient to descend for each particle: Eq. 9.

    As csd_gradient, with baseline_noise_pred (N, ...) in place of the noise: the prediction for the noisy
    source given the source image but no text; or, for DDS (appendix A), given the source's own prompt.
    """
    return _collaborate(x_t, noise_pred, baseline_noise_pred, weight, kernel, squared_distances)  # Eq. 9


def _collaborate(
    x_t: Tensor,
    noise_pred: Tensor,
    baseline: Tensor,
    weight: float | Tensor,
    kernel: KernelConfig | None,
    squared_distances: Tensor | None,
) -> Tensor:
    E = to_compute_dtype(noise_pred) - to_compute_dtype(baseline)
    if kernel is None:
        return weight * E
    k, grad_k = kernel_and_gradient(x_t, kernel, squared_distances)
    mixed = (k @ E.flatten(1)).view(E.shape)  # sum_j k(x_j, x_i) E_j
    return weight / len(E) * (mixed - kernel.repulsion * grad_k)
