"""The measures of an edit, from pictures: of views, of the frames of a video, of panoramas.

Pictures are (3, H, W) in [0, 1]. They come as iterables that can be gone through several times, so that those
of a long video need not be held: no more than a batch of an extractor, or two, are.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from csd_core.errors import UserError, expect
from csd_core.evaluation.measures import CAP_DB, Measured, measured
from csd_core.evaluation.metrics import clip
from csd_core.evaluation.metrics.flow import warp_errors
from csd_core.evaluation.metrics.pixels import psnr, seam_score
from csd_core.evaluation.tools import FID, LPIPS, Captions, Tools

Item = TypeVar("Item")

Pictures = Iterable[Tensor]
"""That can be gone through several times, always with the same pictures."""
Masks = Tensor | Iterable[Tensor]
"""(H, W) in [0, 1], 0 where nothing may change: one for all, or one for each picture."""

NO_MASK = "no mask was given"


class Borders(NamedTuple):
    """Where windows begin and end: a border lies between row y - 1 and row y."""

    rows: Sequence[int]
    columns: Sequence[int]


@dataclass(frozen=True)
class PanoramaPair:
    """A panorama and its edit, (3, H, W) each.

    Attributes:
        mask: (H, W), 0 where nothing may change.
        borders: of the windows that it was edited in; None if unknown.
    """

    source: Tensor
    edited: Tensor
    mask: Tensor | None = None
    borders: Borders | None = None


def measure_views(
    sources: Pictures,
    edited: Pictures,
    captions: Captions,
    tools: Tools,
    *,
    mask: Masks | None = None,
    positions: Sequence[int] | None = None,
) -> list[Measured]:
    """What can be measured of any pictures in an order: features, LPIPS, FID, PSNR outside a mask.

    Args:
        sources: the pictures before.
        edited: as many after, of the same sizes.
        captions: what they show before, and should show after.
        tools: the networks. Without one, its measures say so.
        mask: 0 where nothing may change. None: no PSNR.
        positions: of each picture, rising; neighbours are those that are 1 apart. Default: 0, 1, 2 ...

    Raises:
        UserError: captions empty or equal, or no pictures.
    """
    count = len(positions) if positions is not None else sum(1 for _ in sources)
    expect(count > 0, "pictures", "at least one", "none")
    near = _near(positions if positions is not None else range(count))
    return [
        *_features(sources, edited, captions, tools, near),
        *_networks(sources, edited, tools, near),
        _outside(sources, edited, mask),
    ]


def measure_video(
    sources: Pictures,
    edited: Pictures,
    captions: Captions,
    tools: Tools,
    *,
    mask: Masks | None = None,
    positions: Sequence[int] | None = None,
) -> list[Measured]:
    """What measure_views measures, and the warp error of edit and source. Arguments as there."""
    several = measure_views(sources, edited, captions, tools, mask=mask, positions=positions)
    return [*several[:-1], *_warps(sources, edited, positions), several[-1]]


def measure_panorama(
    source: Tensor,
    edited: Tensor,
    captions: Captions,
    tools: Tools,
    *,
    mask: Tensor | None = None,
    borders: Borders | None = None,
) -> list[Measured]:
    """As measure_panoramas, of one."""
    return measure_panoramas([PanoramaPair(source, edited, mask, borders)], captions, tools)


def measure_panoramas(pairs: Iterable[PanoramaPair], captions: Captions, tools: Tools) -> list[Measured]:
    """What can be measured of panoramas: features of square parts of them, seam score, PSNR outside masks.

    The parts (see squares) are the items, overlapping parts of one panorama the neighbours.

    Args:
        pairs: can be gone through several times.
        captions: what they show before, and should show after.
        tools: the networks.

    Raises:
        UserError: captions empty or equal, no panoramas, or a pair of two sizes.
    """
    sizes, masks, seams = [], False, []
    for pair in pairs:
        expect(pair.source.shape == pair.edited.shape, "edited", "the size of the source", "another")
        sizes.append(pair.source.shape[-2:])
        masks = masks or pair.mask is not None
        if pair.borders is not None:
            seams.append(_seams(pair, pair.borders))
    sources = Again(lambda: (part for pair in pairs for part in cut(pair.source)))
    edited = Again(lambda: (part for pair in pairs for part in cut(pair.edited)))
    outside = [_decibels(pair.source, pair.edited, pair.mask) for pair in pairs] if masks else []
    no_seams = "" if seams else "the windows are not known; name them with --window and --stride"
    near = _near(part_positions(sizes))
    return [
        *_features(sources, edited, captions, tools, near),
        _fid(sources, edited, tools),
        measured("seam_score", seams, missing=no_seams),
        measured("psnr_outside_mask", outside, missing="" if masks else NO_MASK, over="whole"),
    ]


def part_positions(sizes: Iterable[Sequence[int]]) -> list[int]:
    """A position for each square part of panoramas of these (H, W): a gap keeps panoramas apart."""
    positions: list[int] = []
    for size in sizes:
        start = positions[-1] + 2 if positions else 0
        positions += range(start, start + len(squares(size)))
    return positions


def squares(size: Sequence[int]) -> list[tuple[int, int, int]]:
    """Where the square parts of a picture of (H, W) lie: top, left, side.

    Their side is the short side; as few as cover all, evenly spaced, so that they overlap little.
    """
    short, long = min(size), max(size)
    count = math.ceil(long / short)
    starts = [round(k * (long - short) / max(count - 1, 1)) for k in range(count)]
    return [(0, start, short) if size[1] == long else (start, 0, short) for start in starts]


def cut(image: Tensor) -> Iterator[Tensor]:
    """The square parts of an image (..., H, W)."""
    for top, left, side in squares(image.shape[-2:]):
        yield image[..., top : top + side, left : left + side]


@dataclass(frozen=True)
class Again(Generic[Item]):
    """An iterable that begins anew at every iteration."""

    begin: Callable[[], Iterator[Item]]

    def __iter__(self) -> Iterator[Item]:
        return self.begin()


def _near(positions: Sequence[int]) -> Tensor:
    """Which consecutive pictures are neighbours, (N - 1,) bool."""
    return torch.tensor([after - before == 1 for before, after in pairwise(positions)], dtype=torch.bool)


_OF_FEATURES = (
    "directional_similarity",
    "image_similarity",
    "image_consistency",
    "source_image_consistency",
    "text_similarity",
    "direction_consistency",
)


def _features(
    sources: Pictures, edited: Pictures, captions: Captions, tools: Tools, near: Tensor
) -> list[Measured]:
    captions.check()
    if tools.clip is None:
        return [measured(key, (), missing="no extractor of features was given") for key in _OF_FEATURES]
    before, after = tools.clip.images(sources), tools.clip.images(edited)
    old, new = tools.clip.texts([captions.source, captions.target])
    values = (
        clip.directional_similarity(before, after, old, new),
        clip.image_similarity(before, after),
        clip.consistency(after)[near],
        clip.consistency(before)[near],
        clip.text_similarity(after, new),
        clip.direction_consistency(before, after)[near],
    )
    label = tools.label
    return [measured(key, v.tolist(), label=label) for key, v in zip(_OF_FEATURES, values, strict=True)]


def _networks(sources: Pictures, edited: Pictures, tools: Tools, near: Tensor) -> list[Measured]:
    lpips = tools.lpips
    if lpips is None:
        distances = measured("lpips", (), missing=tools.reason(LPIPS))
    else:
        distances = _tried("lpips", lambda: lpips.consecutive(edited)[near].tolist())
    return [distances, _fid(sources, edited, tools)]


def _fid(sources: Pictures, edited: Pictures, tools: Tools) -> Measured:
    inception = tools.inception
    if inception is None:
        return measured("fid", (), missing=tools.reason(FID))
    return _tried("fid", lambda: [inception.fid(sources, edited)])


def _warps(sources: Pictures, edited: Pictures, positions: Sequence[int] | None) -> list[Measured]:
    try:
        pairs = warp_errors(edited, sources)
    except UserError as error:  # too small for a flow
        return [measured(key, (), missing=str(error)) for key in ("warp_error", "source_warp_error")]
    near = _near(positions if positions is not None else range(len(pairs) + 1)).tolist()
    kept = [pair for pair, is_near in zip(pairs, near, strict=True) if is_near]
    return [
        measured("warp_error", (pair[0] for pair in kept)),
        measured("source_warp_error", (pair[1] for pair in kept)),
    ]


def _tried(key: str, compute: Callable[[], Sequence[float]]) -> Measured:
    """A measure, or why the pictures do not do for it."""
    try:
        return measured(key, compute())
    except UserError as error:
        return measured(key, (), missing=str(error))


def _outside(sources: Pictures, edited: Pictures, mask: Masks | None) -> Measured:
    if mask is None:
        return measured("psnr_outside_mask", (), missing=NO_MASK)
    masks = repeat(mask) if isinstance(mask, Tensor) else mask
    values = [_decibels(*three) for three in zip(sources, edited, masks, strict=False)]
    return measured("psnr_outside_mask", values)


def _seams(pair: PanoramaPair, borders: Borders) -> float:
    """The seam score; NaN where the source is flat, or no border lies inside."""
    try:
        score = seam_score(pair.edited, pair.source, *borders)
    except ZeroDivisionError:
        return math.nan
    return score if math.isfinite(score) else math.nan


def _decibels(source: Tensor, edited: Tensor, mask: Tensor | None) -> float:
    """PSNR where the mask is 0, at most CAP_DB; NaN where it is nowhere, or there is no mask."""
    return math.nan if mask is None else min(psnr(edited, source, mask == 0), CAP_DB)
