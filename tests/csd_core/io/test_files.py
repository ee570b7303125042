import errno
import os
from pathlib import Path

import pytest

from csd_core.io.files import check_output, check_writable, folder_written_beside, written_beside
from tests.csd_core.io.clips import one_line


def write(path: Path, text: str) -> None:
    """A file in place, but the block fails if text is "fail"."""
    with written_beside(path) as beside:
        assert (beside.parent, beside.suffix) == (path.parent, path.suffix)
        assert beside.name.startswith(".unfinished-")
        beside.write_text(text)
        assert not path.exists() or path.read_text() != text
        if text == "fail":
            raise RuntimeError("no")


def test_a_file_takes_its_place_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    write(path, "one")
    write(path, "two")
    with pytest.raises(RuntimeError, match="no"):
        write(path, "fail")
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]
    plain = tmp_path / "plain.txt"
    plain.write_text("")  # others may read what they may read of any new file
    assert path.stat().st_mode == plain.stat().st_mode


def write_folder(path: Path, *names: str) -> None:
    """A folder in place, but the block fails after a file called "fail"."""
    with folder_written_beside(path) as beside:
        assert beside.parent == path.resolve().parent
        assert beside.name.startswith(".unfinished-")
        for name in names:
            (beside / name).touch()
            if name == "fail":
                raise RuntimeError("no")


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_folder_takes_its_place_at_the_end(tmp_path: Path) -> None:
    path, link = tmp_path / "new" / "folder", tmp_path / "new" / "link"
    write_folder(path, "a", "b")
    assert names_in(path) == ["a", "b"]
    write_folder(path, "c")
    assert (names_in(path), names_in(path.parent)) == (["c"], ["folder"])
    link.symlink_to(path)
    write_folder(link, "d")
    assert (names_in(path), link.is_symlink()) == (["d"], True)


def test_a_failure_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "folder", os.rename
    with pytest.raises(RuntimeError, match="no"):
        write_folder(path, "fail")
    assert names_in(tmp_path) == []
    write_folder(path, "a")
    with pytest.raises(RuntimeError, match="no"):
        write_folder(path, "b", "fail")
    assert (names_in(path), names_in(tmp_path)) == (["a"], ["folder"])

    def rename(source: Path, target: Path) -> None:
        if target == path and not source.name.endswith("-old"):
            raise OSError("not now")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match="not now"):
        write_folder(path, "b")
    assert (names_in(path), names_in(tmp_path)) == (["a"], ["folder"])


def test_an_output_that_cannot_be_is_refused(tmp_path: Path) -> None:
    source, link, hard = tmp_path / "in.png", tmp_path / "link.png", tmp_path / "hard.png"
    for name in ("in.png", "old.png"):
        (tmp_path / name).touch()
    link.symlink_to(source)
    hard.hardlink_to(source)
    for name in ("new.png", "old.png", "a/b/c.png"):
        check_output(tmp_path / name, source)
    for output in (source, link, hard, tmp_path / "." / "in.png"):
        assert "the input itself" in one_line(check_output, output, source)
    assert "the input itself" in one_line(check_output, source, link)
    assert "got a folder" in one_line(check_output, tmp_path, source)
    for name in ("out.png", "deeper/out.png"):
        assert "got a file" in one_line(check_output, source / name, source)


@pytest.mark.parametrize("letter", ["a", "é", "語"])
def test_names_of_the_longest_length(tmp_path: Path, letter: str) -> None:
    most = 254 // len(letter.encode())
    fits = f"a{letter * most}"  # letters begin at odd bytes
    too_long = f"{fits}{'b' * (256 - len(fits.encode()))}"
    check_writable(tmp_path / fits, tmp_path / fits / fits)
    for path in (tmp_path / too_long, tmp_path / "new" / too_long, tmp_path / too_long / "a.png"):
        message = one_line(check_writable, path)
        assert message.startswith(f"{path}: expected a name that its folder takes, got File name too long")
    # written_beside makes a longer one
    long = tmp_path / f"a.{'s' * 240}"
    assert "File name too long" in one_line(check_writable, long)
    with pytest.raises(OSError, match="too long"):
        write(long, "one")
    assert names_in(tmp_path) == []


def test_what_a_check_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, real, made = tmp_path / "old.png", os.open, []
    old.write_text("old")
    before = old.stat()

    def opening(path: Path, flags: int) -> int:
        made.append(path)
        return real(path, flags)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opening)
        check_writable(old, tmp_path / "new" / "folder" / "new.png")
        check_output(old, tmp_path / "in.png")
    assert (old.read_text(), old.stat()) == ("old", before)
    assert names_in(tmp_path) == ["old.png"]
    assert all(path.parent == tmp_path and path.name.startswith(".unfinished-") for path in made)
    assert len(made) == len(set(made)) == 2 + 4 + 2


def test_a_folder_that_takes_no_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(number: int) -> str:
        def failing(path: Path, flags: int) -> int:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:  # the tests may run as root, to whom everything is open
            patch.setattr(os, "open", failing)
            return one_line(check_output, tmp_path / "missing" / "out.png", tmp_path / "in.png")

    start = f"{tmp_path / 'missing' / 'out.png'}: expected a folder that can be written, got {tmp_path}"
    assert refused(errno.EACCES) == f"{start} (Permission denied); choose another output"
    assert refused(errno.EROFS) == f"{start} (Read-only file system); choose another output"
    assert refused(errno.ENOENT) == f"{start} (no files can be made in it); choose another output"
    assert "expected a name that its folder takes, got Invalid argument" in refused(errno.EINVAL)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder of Linux that takes no files")
def test_proc_takes_no_files() -> None:
    for path in (Path("/proc/out.png"), Path("/proc/new/folder/out.png")):
        assert "got /proc (no files can be made in it)" in one_line(check_writable, path)
