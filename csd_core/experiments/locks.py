"""Who works on a cell: a lock file that is made whole or not at all, and broken when its process is gone."""

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

UNREADABLE_SECONDS = 30
"""A lock that says nothing for so long was left by a process that died while writing it."""


class Lock:
    """A lock that is held.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def unfinished(self, folder: Path) -> None:
        """Note a folder that is to be removed should this process die."""
        self.path.write_text(json.dumps({**_holder(), "unfinished": str(folder.resolve())}))


@contextmanager
def locked(path: Path) -> Iterator[Lock | None]:
    """Hold the lock at `path` for the block; None when a living process, or another host, holds it.

    A lock that a dead process of this host left is broken, and what it had not finished is removed. One of
    another host stays until someone deletes the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _break_if_stale(path)
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        yield None
        return
    with os.fdopen(file, "w") as opened:
        opened.write(json.dumps(_holder()))
    try:
        yield Lock(path)
    finally:
        path.unlink(missing_ok=True)


def _holder() -> dict[str, object]:
    return {"pid": os.getpid(), "begun": psutil.Process().create_time(), "host": socket.gethostname()}


def _break_if_stale(path: Path) -> None:
    if not path.exists():
        return
    # one at a time: otherwise a second process could remove the lock that the first has just made anew
    with path.with_name(".breaking").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        unfinished = _stale(path)
        if unfinished is not None:
            if unfinished:
                shutil.rmtree(unfinished, ignore_errors=True)
            path.unlink(missing_ok=True)


def _stale(path: Path) -> str | None:
    """What the holder of a stale lock left unfinished, "" if nothing; None for a lock that is held."""
    try:
        holder = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return "" if time.time() - path.stat().st_mtime > UNREADABLE_SECONDS else None
    if holder["host"] != socket.gethostname() or _lives(holder["pid"], holder["begun"]):
        return None
    return holder.get("unfinished", "")


def _lives(pid: int, begun: float) -> bool:
    """Whether the process of that number is still the one that began then."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - begun) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # of another user: it lives
        return True
