"""The CLIP measures of the paper (arXiv:2307.04787), on features: no model in here.

Features are (N, D) of floats, one row for each image or text, of any length: they are normalised inside. s:
of the sources, e: of their edits, row by row, in order of time or along the path of the camera; t, t': of the
captions of source and intended edit, (D,) for all or (N, D). Each measure is a cosine in float64: 1 the same
direction, 0 unrelated, -1 opposite; higher is better. It has a value for each row, or for each pair of
consecutive rows (N - 1). It is NaN where a feature is zero, or a change of features no longer than
LEAST_CHANGE; neighbours are not affected.

The paper measures with OpenCLIP ViT-bigG-14. Cosines of different models are not comparable.
"""

import math

import torch
from torch import Tensor

from csd_core.errors import expect

LEAST_CHANGE = 1e-5
"""Length of a change of normalised features that counts as none: about the rounding error of float32."""


def image_similarity(source: Tensor, edited: Tensor) -> Tensor:
    """Similarity of each image to its source: cos(e, s), (N,).

    An image that was not edited has 1, so read it beside directional_similarity. Source-target image
    similarity of InstructPix2Pix (arXiv:2211.09800); figures 5 and 7 and table 10 of the paper, where the
    headings of the two measures in table 10 look exchanged.
    """
    return _cosine(_unit(source), _unit(edited))


def text_similarity(images: Tensor, text: Tensor) -> Tensor:
    """Similarity of each image to a text: cos(e, t'), (N,).

    Good values are far below 1, since images and texts lie apart: 0.32 to 0.45 in table 5 of the paper. Its
    "CLIP image-text similarity"; section 4.3 names this for scenes, but tables 2 and 4 say directional
    similarity.
    """
    return _cosine(_unit(images), _unit(text))


def directional_similarity(
    source: Tensor, edited: Tensor, source_text: Tensor, target_text: Tensor
) -> Tensor:
    """Similarity of the change of the images to the change of the texts: cos(e - s, t' - t), (N,).

    NaN for an item whose image or text did not change. The direction of StyleGAN-NADA (arXiv:2108.00946),
    used for pairs of images and of captions by InstructPix2Pix (arXiv:2211.09800); figure 5 and tables 1 to
    4, 9 and 10 of the paper.
    """
    return _cosine(_direction(source, edited), _direction(source_text, target_text))


def consistency(features: Tensor) -> Tensor:
    """Similarity of consecutive frames: cos(e_k, e_{k+1}), (N - 1,).

    A still clip has 1, whatever it shows. "CLIP image consistency" between consecutive frames or novel views:
    tables 1 to 4 and 9 of the paper.
    """
    units = _unit(features)
    return _cosine(units[:-1], units[1:])


def direction_consistency(source: Tensor, edited: Tensor) -> Tensor:
    """Similarity of the edits of consecutive views: cos(e_k - s_k, e_{k+1} - s_{k+1}), (N - 1,).

    NaN for a pair in which one view did not change. After the CLIP direction consistency of
    Instruct-NeRF2NeRF (arXiv:2303.12789), whose formula in appendix C is read in several ways (issues 28, 82
    and 91 of ayaanzhaque/instruct-nerf2nerf): do not compare these values with its table. The paper does not
    report this measure.
    """
    directions = _direction(source, edited)
    return _cosine(directions[:-1], directions[1:])


def mean_and_error(values: Tensor) -> tuple[float, float, int]:
    """Mean of the values (N,) that are not NaN, its standard error sd / sqrt(n), and their number n.

    sd has n - 1 degrees of freedom. The error assumes independent values, which those of consecutive frames
    are not: there it is too small. The paper does not define its ±. NaN: the mean where n is 0, the error
    where n is below 2.
    """
    counted = values[~values.isnan()].double()
    count = len(counted)
    error = float(counted.std()) / math.sqrt(count) if count > 1 else math.nan
    return (float(counted.mean()) if count else math.nan), error, count


def _unit(features: Tensor) -> Tensor:
    """Features (..., D) with length 1, in float64; NaN where they are zero."""
    expect(bool(features.isfinite().all()), "features", "finite values", "NaN or infinity; use float32")
    return _normalised(features.double(), 0.0)


def _direction(start: Tensor, end: Tensor) -> Tensor:
    """Unit vectors (..., D) from each feature to another; NaN where they do not differ."""
    return _normalised(_unit(end) - _unit(start), LEAST_CHANGE)


def _normalised(vectors: Tensor, least: float) -> Tensor:
    """Vectors (..., D) with length 1; NaN where they are no longer than least."""
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / lengths.where(lengths > least, math.nan)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Of unit vectors; clamped, since rounding may leave more than 1."""
    return (a * b).sum(dim=-1).clamp(-1, 1)
