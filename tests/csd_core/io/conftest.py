from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Neither FFmpeg nor an encoder writes anything."""
    yield
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
