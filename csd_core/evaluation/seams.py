"""The borders of a panorama's windows, from window and stride or from the manifest of the edit."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from csd_core.canvas.windows import axis_starts
from csd_core.choices import DEFAULT_MODEL
from csd_core.denoisers.families import MINI, MINI_FOLDER
from csd_core.errors import expect
from csd_core.evaluation.measuring import Borders
from csd_core.presets import INSTRUCT_PIX2PIX
from csd_core.presets import MINI as MINI_PRESETS

_SIDE, _SCALE = 512, 8
"""Window and downscaling factor of DEFAULT_MODEL, in pixels."""


def borders(size: Sequence[int], window: int, stride: int, margin: int = 0) -> Borders | None:
    """The borders of square windows on an image of (H, W); None if it is smaller than one or has none.

    Args:
        size: H, W.
        window: side of a window in pixels.
        stride: pixels from window to window.
        margin: pixels around the image that windows extend over.
    """
    if min(size) < window:
        return None
    rows, columns = (_inner_borders(length, window, stride, margin) for length in size)
    return Borders(rows, columns) if rows or columns else None


def _inner_borders(length: int, window: int, stride: int, margin: int) -> tuple[int, ...]:
    """The starts and ends of windows inside a side of `length` pixels."""
    starts = [start - margin for start in axis_starts(length + 2 * margin, window, stride)]
    ends = [start + window for start in starts]
    return tuple(sorted({y for y in (*starts, *ends) if 0 < y < length}))


def check(window: int | None, stride: int | None) -> None:
    """Raise a UserError unless both are given or neither, and the windows leave no gap."""
    both = (window is None) == (stride is None)
    expect(both, "--window, --stride", "both or none", "one of them; name the other as well")
    if window is not None and stride is not None:
        expect(1 <= stride <= window, "--stride", f"1 to {window} pixels, the side of a window", stride)


def borders_of(edited: Path, size: Sequence[int]) -> Borders | None:
    """The borders according to the manifest that csd-edit-panorama writes beside its output; None if unknown.

    Unknown: no manifest, a model that is not on disk, an image smaller than a window, a 360-degree edit.
    """
    options = _read_options(edited)
    known = None if options.get("wrap", True) else _geometry(str(options.get("model", "")))
    method = str(options.get("method"))
    if known is None or method == "ip2p-resize" or min(size) < known[0]:
        return None
    window, scale, default = known
    stride = window if method == "ip2p-patch" else (options.get("stride") or default) * scale
    # a former version had an option for the treatment of borders
    has_margin = not method.startswith("ip2p-") and options.get("borders", "margin") == "margin"
    padded = [length + -length % scale for length in size]
    return borders(padded, window, stride, window - stride if has_margin else 0)


def _read_options(edited: Path) -> dict[str, Any]:
    """The options in the manifest of an edit; empty if there is none."""
    try:
        manifest = json.loads(edited.with_name(edited.name + ".json").read_text())
        return dict(manifest["options"]) if manifest["command"] == "csd-edit-panorama" else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _geometry(model: str) -> tuple[int, int, int] | None:
    """Side of a window in pixels, downscaling factor, default stride in latent pixels; None if unknown."""
    if model == DEFAULT_MODEL:
        return _SIDE, _SCALE, INSTRUCT_PIX2PIX["panorama"].stride
    folder = MINI_FOLDER if model == MINI else Path(model)
    try:
        unet, vae = (json.loads((folder / part / "config.json").read_text()) for part in ("unet", "vae"))
        blocks = vae.get("block_out_channels") or vae["encoder_block_out_channels"]  # of AutoencoderTiny
        scale = 2 ** (len(blocks) - 1)
        side = int(unet["sample_size"]) * scale
    except (OSError, ValueError, KeyError, TypeError):
        return None
    presets = MINI_PRESETS if (folder / "language.json").is_file() else INSTRUCT_PIX2PIX
    return side, scale, presets["panorama"].stride
