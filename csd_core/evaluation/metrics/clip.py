"""The CLIP measures of the paper (arXiv:2307.04787), on features: no model in here.

Features are (N, D) of floats, one row a picture or a text, of any length: they are normalised inside. Each
measure is a cosine, computed and given in float64: 1 the same direction, 0 unrelated, -1 opposite. It is NaN
for an item, never for its neighbours, where a feature has no length, or a change of features no more than
LEAST_CHANGE. Features with NaN or infinity, and shapes that do not fit, raise a UserError.

The paper measures with OpenCLIP ViT-bigG-14. Cosines of different models are not comparable.
"""

import math

import torch
from torch import Tensor

from csd_core.errors import expect

LEAST_CHANGE = 1e-5
"""A change of normalised features that is no longer is none: the rounding of float32 is of that size."""


def image_similarity(source: Tensor, edited: Tensor) -> Tensor:
    """How far each picture is still its source: cos(e, s).

    Higher is more faithful to the source; a picture that was not edited has 1, so read it beside
    directional_similarity. Source-target image similarity of InstructPix2Pix (arXiv:2211.09800); figures 5
    and 7 and table 10 of the paper, where the headings of the two measures in table 10 look exchanged.

    Args:
        source: (N, D), s.
        edited: (N, D), e, row by row.

    Returns:
        (N,) in [-1, 1].
    """
    return _cosine(_features("source", source), _features("edited", edited, like=source))


def text_similarity(images: Tensor, text: Tensor) -> Tensor:
    """How far each picture shows what a text says: cos(i, t).

    Higher is better, and good is far below 1, for pictures and texts lie apart: table 5 of the paper has 0.32
    to 0.45. Its "CLIP image-text similarity"; section 4.3 names this for scenes, but tables 2 and 4 say
    directional similarity.

    Args:
        images: (N, D), i.
        text: (D,) for all, or (N, D), t.

    Returns:
        (N,) in [-1, 1].
    """
    return _cosine(_features("images", images), _texts("text", text, like=images))


def directional_similarity(
    source: Tensor, edited: Tensor, source_text: Tensor, target_text: Tensor
) -> Tensor:
    """How far the pictures changed as the texts did: cos(e - s, t' - t), of normalised features.

    Higher is better. NaN for an item whose picture or text did not change. The direction of StyleGAN-NADA
    (arXiv:2108.00946), used for pairs of pictures and of captions by InstructPix2Pix (arXiv:2211.09800);
    figure 5 and tables 1 to 4, 9 and 10 of the paper.

    Args:
        source: (N, D), s.
        edited: (N, D), e, row by row.
        source_text: (D,) for all, or (N, D), t: what the source shows.
        target_text: likewise, t': what the edited picture should show.

    Returns:
        (N,) in [-1, 1] or NaN.
    """
    change = _directions(source, edited)
    old = _texts("source_text", source_text, like=source)
    new = _texts("target_text", target_text, like=source)
    return _cosine(change, _unit(new - old, LEAST_CHANGE))


def consistency(features: Tensor) -> Tensor:
    """How alike consecutive frames are: cos(f_k, f_{k+1}).

    Higher is better; frames that stand still have 1, whatever they show. "CLIP image consistency" between
    consecutive frames or novel views: tables 1 to 4 and 9 of the paper.

    Args:
        features: (N, D), f, in order of time or along the path of the camera.

    Returns:
        (N - 1,) in [-1, 1]; empty for one frame.
    """
    units = _features("features", features)
    return _cosine(units[:-1], units[1:])


def direction_consistency(source: Tensor, edited: Tensor) -> Tensor:
    """How far consecutive views were edited the same way: cos(e_k - s_k, e_{k+1} - s_{k+1}).

    Higher is better. NaN for a pair in which one view did not change. After the CLIP direction consistency of
    Instruct-NeRF2NeRF (arXiv:2303.12789), which is ambiguous: readers quote its appendix C as
        (C(e_k) - C(s_k)) . (C(e_{k+1}) - C(e_k))
    ask whether it means the product above or that of C(s_{k+1}) - C(s_k) and C(e_{k+1}) - C(e_k), and get no
    clear answer (issues 28, 82 and 91 of ayaanzhaque/instruct-nerf2nerf). So do not compare these values with
    its table. The paper does not report this measure.

    Args:
        source: (N, D), s, along the path of the camera.
        edited: (N, D), e, row by row.

    Returns:
        (N - 1,) in [-1, 1] or NaN; empty for one view.
    """
    directions = _directions(source, edited)
    return _cosine(directions[:-1], directions[1:])


def mean_and_error(values: Tensor) -> tuple[float, float, int]:
    """The mean of the values that are not NaN, its standard error sd / sqrt(n), and their number n.

    sd is of n - 1 degrees of freedom. The error takes values for independent, which those of consecutive
    frames are not: there it is too small. The paper does not say what its ± is.

    Args:
        values: (N,) of floats.

    Returns:
        mean: NaN where n is 0.
        error: at least 0, smaller is surer; NaN where n is below 2.
        n: 0 or more; report it, for items that were left out do not show in the mean.
    """
    good = values.ndim == 1 and values.is_floating_point()
    expect(good, "values", "floats (N,)", f"{values.dtype} {tuple(values.shape)}")
    expect(not values.isinf().any(), "values", "finite values or NaN", "infinity")
    counted = values[~values.isnan()].double()
    count = len(counted)
    error = float(counted.std()) / math.sqrt(count) if count > 1 else math.nan
    return (float(counted.mean()) if count else math.nan), error, count


def _unit(vectors: Tensor, least: float = 0.0) -> Tensor:
    """Vectors (..., D) with length 1, in float64; NaN where they are no longer than least."""
    vectors = vectors.double()
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / lengths.where(lengths > least, math.nan)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Of unit vectors; rounding may leave more than 1."""
    return (a * b).sum(dim=-1).clamp(-1, 1)


def _directions(source: Tensor, edited: Tensor) -> Tensor:
    """Unit vectors (N, D) from each source to its edit; NaN where there is no way to go."""
    start, end = _features("source", source), _features("edited", edited, like=source)
    return _unit(end - start, LEAST_CHANGE)


def _features(name: str, features: Tensor, like: Tensor | None = None) -> Tensor:
    """Features (N, D), normalised, if they are such and of the shape of like."""
    got = f"{features.dtype} {tuple(features.shape)}"
    good = features.ndim == 2 and features.numel() > 0 and features.is_floating_point()
    expect(good, name, "features (N, D) of floats, at least one", got)
    if like is not None:
        expect(features.shape == like.shape, name, f"the shape {tuple(like.shape)} of the others", got)
    expect(bool(features.isfinite().all()), name, "finite features", "NaN or infinity")
    return _unit(features)


def _texts(name: str, text: Tensor, like: Tensor) -> Tensor:
    """Features of one text (D,) for all rows of like, or of one for each, normalised."""
    # as it came where it cannot be spread over the rows: refused with its own shape
    single = text.ndim == 1 and like.ndim == 2 and len(text) == like.shape[1]
    return _features(name, text.expand_as(like) if single else text, like=like)
