"""How many examples, which ones, and models that are loaded once.

`make test` runs the same few in every run. `make fuzz` runs many, others in every run; a failure prints the
example and a line that reproduces it. FUZZ_EXAMPLES: how many of each test.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, configuration, settings

from tests.fuzz.outcome import Fuzzed
from tests.models import loaded_once_by_commands

configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "csd-fuzz")  # no folder in the repository
checks: Any = list(HealthCheck)
common = settings(database=None, deadline=None, suppress_health_check=checks, print_blob=True)
settings.register_profile("short", common, derandomize=True, max_examples=15)
settings.register_profile("long", common, max_examples=int(os.environ.get("FUZZ_EXAMPLES", "1500")))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))


@pytest.fixture(scope="module", autouse=True)
def loaded_once() -> Iterator[None]:
    """Models that are not damaged are loaded once."""
    with loaded_once_by_commands():
        yield


@pytest.fixture
def fuzzed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Fuzzed:
    """Runs commands, one folder for each example."""
    return Fuzzed(tmp_path, capfd)
