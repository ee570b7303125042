"""The measures of an edit, from images: of views, of the frames of a video, of panoramas.

Images are (3, H, W) in [0, 1]. They are passed as iterables that are read several times, so that those of a
long video need not be in memory: at most two batches of an extractor are.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from csd_core.errors import UserError, expect
from csd_core.evaluation.measures import CAP_DB, MEASURES, Measured, measured
from csd_core.evaluation.metrics import clip
from csd_core.evaluation.metrics.flow import warp_errors
from csd_core.evaluation.metrics.pixels import psnr, seam_score
from csd_core.evaluation.tools import FID, LPIPS, Captions, Tools

Item = TypeVar("Item")

Images = Iterable[Tensor]
"""Can be iterated several times, always with the same images."""

NO_MASK = "no mask was given"


@dataclass(frozen=True)
class Reiterable(Generic[Item]):
    """An iterable that starts again at every iteration, from a function that returns an iterator."""

    start: Callable[[], Iterator[Item]]

    def __iter__(self) -> Iterator[Item]:
        return self.start()


class Borders(NamedTuple):
    """The rows and columns at which windows start or end: a border lies between row y - 1 and row y."""

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
    sources: Images,
    edited: Images,
    captions: Captions,
    tools: Tools,
    *,
    mask: Tensor | Iterable[Tensor] | None = None,
    positions: Sequence[int] | None = None,
) -> list[Measured]:
    """The measures of any sequence of images: features, LPIPS, FID, PSNR outside a mask.

    Args:
        sources: the images before the edit.
        edited: as many after it, of the same sizes.
        captions: of the sources, and of the intended edit.
        tools: the networks. The measures of those that are None give the reason in `missing`.
        mask: (H, W) in [0, 1], 0 where nothing may change, for all images or for each. None: no PSNR.
        positions: of each image, increasing; neighbours are those that are 1 apart. Default: 0, 1, 2 ...

    Raises:
        UserError: captions empty or equal, or no images.
    """
    count = len(positions) if positions is not None else sum(1 for _ in sources)
    expect(count > 0, "images", "at least one", "none")
    near = _are_neighbours(positions if positions is not None else range(count))
    lpips = tools.lpips
    return [
        *_features(sources, edited, captions, tools, near),
        measured("lpips", (), missing=tools.reason(LPIPS))
        if lpips is None
        else _tried("lpips", lambda: lpips.consecutive(edited)[near].tolist()),
        _fid(sources, edited, tools),
        _psnr_outside(sources, edited, mask),
    ]


def measure_video(
    sources: Images,
    edited: Images,
    captions: Captions,
    tools: Tools,
    *,
    mask: Tensor | Iterable[Tensor] | None = None,
    positions: Sequence[int] | None = None,
) -> list[Measured]:
    """The measures of measure_views, and the warp errors of edit and source. Arguments as there."""
    several = measure_views(sources, edited, captions, tools, mask=mask, positions=positions)
    return [*several[:-1], *_warp_errors(sources, edited, positions), several[-1]]


def measure_panorama(
    source: Tensor, edited: Tensor, captions: Captions, tools: Tools, *, borders: Borders | None = None
) -> list[Measured]:
    """measure_panoramas of one."""
    return measure_panoramas([PanoramaPair(source, edited, borders=borders)], captions, tools)


def measure_panoramas(pairs: Iterable[PanoramaPair], captions: Captions, tools: Tools) -> list[Measured]:
    """The measures of panoramas: features of square parts of them, seam score, PSNR outside masks.

    The parts (see squares) are the items, neighbouring parts of one panorama the pairs.

    Args:
        pairs: can be iterated several times.
        captions: of the sources, and of the intended edit.
        tools: the networks.

    Raises:
        UserError: captions empty or equal, no panoramas, or a pair of two sizes.
    """
    sizes, seams, outside = [], [], []
    for pair in pairs:
        expect(pair.source.shape == pair.edited.shape, "edited", "the size of the source", "another")
        sizes.append(pair.source.shape[-2:])
        if pair.borders is not None:
            seams.append(_seam_score(pair, pair.borders))
        if pair.mask is not None:
            outside.append(_decibels(pair.source, pair.edited, pair.mask))
    sources = Reiterable(lambda: (part for pair in pairs for part in cut(pair.source)))
    edited = Reiterable(lambda: (part for pair in pairs for part in cut(pair.edited)))
    no_seams = "" if seams else "the windows are not known; name them with --window and --stride"
    near = _are_neighbours(part_positions(sizes))
    return [
        *_features(sources, edited, captions, tools, near),
        _fid(sources, edited, tools),
        measured("seam_score", seams, missing=no_seams),
        measured("psnr_outside_mask", outside, missing="" if outside else NO_MASK, over="whole"),
    ]


def part_positions(sizes: Iterable[Sequence[int]]) -> list[int]:
    """A position for each square part of panoramas of these (H, W), with gaps between panoramas."""
    positions: list[int] = []
    for size in sizes:
        start = positions[-1] + 2 if positions else 0
        positions += range(start, start + len(squares(size)))
    return positions


def squares(size: Sequence[int]) -> list[tuple[int, int, int]]:
    """Top, left and side of the square parts of an image of (H, W).

    The side is the short side of the image; as few as cover it, evenly spaced, so that they overlap little.
    """
    short, long = min(size), max(size)
    count = math.ceil(long / short)
    starts = [round(k * (long - short) / max(count - 1, 1)) for k in range(count)]
    return [(0, start, short) if size[1] == long else (start, 0, short) for start in starts]


def cut(image: Tensor) -> Iterator[Tensor]:
    """The square parts of an image (..., H, W)."""
    for top, left, side in squares(image.shape[-2:]):
        yield image[..., top : top + side, left : left + side]


def _are_neighbours(positions: Sequence[int]) -> Tensor:
    """Which consecutive images are neighbours, (N - 1,) bool."""
    return torch.tensor([after - before == 1 for before, after in pairwise(positions)], dtype=torch.bool)


_OF_FEATURES = [key for key, measure in MEASURES.items() if "{label}" in measure.title]
"""In the order of _features."""


def _features(
    sources: Images, edited: Images, captions: Captions, tools: Tools, near: Tensor
) -> list[Measured]:
    captions.checked()
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


def _fid(sources: Images, edited: Images, tools: Tools) -> Measured:
    inception = tools.inception
    if inception is None:
        return measured("fid", (), missing=tools.reason(FID))
    return _tried("fid", lambda: [inception.fid(sources, edited)])


def _warp_errors(sources: Images, edited: Images, positions: Sequence[int] | None) -> list[Measured]:
    try:
        pairs = warp_errors(edited, sources)
    except UserError as error:  # too small for optical flow
        return [measured(key, (), missing=str(error)) for key in ("warp_error", "source_warp_error")]
    near = _are_neighbours(positions if positions is not None else range(len(pairs) + 1)).tolist()
    kept = [pair for pair, is_near in zip(pairs, near, strict=True) if is_near]
    return [
        measured("warp_error", (pair[0] for pair in kept)),
        measured("source_warp_error", (pair[1] for pair in kept)),
    ]


def _tried(key: str, compute: Callable[[], Sequence[float]]) -> Measured:
    """A measure, or why these images do not allow it."""
    try:
        return measured(key, compute())
    except UserError as error:
        return measured(key, (), missing=str(error))


def _psnr_outside(sources: Images, edited: Images, mask: Tensor | Iterable[Tensor] | None) -> Measured:
    if mask is None:
        return measured("psnr_outside_mask", (), missing=NO_MASK)
    masks = repeat(mask) if isinstance(mask, Tensor) else mask
    values = [_decibels(*three) for three in zip(sources, edited, masks, strict=False)]
    return measured("psnr_outside_mask", values)


def _seam_score(pair: PanoramaPair, borders: Borders) -> float:
    """NaN where the source is flat, or no border lies inside."""
    try:
        score = seam_score(pair.edited, pair.source, *borders)
    except ZeroDivisionError:
        return math.nan
    return score if math.isfinite(score) else math.nan


def _decibels(source: Tensor, edited: Tensor, mask: Tensor) -> float:
    """PSNR where the mask is 0, at most CAP_DB; NaN where it is nowhere 0."""
    return min(psnr(edited, source, mask == 0), CAP_DB)
