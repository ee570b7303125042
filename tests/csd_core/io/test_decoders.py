"""Settings of decoders are those of the whole process: they come back, whatever threads do."""

import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from csd_core.io.image_headers import read_header
from csd_core.io.images import read_picture


def settings() -> tuple:
    loggers = logging.getLogger("tifffile").disabled
    return Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, loggers, list(warnings.filters)


def test_settings_come_back_after_threads_have_read(tmp_path: Path) -> None:
    paths = []
    for k in range(12):
        paths.append(tmp_path / f"{k}.{('png', 'tif', 'jpg')[k % 3]}")
        Image.fromarray(np.full((40 + 40 * k, 300, 3), k, np.uint8)).save(paths[-1])
    (tmp_path / "damaged.png").write_bytes(paths[0].read_bytes()[:60])

    def read(k: int) -> float:
        if k % 7 == 6:
            with np.testing.assert_raises(ValueError):
                read_picture(tmp_path / "damaged.png")
        path = paths[k % 12]
        assert read_header(path).size == (40 + 40 * (k % 12), 300)
        return float(read_picture(path).pixels.mean())

    before = settings()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, range(240)))
    assert settings() == before
    assert np.allclose(found, [k % 12 for k in range(240)], atol=1)
