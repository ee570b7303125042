import os
from pathlib import Path

import pytest

from csd_core.errors import UserError
from csd_core.io.files import check_output, folder_written_beside, written_beside


def write(path: Path, text: str) -> None:
    """A file in place, but the block fails if text is "fail"."""
    with written_beside(path) as beside:
        assert beside.parent == path.parent
        assert beside.suffix == path.suffix
        assert beside.name.startswith(".unfinished-")
        beside.write_text(text)
        assert not path.exists() or path.read_text() != text
        if text == "fail":
            raise RuntimeError("no")


def test_a_file_takes_its_place_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    write(path, "one")
    write(path, "two")
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


def test_others_may_read_what_they_may_read_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("")
    write(tmp_path / "a.txt", "one")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write(path, "one")
    with pytest.raises(RuntimeError, match="no"):
        write(path, "fail")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


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
    path = tmp_path / "new" / "folder"
    write_folder(path, "a", "b")
    assert names_in(path) == ["a", "b"]
    write_folder(path, "c")
    assert names_in(path) == ["c"]
    assert names_in(path.parent) == ["folder"]


def test_a_failure_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder"
    with pytest.raises(RuntimeError, match="no"):
        write_folder(path, "fail")
    assert names_in(tmp_path) == []
    write_folder(path, "a")
    with pytest.raises(RuntimeError, match="no"):
        write_folder(path, "b", "fail")
    assert (names_in(path), names_in(tmp_path)) == (["a"], ["folder"])
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if target == path and not source.name.endswith("-old"):
            raise OSError("not now")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match="not now"):
        write_folder(path, "b")
    assert (names_in(path), names_in(tmp_path)) == (["a"], ["folder"])


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    path, link = tmp_path / "folder", tmp_path / "link"
    path.mkdir()
    link.symlink_to(path)
    write_folder(link, "a")
    assert link.is_symlink()
    assert names_in(path) == ["a"]


def refused(output: Path, source: Path) -> str:
    """The one-line message of check_output."""
    with pytest.raises(UserError) as error:
        check_output(output, source)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_fine_output_passes(tmp_path: Path) -> None:
    source = tmp_path / "in.png"
    source.touch()
    (tmp_path / "old.png").touch()
    for name in ("new.png", "old.png", "a/b/c.png"):
        check_output(tmp_path / name, source)


def test_an_output_that_cannot_be_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "in.png"
    source.touch()
    assert "got a folder" in refused(tmp_path, source)
    assert "got a file" in refused(source / "out.png", source)
    assert "got a file" in refused(source / "deeper" / "out.png", source)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    # the tests may run as root, to whom everything is open
    monkeypatch.setattr(os, "access", lambda folder, mode: bool(asked.append((folder, mode))))
    assert "can be written" in refused(tmp_path / "missing" / "out.png", tmp_path / "in.png")
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]


def test_the_input_is_not_overwritten(tmp_path: Path) -> None:
    source, link, hard = tmp_path / "in.png", tmp_path / "link.png", tmp_path / "hard.png"
    source.touch()
    link.symlink_to(source)
    hard.hardlink_to(source)
    for output in (source, link, hard, tmp_path / "." / "in.png"):
        assert "the input itself" in refused(output, source)
    assert "the input itself" in refused(source, link)
