"""Guidance: how the predictions of several branches become one.

    eps_u     eps(x_t)                no image, no text
    eps_i     eps(x_t; image)         image, no text
    eps_it    eps(x_t; image, text)   both
    s_i       image guidance scale (omega_s of the paper)
    s_t       text guidance scale (omega_y)

Every formula is a weighted sum of branches. The engine leaves out a branch of weight 0.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Weight = float | Tensor
"""Of a whole prediction; or (h, w), of each of its pixels."""


class BranchWeights(NamedTuple):
    """Weights of eps_u, eps_i and eps_it. They add up to 1."""

    unconditional: Weight
    image: Weight
    image_text: Weight


def instruct_pix2pix_weights(guidance_scale: Weight, image_guidance_scale: float) -> BranchWeights:
    """Eq. 3 (arXiv:2211.09800), gathered by branch: (1 - s_i) eps_u + (s_i - s_t) eps_i + s_t eps_it.

    guidance_scale 0 leaves the baseline of Eq. 9, Eq. 3 without its text term.
    """
    return BranchWeights(1 - image_guidance_scale, image_guidance_scale - guidance_scale, guidance_scale)


def total_weight(shares: Sequence[Weight]) -> Weight:
    """The sum of the shares that prompts have in the text guidance; 1 where it is 1 except for rounding."""
    numbers = [share for share in shares if not isinstance(share, Tensor)]
    maps = [share for share in shares if isinstance(share, Tensor)]
    if maps:
        total = sum(maps[1:], maps[0]) + math.fsum(numbers)
        return torch.where((total - 1).abs() < 1e-6, 1.0, total)
    total = math.fsum(numbers)
    return 1.0 if abs(total - 1) < 1e-6 else total


def classifier_free(eps_u: Tensor, eps_c: Tensor, guidance_scale: float) -> Tensor:
    """Eq. 2: eps_u + s (eps_c - eps_u)."""
    return eps_u + guidance_scale * (eps_c - eps_u)


def instruct_pix2pix(
    eps_u: Tensor, eps_i: Tensor, eps_it: Tensor, guidance_scale: float, image_guidance_scale: float
) -> Tensor:
    """Eq. 3: eps_u + s_i (eps_i - eps_u) + s_t (eps_it - eps_i)."""
    return eps_u + image_guidance_scale * (eps_i - eps_u) + guidance_scale * (eps_it - eps_i)
