"""Programs that a test starts, watches and never leaves behind."""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def running(command: Sequence[str], **settings: Any) -> "Iterator[subprocess.Popen[str]]":
    """A program, as subprocess.Popen starts it; killed in the end, if it has not ended by itself."""
    with subprocess.Popen(command, text=True, **settings) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]", seconds: float = 240) -> None:
    """Wait until a program has done something, while it runs."""
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it ended early"
        assert time.monotonic() < until, "it did not come to it"
        time.sleep(0.01)
