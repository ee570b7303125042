"""Damage to valid files: bytes flipped, cut, inserted and swapped, and JSON values of a wrong kind."""

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

HEAD = 96
"""Half of all changes are made here, where files say what they are."""


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, most: int = 3) -> bytes:
    """`whole` after one change or a few."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, most))):
        if not content:
            break
        start = draw(st.integers(0, min(HEAD, len(content)) - 1) | st.integers(0, len(content) - 1))
        end = min(start + draw(st.integers(1, 8) | st.integers(1, len(content))), len(content))
        piece = bytes(content[start:end])
        change = draw(st.sampled_from(["flip", "set", "cut", "remove", "insert", "double", "zero", "swap"]))
        if change == "flip":
            content[start] ^= 1 << draw(st.integers(0, 7))
        elif change == "set":
            content[start] = draw(st.sampled_from([0, 1, 127, 128, 254, 255]))
        elif change == "cut":
            del content[start:]
        elif change == "remove":
            del content[start:end]
        elif change == "insert":
            content[start:start] = draw(st.binary(min_size=1, max_size=8))
        elif change == "double":
            content[start:start] = piece
        elif change == "zero":
            content[start:end] = bytes(len(piece))
        else:
            half = len(piece) // 2
            content[start:end] = piece[half:] + piece[:half]
    return bytes(content)


WRONG: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 3, 7, 10**6, -(10**6), 2**63, 10**400, 0.5, -0.5, 1e-300, 1e30, 1e308),
    *(float("nan"), float("inf"), float("-inf")),
    *("", " ", "x", "1", "nan", "50%", "150%", "-5%", "nan%", "..", "/", "\0", "ü.png", "\ud800", "a" * 300),
    *([], {}, [0], [[]], [1, 2], [1, 2, 3, 4], [None] * 4, {"a": 1}, [[[[[[1]]]]]]),
]
"""Values that a place in a JSON file was not made for, among some that it may have been."""


@st.composite
def miswritten(draw: st.DrawFn, whole: Any, most: int = 2) -> str:
    """JSON text of `whole` after one change or a few of values, keys or characters."""
    content = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(content))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        change = draw(st.sampled_from(["set", "set", "set", "remove", "wrap", "double", "extra"]))
        wrong = copy.deepcopy(draw(st.sampled_from(WRONG)))  # it may be changed next
        if change == "set":
            holder[key] = wrong
        elif change == "remove":
            del holder[key]
        elif change == "wrap":
            holder[key] = [holder[key]]
        elif isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]) if change == "double" else wrong)
        else:
            holder["more"] = wrong
    if draw(st.integers(0, 9)) == 0:
        content = draw(st.sampled_from(WRONG))
    text = json.dumps(content)
    if draw(st.integers(0, 9)) == 0:
        text = draw(damaged(text.encode())).decode("utf-8", "replace")
    return text


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every (holder, key) inside of content."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(items):
        yield content, key
        if isinstance(value, dict | list):
            yield from _places(value)
