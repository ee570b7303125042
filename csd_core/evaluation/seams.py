"""Where the borders of a panorama's windows lie, as told by a user or by the manifest of the edit."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from csd_core.denoisers.loading import MINI, MINI_FOLDER
from csd_core.errors import expect
from csd_core.evaluation.measuring import Borders

_STABLE_DIFFUSION = ("timbrooks/instruct-pix2pix", 512, 8)


def borders(size: Sequence[int], window: int, stride: int, margin: int = 0) -> Borders | None:
    """Where square windows begin and end on a picture of (H, W); None if it is smaller than one.

    Args:
        size: H, W.
        window: side of a window in pixels.
        stride: pixels from window to window.
        margin: pixels around the picture that windows reach over.
    """
    if min(size) < window:
        return None
    from csd_core.mini_editor.training.panoramas import borders as along

    rows, columns = (
        tuple(y for y in along(length, window, stride, margin) if 0 < y < length) for length in size
    )
    return Borders(rows, columns) if rows or columns else None


def check(window: int | None, stride: int | None) -> None:
    """Raise a UserError unless both are given or none, and the windows leave no gap."""
    both = (window is None) == (stride is None)
    expect(both, "--window, --stride", "both or none", "one of them; name the other as well")
    if window is not None and stride is not None:
        expect(1 <= stride <= window, "--stride", f"1 to {window} pixels, the side of a window", stride)


def borders_of(edited: Path, size: Sequence[int]) -> Borders | None:
    """The borders that the manifest which csd-edit-panorama leaves beside its output tells; None if none is.

    An image smaller than a window, which was enlarged, and a 360-degree edit have borders that are not told.
    """
    manifest = _read_manifest(edited)
    options = manifest.get("options", {})
    known = _geometry(str(options.get("model", ""))) if not options.get("wrap", True) else None
    if known is None or options.get("method") == "ip2p-resize":
        return None
    window, scale, default = known
    method = options.get("method")
    stride = window if method == "ip2p-patch" else (options.get("stride") or default) * scale
    margin = window - stride if method == "csd" and options.get("borders") == "margin" else 0
    padded = [length + -length % scale for length in size]
    return borders(padded, window, stride, margin) if min(size) >= window else None


def _read_manifest(edited: Path) -> dict[str, Any]:
    path = edited.with_name(edited.name + ".json")
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    good = isinstance(found, dict) and found.get("command") == "csd-edit-panorama"
    return found if good and isinstance(found.get("options"), dict) else {}


def _geometry(model: str) -> tuple[int, int, int] | None:
    """Side of a window in pixels, pixels of a latent pixel, default stride in these; None if unknown."""
    from csd_core.presets import PANORAMA, PANORAMA_MINI

    name, side, scale = _STABLE_DIFFUSION
    if model == name:
        return side, scale, PANORAMA.stride
    folder = MINI_FOLDER if model == MINI else Path(model)
    try:
        unet, vae = (json.loads((folder / part / "config.json").read_text()) for part in ("unet", "vae"))
        blocks = vae.get("block_out_channels") or vae["encoder_block_out_channels"]  # of AutoencoderTiny
        scale = 2 ** (len(blocks) - 1)
        side = int(unet["sample_size"]) * scale
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return side, scale, (PANORAMA_MINI if (folder / "language.json").is_file() else PANORAMA).stride
