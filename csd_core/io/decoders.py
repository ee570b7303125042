"""Settings of the decoders of images while pictures are read, which belong to the whole process."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from PIL import Image, PngImagePlugin

TEXT_BYTES = 64 * 2**20
"""Of a profile or text of a PNG; Pillow's own limit is 1 MiB."""

_lock = threading.Lock()
_readers = 0
_settings = ExitStack()


@contextmanager
def reading() -> Iterator[None]:
    """No limits of Pillow's own, no warnings and no logging of decoders. Threads may read at the same time.

    The first one changes the settings, the last one restores them: each on its own would restore what another
    has set.
    """
    global _readers, _settings
    with _lock:
        _readers += 1
        if _readers == 1:
            with ExitStack() as stack:
                stack.enter_context(pillow_limit(None))
                stack.enter_context(warnings.catch_warnings(action="ignore"))  # damaged metadata warns
                stack.enter_context(_tifffile_silent())  # it would print every damaged tag
                _settings = stack.pop_all()
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if _readers == 0:
                _settings.close()


@contextmanager
def pillow_limit(pixels: int | None) -> Iterator[None]:
    """Replace Pillow's own limits, of pixels and of the profiles and texts of a PNG."""
    before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
    Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = pixels, TEXT_BYTES
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = before


@contextmanager
def _tifffile_silent() -> Iterator[None]:
    logger = logging.getLogger("tifffile")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
