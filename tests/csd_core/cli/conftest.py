"""Fixtures of the editing commands."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from csd_core.denoisers.families import load_denoiser
from tests.csd_core.cli.commands import PanoramaCommand, VideoCommand


@pytest.fixture(scope="module", autouse=True)
def loaded_once() -> Iterator[None]:
    """Models are loaded once for all tests of a file, except those in a process of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("csd_core.cli.run.load_denoiser", cache(load_denoiser))
        yield


@pytest.fixture
def panorama(tmp_path: Path, tiny_epsilon: Path, capsys: pytest.CaptureFixture[str]) -> PanoramaCommand:
    """csd-edit-panorama."""
    return PanoramaCommand(tmp_path, tiny_epsilon, capsys)


@pytest.fixture
def video(tmp_path: Path, tiny_epsilon: Path, capsys: pytest.CaptureFixture[str]) -> VideoCommand:
    """csd-edit-video."""
    return VideoCommand(tmp_path, tiny_epsilon, capsys)
