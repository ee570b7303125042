from pathlib import Path

import pytest

from csd_core.evaluation.metrics.extractors import ClipExtractor
from tests.csd_core.evaluation.drawn import tiny_clip


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights. Do not write into it."""
    return tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="session")
def extractor(clip_folder: Path) -> ClipExtractor:
    """Of that model."""
    return ClipExtractor.from_pretrained(str(clip_folder), device="cpu")
