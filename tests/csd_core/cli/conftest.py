"""Fixtures of the editing commands."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.csd_core.cli.commands import PanoramaCommand, VideoCommand
from tests.models import loaded_once_by_commands


@pytest.fixture(scope="module", autouse=True)
def loaded_once() -> Iterator[None]:
    """Models are loaded once for all tests of a file, except those in a process of their own."""
    with loaded_once_by_commands():
        yield


@pytest.fixture
def panorama(tmp_path: Path, tiny_epsilon: Path, capsys: pytest.CaptureFixture[str]) -> PanoramaCommand:
    """csd-edit-panorama."""
    return PanoramaCommand(tmp_path, tiny_epsilon, capsys)


@pytest.fixture
def video(tmp_path: Path, tiny_epsilon: Path, capsys: pytest.CaptureFixture[str]) -> VideoCommand:
    """csd-edit-video."""
    return VideoCommand(tmp_path, tiny_epsilon, capsys)
