import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from csd_core.cli import watch as module
from csd_core.cli.watch import Watch
from csd_core.engine.checkpoint import Checkpoint


def canvas(value: float) -> Tensor:
    return torch.full((1, 4, 2, 2), float(value))


class Edit:
    """A watch over an edit of five steps, and the previews that it showed."""

    def __init__(self, tmp_path: Path, preview_every: int = 0, num_steps: int = 5) -> None:
        self.shown: list[float] = []
        self.checkpoint = Checkpoint(tmp_path / "kept.safetensors", {"seed": 0})
        self.watch = Watch(num_steps, self.checkpoint, self.show, preview_every)

    def show(self, canvas: Tensor) -> None:
        self.shown.append(float(canvas.mean()))

    def kept(self) -> tuple[int, float] | None:
        found = self.checkpoint.load()
        return None if found is None else (found[0], float(found[1].mean()))


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """The handler of Ctrl-C is the same after every test."""
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("every", "shown"), [(2, [2, 4]), (0, [])])
def test_previews_come_every_so_many_steps_but_not_at_the_end(
    tmp_path: Path, every: int, shown: list[float]
) -> None:
    edit = Edit(tmp_path, preview_every=every, num_steps=6)
    for step in range(6):
        assert not edit.watch(step, canvas(step + 1))
    assert edit.shown == shown
    assert edit.watch.steps_done == 6
    assert edit.kept() is None


def test_the_canvas_is_saved_at_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    monkeypatch.setattr(module, "SAVE_SECONDS", 10.0)
    edit = Edit(tmp_path)
    found = []
    for step, now in enumerate((105.0, 110.0, 119.0, 120.0, 200.0)):  # noqa: B007 - read by monotonic
        edit.watch(step, canvas(step + 1))
        found.append(edit.kept())
    assert found == [None, (2, 2.0), (2, 2.0), (4, 4.0), (4, 4.0)]  # not after the last step


def test_ctrl_c_ends_after_the_current_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit = Edit(tmp_path)
    with edit.watch.watching(0) as callback:
        assert not callback(0, canvas(1))
        os.kill(os.getpid(), signal.SIGINT)
        assert edit.kept() is None
        assert callback(1, canvas(2))
    assert edit.watch.stopped
    assert edit.watch.steps_done == 2
    assert edit.kept() == (2, 2.0)
    assert capsys.readouterr().err.count("stopping after this step; Ctrl-C again stops at once") == 1


def test_ctrl_c_twice_ends_at_once(tmp_path: Path) -> None:
    with Edit(tmp_path).watch.watching(0):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_in_the_last_step_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit = Edit(tmp_path)
    with edit.watch.watching(4) as callback:
        os.kill(os.getpid(), signal.SIGINT)
        assert not callback(4, canvas(5))
    assert edit.kept() is None
    assert "4/5" in capsys.readouterr().err  # the bar starts at the step that is resumed


def test_after_an_error_ctrl_c_is_as_before(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Edit(tmp_path).watch.watching(0):
        raise RuntimeError  # the fixture checks the handler
