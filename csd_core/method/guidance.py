"""Guidance: how the predictions of several branches become one.

    eps_u     eps(x_t)                no image, no text
    eps_i     eps(x_t; image)         image, no text
    eps_it    eps(x_t; image, text)   both
    s_i       image guidance scale (omega_s of the paper)
    s_t       text guidance scale (omega_y)

Every formula is a weighted sum of branches. The engine leaves out a branch that weighs 0.
"""

from typing import NamedTuple

from torch import Tensor

Weight = float | Tensor
"""Of a whole prediction; or (h, w), of each of its pixels."""


class BranchWeights(NamedTuple):
    """Weights of eps_u, eps_i and eps_it. They add up to 1."""

    unconditional: Weight
    image: Weight
    image_text: Weight


def instruct_pix2pix_weights(guidance_scale: Weight, image_guidance_scale: float) -> BranchWeights:
    """Eq. 3 (arXiv:2211.09800), gathered by branch: (1 - s_i) eps_u + (s_i - s_t) eps_i + s_t eps_it."""
    return BranchWeights(1 - image_guidance_scale, image_guidance_scale - guidance_scale, guidance_scale)


def image_weights(image_guidance_scale: float) -> BranchWeights:
    """The baseline of Eq. 9, Eq. 3 without its text term: (1 - s_i) eps_u + s_i eps_i."""
    return BranchWeights(1 - image_guidance_scale, image_guidance_scale, 0.0)


def classifier_free(eps_u: Tensor, eps_c: Tensor, guidance_scale: float) -> Tensor:
    """Eq. 2: eps_u + s (eps_c - eps_u)."""
    return eps_u + guidance_scale * (eps_c - eps_u)


def instruct_pix2pix(
    eps_u: Tensor, eps_i: Tensor, eps_it: Tensor, guidance_scale: float, image_guidance_scale: float
) -> Tensor:
    """Eq. 3: eps_u + s_i (eps_i - eps_u) + s_t (eps_it - eps_i)."""
    return eps_u + image_guidance_scale * (eps_i - eps_u) + guidance_scale * (eps_it - eps_i)
