"""The mini editor's instructions: each as a plain function of the image, with its wordings.

The functions make the training pairs and are the ground truth of tests and evaluation. An edit depends on the
pixels and their close neighbourhood alone, never on the position in the image, so that the edits of the views
of a scene, the windows of a panorama and the frames of a video agree.

Inside this file images are numpy (H, W, 3) float32 in [0, 1]; lengths are in pixels, whatever the image size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy import ndimage
from skimage.color import hsv2rgb, rgb2hsv

from csd_core.denoisers.language import ENOUGH, likeness

Array = np.ndarray
Kind = Literal["light", "style", "local", "choice"]

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class Instruction:
    """One edit that the editor was trained on."""

    name: str
    """Short name, the key in INSTRUCTIONS."""
    kind: Kind
    """light: changes colours; style: texture too; local: pixels of one hue; choice: several right answers."""
    wordings: tuple[str, ...]
    """Prompts in training; the first is the canonical one."""
    function: Callable[[Array, str], Array]
    """(image, outcome) -> edited image."""
    outcomes: tuple[str, ...] = ("",)
    """The equally right answers; one empty string if there is only one."""
    unseen: tuple[str, ...] = ()
    """Wordings kept out of training, to test the language."""
    mask: Callable[[Array], Array] | None = None
    """Of local edits: image -> weight of the edit at each pixel, (H, W) in [0, 1]."""


def _luma(image: Array) -> Array:
    return (image @ LUMA)[..., None]


def _rgb(*values: float) -> Array:
    return np.array(values, dtype=np.float32)


def _smoothstep(low: float, high: float, x: Array) -> Array:
    s = np.clip((x - low) / (high - low), 0, 1)
    return s * s * (3 - 2 * s)


def _blur(image: Array, sigma: float) -> Array:
    return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="reflect")


def _mix(a: Array, b: Array, share: Array | float) -> Array:
    return a + (b - a) * share


def _box(image: Array, size: int) -> Array:
    rows = ndimage.uniform_filter1d(image, size, axis=0, mode="reflect")
    return ndimage.uniform_filter1d(rows, size, axis=1, mode="reflect")


# Light and colour ---------------------------------------------------------------------------------


def night(image: Array, outcome: str = "") -> Array:
    """Dark, blue, little saturation."""
    pale = _mix(image, _luma(image), 0.55)
    return pale**1.25 * _rgb(0.26, 0.34, 0.58) + _rgb(0.01, 0.02, 0.07)


def sunset(image: Array, outcome: str = "") -> Array:
    """Orange lights, purple shadows."""
    y = _luma(image)
    shade = _mix(_rgb(0.30, 0.10, 0.28), _rgb(1.0, 0.72, 0.36), _smoothstep(0.0, 0.9, y))
    return _mix(image * _rgb(1.05, 0.66, 0.42), shade * (0.35 + 0.65 * y), 0.6)


def sepia(image: Array, outcome: str = "") -> Array:
    """Shades of brown."""
    return _luma(image) ** 0.9 * _rgb(0.98, 0.80, 0.56) + _rgb(0.05, 0.03, 0.0)


def snow(image: Array, outcome: str = "") -> Array:
    """Cold, pale, with white over all bright areas."""
    y = _luma(image)
    cold = _mix(image, y, 0.7) * _rgb(0.86, 0.93, 1.0)
    cover = _smoothstep(0.22, 0.62, _blur(y, 1.2)) * 0.85
    return _mix(cold, (0.80 + 0.20 * y) * _rgb(0.97, 0.99, 1.0), cover)


def black_and_white(image: Array, outcome: str = "") -> Array:
    """Grey, with raised contrast."""
    return np.repeat(_mix(_luma(image), _smoothstep(0.0, 1.0, _luma(image)), 0.6), 3, axis=-1)


# Style --------------------------------------------------------------------------------------------


def _strokes(image: Array, sigma: float = 2.0, depth: float = 2.5) -> Array:
    """Pencil lines by colour dodge, (H, W, 1): 1 on plain areas, dark along edges and in dark detail."""
    y = _luma(image)
    ratio = (y + 0.05) / (_blur(y, sigma) + 0.05)
    return np.clip(1 - depth * np.clip(1 - ratio, 0, 1), 0, 1)


def pencil_sketch(image: Array, outcome: str = "") -> Array:
    """Grey lines and a faint tone on paper."""
    tone = 0.72 + 0.28 * _smoothstep(0.0, 0.7, _luma(image))
    return _strokes(image) * tone * _rgb(0.97, 0.96, 0.93)


def blueprint(image: Array, outcome: str = "") -> Array:
    """White lines on blue."""
    return _mix(_rgb(0.93, 0.97, 1.0), _rgb(0.07, 0.22, 0.58), _strokes(image))


def oil_painting(image: Array, outcome: str = "") -> Array:
    """Flat strokes (Kuwahara filter: the mean of the quadrant with the least variance), more saturated."""
    radius = 2
    size = radius + 1
    mean = _box(image, size)
    variance = (_box(image**2, size) - mean**2).sum(-1)
    # A square of `size` centred at +-radius/2 is one quadrant of the window around the pixel.
    shifts = [(dy, dx) for dy in (-1, 1) for dx in (-1, 1)]
    means = np.stack([_shifted(mean, dy, dx) for dy, dx in shifts])
    least = np.stack([_shifted(variance[..., None], dy, dx)[..., 0] for dy, dx in shifts]).argmin(0)
    flat = np.take_along_axis(means, least[None, ..., None], axis=0)[0]
    rich = _mix(_luma(flat), flat, 1.7)
    return _mix(rich, _smoothstep(0.0, 1.0, np.clip(rich, 0, 1)), 0.7)


def _shifted(image: Array, dy: int, dx: int) -> Array:
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="reflect")
    height, width = image.shape[:2]
    return padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]


# Local by content ---------------------------------------------------------------------------------


def _hue_mask(image: Array, centre: float, half_width: float) -> Array:
    """1 where a pixel is saturated with a hue of `centre` +- `half_width` degrees, smoothly to 0; (H, W)."""
    hsv = rgb2hsv(image)
    distance = np.abs((hsv[..., 0] * 360 - centre + 180) % 360 - 180)
    near = 1 - _smoothstep(half_width - 6, half_width + 6, distance)
    return near * _smoothstep(0.22, 0.42, hsv[..., 1]) * _smoothstep(0.08, 0.2, hsv[..., 2])


def _recolour(centre: float, half_width: float, target: float) -> tuple[Callable, Callable]:
    """(edit, mask) that change one hue to another; hues in degrees."""

    def mask(image: Array) -> Array:
        return _hue_mask(image, centre, half_width)

    def edit(image: Array, outcome: str = "") -> Array:
        hsv = rgb2hsv(image)
        hsv[..., 0] = (hsv[..., 0] + (target - centre) / 360) % 1
        hsv[..., 1] = np.clip(hsv[..., 1] * 1.15, 0, 1)
        return _mix(image, hsv2rgb(hsv), mask(image)[..., None])

    return edit, mask


_red_to_blue, _red = _recolour(352, 22, 222)
_orange_to_green, _orange = _recolour(32, 18, 125)
_blue_to_pink, _blue = _recolour(218, 38, 325)


# Choice -------------------------------------------------------------------------------------------

HUES = {"red": _rgb(0.92, 0.12, 0.14), "green": _rgb(0.10, 0.70, 0.22), "blue": _rgb(0.12, 0.30, 0.95)}
HUES["yellow"] = _rgb(0.98, 0.80, 0.08)


def single_colour(image: Array, outcome: str) -> Array:
    """Shades of one hue, from almost black to almost white."""
    y, hue = _luma(image), HUES[outcome]
    return _mix(
        _mix(hue * 0.15, hue, _smoothstep(0.0, 0.6, y)), _rgb(1.0, 1.0, 1.0), 0.8 * _smoothstep(0.5, 1.0, y)
    )


def tint(image: Array, outcome: str) -> Array:
    """As if seen through coloured glass."""
    return _mix(image, HUES[outcome] * (0.25 + 0.75 * _luma(image)), 0.6)


# Language -----------------------------------------------------------------------------------------


def _instruction(
    name: str, kind: Kind, function: Callable[[Array, str], Array], wordings: str, unseen: str, **more: Any
) -> Instruction:
    """wordings: separated by commas."""
    return Instruction(name, kind, tuple(wordings.split(", ")), function, unseen=(unseen,), **more)


_ALL = [
    _instruction(
        "night",
        "light",
        night,
        "make it night, turn it into night, as if it were night, at midnight, make it a dark night",
        unseen="have it be night time",
    ),
    _instruction(
        "sunset",
        "light",
        sunset,
        "make it sunset, turn it into sunset, at sunset, in the evening light, make it look like sunset",
        unseen="add a sunset",
    ),
    _instruction(
        "sepia",
        "light",
        sepia,
        "make it sepia, turn it into sepia, an old brown photograph, in sepia tones, an old sepia photo",
        unseen="give it sepia tones",
    ),
    _instruction(
        "snow",
        "light",
        snow,
        "make it snowy, turn it into winter, cover it with snow, in the snow, add snow, let it snow",
        unseen="make it a snowy winter",
    ),
    _instruction(
        "black and white",
        "light",
        black_and_white,
        "make it black and white, turn it into black and white, a black and white photo, make it grey",
        unseen="in black and white",
    ),
    _instruction(
        "pencil sketch",
        "style",
        pencil_sketch,
        "make it a pencil sketch, turn it into a sketch, a pencil drawing, draw it with a pencil",
        unseen="as a pencil sketch",
    ),
    _instruction(
        "blueprint",
        "style",
        blueprint,
        "make it a blueprint, turn it into a blueprint, as a blueprint, white lines on blue paper",
        unseen="a blueprint on blue paper",
    ),
    _instruction(
        "oil painting",
        "style",
        oil_painting,
        "make it an oil painting, turn it into an oil painting, paint it in oil, as an oil painting",
        unseen="an oil painting of it",
    ),
    _instruction(
        "red to blue",
        "local",
        _red_to_blue,
        "turn red things blue, make the red things blue, red to blue, change everything red to blue",
        unseen="change red things to blue",
        mask=_red,
    ),
    _instruction(
        "orange to green",
        "local",
        _orange_to_green,
        "turn orange things green, make the orange things green, orange to green, "
        "change everything orange to green",
        unseen="change orange things to green",
        mask=_orange,
    ),
    _instruction(
        "blue to pink",
        "local",
        _blue_to_pink,
        "turn blue things pink, make the blue things pink, blue to pink, change everything blue to pink",
        unseen="change blue things to pink",
        mask=_blue,
    ),
    _instruction(
        "single colour",
        "choice",
        single_colour,
        "paint it in a single colour, make it one colour, use only one colour, paint it all in one hue",
        unseen="in one single colour",
        outcomes=tuple(HUES),
    ),
    _instruction(
        "tint",
        "choice",
        tint,
        "give it a tint, tint it, add a tint, put coloured glass before it",
        unseen="add a coloured tint",
        outcomes=tuple(HUES),
    ),
]

INSTRUCTIONS: dict[str, Instruction] = {instruction.name: instruction for instruction in _ALL}


def find_instruction(prompt: str) -> Instruction | None:
    """The instruction of a prompt, in any word order and case; None for prompts outside the language."""
    scores = {i.name: likeness(prompt, (*i.wordings, *i.unseen)) for i in _ALL}
    best = max(scores, key=lambda name: scores[name])
    return INSTRUCTIONS[best] if scores[best] >= ENOUGH else None


# Tensors outside ----------------------------------------------------------------------------------


def _to_array(image: torch.Tensor) -> Array:
    return image.detach().cpu().float().clamp(0, 1).permute(1, 2, 0).numpy()


def apply_edit(name: str, image: torch.Tensor, outcome: str = "") -> torch.Tensor:
    """Ground truth of instruction `name`.

    Args:
        name: a key of INSTRUCTIONS.
        image: (3, H, W) in [0, 1].
        outcome: one of the instruction's outcomes; required for the kind "choice".

    Returns:
        (3, H, W) float32 in [0, 1].

    Raises:
        ValueError: the instruction does not have this outcome.
    """
    instruction = INSTRUCTIONS[name]
    if outcome not in instruction.outcomes:
        known = ", ".join(map(repr, instruction.outcomes))
        raise ValueError(f"outcome of {name!r}: expected one of {known}, got {outcome!r}")
    edited = instruction.function(_to_array(image), outcome)
    return torch.from_numpy(np.clip(edited, 0, 1).astype(np.float32)).permute(2, 0, 1)


def affected_mask(name: str, image: torch.Tensor) -> torch.Tensor:
    """Pixels that an edit changes, (H, W) bool: all unless it is local. `image`: (3, H, W) in [0, 1]."""
    mask = INSTRUCTIONS[name].mask
    if mask is None:
        return torch.ones(image.shape[1:], dtype=torch.bool)
    return torch.from_numpy(mask(_to_array(image)) > 0.5)
