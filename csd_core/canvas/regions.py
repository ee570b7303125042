"""Instructions for parts of an image (appendix C.1): read from a file, and shared out to windows.

A file is a JSON list. Each entry has a prompt and ONE of

    "box": [left, top, right, bottom]      "strip": [left, right]      "mask": "file.png"

in pixels of the upright image, or as "25%" of its side; right and bottom are exclusive. A mask is a grey
image of the image's size, its path relative to the file. "guidance_scale" is optional. In a 360-degree image
a strip may cross the seam: left greater than right.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from csd_core.canvas.windows import Windows
from csd_core.errors import UserError, expect, expect_text
from csd_core.io.images import read_mask
from csd_core.method.guidance import Weight

_LARGEST = 1e9
_PLACES = {"box": 4, "strip": 2, "mask": None}
_KEYS = {"prompt", "guidance_scale", *_PLACES}


@dataclass(frozen=True)
class Region:
    """An instruction and where it holds."""

    prompt: str
    """The instruction."""
    area: Tensor
    """(H, W) float32 in [0, 1], of the size of the image: how much of each pixel it is about."""
    guidance_scale: float | None = None
    """Text guidance of this prompt. None: that of the edit."""

    def check(self, size: tuple[int, int]) -> None:
        """Raise a UserError unless this is an instruction about a part of an image of size (H, W)."""
        expect(bool(self.prompt.strip()), "regions", "a prompt in every region", "an empty one")
        shape = tuple(self.area.shape)
        expect(shape == size, f"region {self.prompt!r}", f"an area of {size} as the image", shape)
        expect(bool(self.area.any()), f"region {self.prompt!r}", "an area with pixels in it", "an empty one")


def read_regions(path: Path, size: tuple[int, int], *, wrap: bool, max_pixels: int) -> list[Region]:
    """The regions in a file, for an image of size (height, width).

    Raises:
        UserError: the file cannot be read, or an entry is not a region of such an image.
    """
    entries = _entries(path)
    return [_read_region(entry, k + 1, path, size, wrap, max_pixels) for k, entry in enumerate(entries)]


def mask_files(path: Path) -> list[Path]:
    """The masks that a file names from which read_regions has read."""
    return [path.parent / entry["mask"] for entry in _entries(path) if "mask" in entry]


def _entries(path: Path) -> list[Any]:
    example = '[{"prompt": "make it snowy", "box": [0, 0, "50%", "100%"]}]'
    try:
        # bytes: json knows the byte order marks and UTF-16 that editors of Windows write
        entries = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: expected a file of regions, got {error.strerror}; check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected JSON in UTF-8, got {error}; save it as UTF-8") from None
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, got a mistake: {error}; correct it there") from None
    except RecursionError:
        raise UserError(
            f"{path}: expected a list of regions, got brackets in brackets; write {example}"
        ) from None
    fits = isinstance(entries, list) and len(entries) > 0
    got = f"{_kind(entries)}; write {example}"
    expect(fits, str(path), "a list of at least one region", got)
    return entries


def _json(value: Any) -> str:
    """As it stands in the file, shortened."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _kind(value: Any) -> str:
    """What a JSON value is."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return "an empty list" if value == [] else names.get(type(value), "a number")


def _read_region(
    entry: Any, number: int, path: Path, size: tuple[int, int], wrap: bool, max_pixels: int
) -> Region:
    name = f"{path}: region {number}"
    got = f"{_kind(entry)}; put braces around each region"
    expect(isinstance(entry, dict), name, "an object with a prompt and a place", got)
    unknown = sorted(set(entry) - _KEYS)
    got = f"{', '.join(unknown)}; rename or remove it"
    expect(not unknown, name, f"keys among {', '.join(sorted(_KEYS))}", got)
    prompt, guidance = entry.get("prompt"), entry.get("guidance_scale")
    is_prompt = isinstance(prompt, str) and bool(prompt.strip())
    expect(is_prompt, name, 'a prompt such as "make it snowy"', f"{_json(prompt)}; add it")
    expect_text(name, prompt)
    is_guidance = guidance is None or _is_number(guidance)
    expect(is_guidance, name, "a number as guidance_scale", f"{_json(guidance)}; write it without quotes")
    places = [key for key in _PLACES if key in entry]
    got = f"{', '.join(places) or 'none'}; keep or add one"
    expect(len(places) == 1, name, "one of box, strip and mask", got)
    return Region(prompt, _area(entry, places[0], name, path.parent, size, wrap, max_pixels), guidance)


def _area(
    entry: dict[str, Any],
    place: str,
    name: str,
    folder: Path,
    size: tuple[int, int],
    wrap: bool,
    max_pixels: int,
) -> Tensor:
    value, (height, width) = entry[place], size
    if place == "mask":
        expect(isinstance(value, str), name, "a file name as mask", f"{_json(value)}; write it in quotes")
        return torch.from_numpy(read_mask(folder / value, size=size, max_pixels=max_pixels))
    count = _PLACES[place]
    fits = isinstance(value, list) and len(value) == count
    names = "[left, right]" if place == "strip" else "[left, top, right, bottom]"
    expect(fits, name, f"{place} as a list of {count} numbers", f"{_json(value)}; write {names}")
    if place == "strip":
        left, right, top, bottom = *(_pixels(v, width, name) for v in value), 0, height
    else:
        left, top, right, bottom = (
            _pixels(v, side, name) for v, side in zip(value, (width, height) * 2, strict=True)
        )
    across = wrap and left > right
    inside = 0 <= left <= width and 0 <= right <= width and 0 <= top < bottom <= height
    rows = f" and 0 <= top < bottom <= {height}" if place == "box" else ""
    got = f"{_json(value)}; keep 0 <= left < right <= {width}{rows}"
    fits = inside and (left < right or across)
    expect(fits, name, f"a {place} inside the image of {width} x {height}", got)
    area = torch.zeros(height, width)
    for begin, end in ((left, width), (0, right)) if across else ((left, right),):
        area[top:bottom, begin:end] = 1
    return area


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _pixels(value: Any, side: int, name: str) -> int:
    """A coordinate in pixels, from a number or from "25%" of a side."""
    if isinstance(value, str) and value.endswith("%"):
        try:
            return round(float(value[:-1]) / 100 * side)
        except (ValueError, OverflowError):  # no number, nan, inf
            pass
    got = f"{_json(value)}; write pixels without quotes"
    expect(_is_number(value), name, 'coordinates in pixels, or as "25%"', got)
    return round(float(value))


def share_out(
    areas: Sequence[tuple[str, Tensor, float]], windows: Windows, downscale: int, fade: int
) -> dict[str, list[Weight]]:
    """The share of the text guidance that each prompt has in each window, pixel by pixel (appendix C.1).

    The paper gives a prompt its part of the window's area (alpha_k), the same for all of its pixels, and
    regions meet in stairs of windows. Here a pixel asks for the part of the square of `fade` around itself.

    Args:
        areas: prompt, area (1, 1, H, W) on the canvas's pixels, and its guidance over that of the edit. Every
            window overlaps with one of them.
        windows: of the canvas.
        downscale: pixels per latent pixel.
        fade: latent pixels over which two regions fade into each other, an odd number. 1: not at all.

    Returns:
        prompt -> for each window its shares (h, w), times its guidance; a number, where all are equal.
    """
    small = torch.cat([F.avg_pool2d(area, downscale) for _, area, _ in areas])
    near = _box_mean(small, fade, windows.wrap)
    if (near.sum(dim=0) == 0).any():
        # a pixel beside all regions, in a window that reaches into one: all that its windows can see counts
        seen = _box_mean(small, 2 * windows.window - 1, windows.wrap)
        near = torch.where(near.sum(dim=0) > 0, near, seen)
    shares = near / near.sum(dim=0).clamp(min=torch.finfo(near.dtype).tiny)
    whole: dict[str, Tensor] = {}
    for (prompt, _, guidance), share in zip(areas, shares, strict=True):
        whole[prompt] = whole.get(prompt, torch.zeros(())) + guidance * share[0]
    return {
        prompt: [_number_if_even(windows.view(share, p)) for p in range(windows.num_particles)]
        for prompt, share in whole.items()
    }


def _box_mean(x: Tensor, side: int, wrap: bool) -> Tensor:
    """The mean of x (n, 1, h, w) over the square of an odd side around each pixel, as far as it is inside."""
    reach = side // 2
    across = min(reach, x.shape[-1]) if wrap else 0
    around = F.pad(x, (across, across, 0, 0), mode="circular")
    for size, padding in (((side, 1), (reach, 0)), ((1, side), (0, reach))):
        around = F.avg_pool2d(around, size, stride=1, padding=padding, count_include_pad=False)
    return around[..., across : across + x.shape[-1]]


def _number_if_even(shares: Tensor) -> Weight:
    low, high = (float(bound) for bound in shares.aminmax())
    return low if low == high else shares
