"""When frames are shown: what a file states, repaired where that cannot be, and the rate behind it.

Times that are missing, repeated or run backward are put between their neighbours; the others stay. Times that
begin again, as in files that were joined, follow those before them.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from statistics import median_low
from typing import Any, NamedTuple

from csd_core.errors import expect
from csd_core.io.video_frames import DEFAULT_RATE, Source

_REORDERED = 16  # frames that a codec holds back at most


class Timeline(NamedTuple):
    """When frames are shown, in the time of the file.

    shifts: by how much each part of a joined file is moved to follow the one before it; 0 for the first.
    rate: frames per second, exactly; None where it varies.
    """

    times: Sequence[Fraction]
    end: Fraction
    rate: Fraction | None
    shifts: tuple[Fraction, ...] = (Fraction(0),)
    notes: tuple[str, ...] = ()


def timeline(
    stamps: Sequence[Fraction | None], last_length: Fraction, source: Source, given: Fraction | None
) -> Timeline:
    """When frames are shown.

    Args:
        stamps: when the file says they are.
        last_length: how long the last one is shown; 0 if unknown.
        source: the file.
        given: frames per second, for a file that does not say.

    Raises:
        UserError: the file does say.
    """
    step = usual_step(stamps) or last_length or 1 / next(iter(source.rates), DEFAULT_RATE)
    stamps = _in_order(stamps)
    parts = begin_again(stamps)
    moved, shifts = following(stamps, parts, step)
    times, wrong = rising(moved, step)
    if 2 * (len(wrong) + len(parts)) > len(stamps):
        return _assumed(stamps, source, given)
    got = f"{given}; leave it out"
    expect(given is None, "--frame-rate", f"none for {source.path}, which states its times", got)
    notes = tuple(_notes(times, parts, wrong))
    rate = _rate(times, last_length, source)
    times = [times[0] + k / rate for k in range(len(times))] if rate else times
    return Timeline(times, _end(times, rate, last_length, source, shifts[-1]), rate, shifts, notes)


def _in_order(stamps: Sequence[Fraction | None]) -> Sequence[Fraction | None]:
    """Sorted, if they are those of the packets, as in an AVI with B-frames; else as they are."""
    known = [stamp for stamp in stamps if stamp is not None]
    if len(set(known)) < len(stamps):
        return stamps
    ranks = sorted(range(len(stamps)), key=known.__getitem__)
    moved = [abs(rank - k) for k, rank in enumerate(ranks) if rank != k]
    is_reordered = 4 * len(moved) > len(stamps) and max(moved) <= _REORDERED
    return sorted(known) if is_reordered else stamps


def _notes(times: Sequence[Fraction], parts: Sequence[int], wrong: Sequence[int]) -> Iterator[str]:
    if parts:
        seconds = ", ".join(f"{float(times[k] - times[0]):.2f} s" for k in parts[:3])
        yield f"times begin again at {seconds}, as in files that were joined: the parts follow each other"
    if wrong:
        which = f"{len(wrong)} of {len(times)} frames, the first is frame {wrong[0]}"
        bad = "times that are missing, repeat or run backward"
        yield f"{bad} ({which}): these frames are shown between their neighbours"


def usual_step(stamps: Sequence[Any]) -> Any:
    """The median of the steps forward; 0 if there is none."""
    known = [stamp for stamp in stamps if stamp is not None]
    return median_low([after - before for before, after in pairwise(known) if after > before] or [0])


def begin_again(stamps: Sequence[Any]) -> list[int]:
    """Where times begin again: the first of two or more that are before the two before them."""
    known = [(k, stamp) for k, stamp in enumerate(stamps) if stamp is not None]
    return [
        known[n][0]
        for n in range(2, len(known) - 1)
        if max(known[n][1], known[n + 1][1]) < min(known[n - 2][1], known[n - 1][1])
    ]


def following(stamps: Sequence[Any], parts: Sequence[int], step: Any) -> tuple[list[Any], tuple[Any, ...]]:
    """The stamps, each part moved to a step after the one before it; by how much each part is moved."""
    shifts, moved, last = [step * 0], [], None
    for k, stamp in enumerate(stamps):
        if k in parts:
            shifts.append(last + step - stamp)
        moved.append(None if stamp is None else stamp + shifts[-1])
        last = last if stamp is None else moved[-1]
    return moved, tuple(shifts)


def rising(stamps: Sequence[Any], step: Any) -> tuple[list[Any], list[int]]:
    """Strictly increasing times, and which of them are not those of the file: as few as possible.

    Those are spread evenly between their neighbours, or a step apart at the ends. Of two that are equal the
    first stays.
    """
    kept = _longest_rise(stamps)
    if not kept:
        return [k * step for k in range(len(stamps))], list(range(len(stamps)))
    times = list(stamps)
    for k in range(kept[0]):
        times[k] = stamps[kept[0]] - (kept[0] - k) * step
    for before, after in pairwise(kept):
        for k in range(before + 1, after):
            share = Fraction(k - before, after - before)
            times[k] = stamps[before] + (stamps[after] - stamps[before]) * share
    for k in range(kept[-1] + 1, len(stamps)):
        times[k] = stamps[kept[-1]] + (k - kept[-1]) * step
    return times, sorted(set(range(len(stamps))) - set(kept))


def _longest_rise(stamps: Sequence[Any]) -> list[int]:
    """Indices of the longest strictly increasing subsequence; of equal stamps the first. Patience sorting."""
    firsts: list[int] = []  # of the rises of 1, 2, ... stamps from here to the end, that which starts highest
    keys: list[Any] = []  # their stamps, negative and so in order
    following: dict[int, int | None] = {}
    for k in reversed([k for k, stamp in enumerate(stamps) if stamp is not None]):
        n = bisect_left(keys, -stamps[k])
        following[k] = firsts[n - 1] if n else None
        firsts[n : n + 1], keys[n : n + 1] = [k], [-stamps[k]]
    rise, k = [], firsts[-1] if firsts else None
    while k is not None:
        rise.append(k)
        k = following[k]
    return rise


def _assumed(stamps: Sequence[Fraction | None], source: Source, given: Fraction | None) -> Timeline:
    rate = given or next(iter(source.rates), DEFAULT_RATE)
    first = min((stamp for stamp in stamps if stamp is not None), default=Fraction(0))
    times = [first + k / rate for k in range(len(stamps))]
    note = f"{source.timeless}: {rate} frames per second are assumed; --frame-rate sets them"
    return Timeline(times, times[-1] + 1 / rate, rate, notes=(note,) if source.timeless and not given else ())


def _end(
    times: Sequence[Fraction], rate: Fraction | None, last_length: Fraction, source: Source, shift: Fraction
) -> Fraction:
    """When the last frame ends."""
    usual = 1 / rate if rate else (times[-1] - times[-2] if len(times) > 1 else 1 / DEFAULT_RATE)
    length = source.stated_length
    stated = source.stated_end or (times[0] + length if length else None)
    end = times[-1] + last_length if stated is None else stated + shift
    slack = max(source.tick, Fraction(1, 1000))  # an mp4 may round the end to milliseconds
    if end <= times[-1] or (rate and abs(end - times[-1] - usual) <= slack <= usual / 4):
        return times[-1] + usual
    return end


def _rate(times: Sequence[Fraction], last_length: Fraction, source: Source) -> Fraction | None:
    """Frames per second that explain the times up to their rounding to ticks; None if they vary."""
    steps = {after - before for before, after in pairwise(times)} or {last_length} - {0}
    even = [1 / step for step in steps] if len(steps) == 1 else []
    for rate in (*_likely(source.rates), *even):
        # rounding is assumed only where ticks are fine, and of rates that there are
        rounded = source.tick <= min(Fraction(1, 500), 1 / rate / 4) and rate.denominator in (1, 1001)
        slack = source.tick if rounded else 0
        if all(abs(time - times[0] - k / rate) <= slack for k, time in enumerate(times)):
            return rate
    return None


def _likely(rates: Iterable[Fraction]) -> Iterator[Fraction]:
    """What a file states, and what it may have been before it was rounded."""
    for rate in rates:
        yield rate
        if whole := round(rate):
            yield Fraction(whole)
            yield Fraction(whole * 1000, 1001)
