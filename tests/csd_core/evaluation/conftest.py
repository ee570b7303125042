from pathlib import Path

import pytest

from csd_core.evaluation.metrics.extractors import ClipExtractor
from tests.csd_core.evaluation.drawn import tiny_clip


@pytest.fixture(scope="session")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> ClipExtractor:
    """Of a tiny model with random weights."""
    folder: Path = tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")
    return ClipExtractor.from_pretrained(str(folder), device="cpu")
