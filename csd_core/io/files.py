"""Files that are written whole or not at all, and checks of a path before the work starts."""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from csd_core.errors import UserError


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A hidden path in the folder of `path`, same suffix; replaces it if the block raises nothing.

    The folder is made if it is missing. After an exception nothing is left behind and `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # named, not made: a file from tempfile would be readable by its owner alone
    beside = path.with_name(f"{_mark()}{path.suffix}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def folder_written_beside(path: Path) -> Iterator[Path]:
    """As written_beside, for a folder: an empty one; replaces `path` if the block raises nothing.

    What `path` held is lost; the caller has to check that it may be.
    """
    path = path.resolve()  # a link to a folder stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    name = _mark()
    beside, old = path.with_name(name), path.with_name(f"{name}-old")
    beside.mkdir()
    try:
        yield beside
        _swap(beside, path, old)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_output(output: Path, source: Path | None = None, *, folder_allowed: bool = False) -> None:
    """Check that `output` can be written and is not the file it is made from.

    Raises:
        UserError: it is a folder (unless allowed), or `source`; or as check_writable.
    """
    if os.path.isdir(output) and not folder_allowed:
        raise UserError(f"{output}: expected a file to write, got a folder; name a file in it")
    check_writable(output)
    if source is not None and _same_file(output, source):
        raise UserError(f"{output}: expected a new file, got the input itself; choose another output")


def check_writable(*paths: Path) -> None:
    """Check that files or folders of these names can be made, by making empty files that are removed again.

    They are tried in the folder of each path, or the nearest one above it that exists; to check a folder that
    exists, name a file in it. os.access would not do: it allows root everything, even in /proc.

    Raises:
        UserError: a name is too long or not allowed, or its folder is a file or cannot be written.
    """
    for path in paths:
        place = path.absolute()
        # os.path, since Path.exists raises inside a folder that may not be entered
        folder = next((parent for parent in place.parents if os.path.exists(parent)), place)
        if not os.path.isdir(folder):
            raise UserError(f"{path}: expected a folder at {folder}, got a file; choose another output")
        try:
            for name in (f"{_mark()}{path.suffix}", *place.relative_to(folder).parts):
                _try_name(folder, name)
        except OSError as error:
            raise UserError(f"{path}: {_not_taken(folder, error)}") from error


def unreadable(path: Path, error: PermissionError) -> UserError:
    """The error for a file without permission to read."""
    return UserError(f"{path}: expected a file that can be read, got {error.strerror}; change it")


def file_hash(path: Path) -> str:
    """SHA-256 of the bytes of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(path: Path) -> str:
    """A hash of a file, or of the names and contents of the files in a folder."""
    if not path.is_dir():
        return file_hash(path)
    lines = (f"{file.name} {file_hash(file)}\n" for file in sorted(path.iterdir()) if file.is_file())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _mark() -> str:
    """The start of a hidden name that no other file has."""
    return f".unfinished-{secrets.token_hex(6)}"


def _try_name(folder: Path, name: str) -> None:
    """Make and remove an empty file of a name that is as long as `name` and ends like it.

    The name itself could be that of a file which exists, or which another process tries at the same time.
    """
    mark, given = _mark(), os.fsencode(name)
    end = given[len(mark) :] if len(given) > len(mark) else given
    readable = end.decode(errors="ignore")  # it may begin within a letter
    beside = folder / f"{mark}{'x' * (len(end) - len(os.fsencode(readable)))}{readable}"
    os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    beside.unlink()


def _not_taken(folder: Path, error: OSError) -> str:
    if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
        return f"expected a name that its folder takes, got {error.strerror}; choose a shorter, plain one"
    reason = "no files can be made in it" if error.errno == errno.ENOENT else error.strerror  # as in /proc
    return f"expected a folder that can be written, got {folder} ({reason}); choose another output"


def _swap(beside: Path, path: Path, old: Path) -> None:
    """Move a folder to `path`, and what is there to `old`; back again if that fails."""
    if not path.exists():
        os.rename(beside, path)
        return
    os.rename(path, old)
    try:
        os.rename(beside, path)
    except OSError:
        os.rename(old, path)
        raise


def _same_file(one: Path, other: Path) -> bool:
    if os.path.exists(one) and os.path.exists(other):
        return os.path.samefile(one, other)  # knows hard links as well
    return one.resolve() == other.resolve()
