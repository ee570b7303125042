"""Names and limits that users choose among. Imports nothing heavy: the help of commands is made from it."""

from typing import Literal

from csd_core.errors import expect

ChunkSize = int | Literal["auto"]
"""Evaluations of a network at a time; auto: as many as fit into memory."""
DType = Literal["float32", "float16", "bfloat16"]
"""Precision of a network."""
Kind = Literal["panorama", "video"]
"""Kinds of input whose settings depend on the model. Scenes have nerfstudio's presets."""
PanoramaMethod = Literal["csd", "no-svgd", "sds", "dds", "ip2p-resize", "ip2p-patch", "ip2p-overlap"]
VideoMethod = Literal["csd", "no-svgd", "sds", "dds", "ip2p-frame"]
"""See engine/methods.py and, for those that begin with ip2p, baselines.py."""

DEFAULT_MODEL = "timbrooks/instruct-pix2pix"
MAX_PIXELS = 200_000_000
"""Larger images are refused by default: they may be decompression bombs."""
MAX_FRAMES = 3000
"""So many frames may be selected by default."""


def selection(frames: str) -> slice:
    """START:STOP:STEP as a slice.

    Raises:
        UserError: it is not that.
    """
    parts = frames.split(":")
    try:
        numbers = [int(part) if part.strip() else None for part in parts]
    except ValueError:
        numbers = []
    good = 2 <= len(numbers) <= 3 and all(n is None or n >= 0 for n in numbers) and numbers[2:] != [0]
    expect(good, "frames", "START:STOP or START:STOP:STEP in whole numbers, such as 0:48", frames)
    return slice(*numbers)
