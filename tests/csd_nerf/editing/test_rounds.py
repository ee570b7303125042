import json
from pathlib import Path

import pytest
import torch

from csd_nerf.editing.rounds import EditedView, Rounds, contact_sheet


def views(*indices: int, seed: int = 0) -> list[EditedView]:
    generator = torch.Generator().manual_seed(seed)

    def image(height: int, width: int) -> torch.Tensor:
        return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)

    return [EditedView(i, image(10 + i, 20), image(8, 16), image(10 + i, 20)) for i in indices]


def test_rounds_give_back_the_latest_edit_of_each_view(tmp_path: Path) -> None:
    rounds, first, second = Rounds(tmp_path / "edits"), views(0, 1), views(1, 4, seed=1)
    rounds.write(1, first, {"prompt": "snow"})
    rounds.write(2, second, {"prompt": "snow"})
    edits = rounds.read(2)
    assert edits.keys() == {0, 1, 4}
    assert torch.equal(edits[0], first[0].edit)
    assert torch.equal(edits[1], second[0].edit)
    assert torch.equal(rounds.read(1)[1], first[1].edit)
    assert rounds.read(0) == {}
    with pytest.raises(OSError, match="round_0003"):
        rounds.read(3)


def test_round_appears_whole_or_not_at_all_and_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds, again = Rounds(tmp_path / "edits"), views(0, seed=5)
    with monkeypatch.context() as patched:
        patched.setattr(json, "dumps", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            rounds.write(1, views(1), {})
    assert list(rounds.folder.iterdir()) == []
    rounds.write(1, views(0, 3), {})
    folder = rounds.write(1, again, {})
    assert sorted(path.name for path in folder.iterdir()) == ["0000.png", "contact_sheet.png", "state.json"]
    assert torch.equal(rounds.read(1)[0], again[0].edit)


def test_another_run_takes_over_the_rounds_that_count(tmp_path: Path) -> None:
    old, new = Rounds(tmp_path / "old"), Rounds(tmp_path / "new")
    for number in (1, 2, 3):
        old.write(number, views(number), {})
    new.take_over(old, 2)
    assert sorted(path.name for path in new.folder.iterdir()) == ["round_0001", "round_0002"]
    assert torch.equal(new.read(2)[2], old.read(2)[2])
    old.take_over(old, 3)
    assert old.read(3).keys() == {1, 2, 3}


def test_contact_sheet_shows_three_pictures_a_row() -> None:
    sheet = contact_sheet(views(0, 2))
    assert sheet.width >= 20 + 16 + 20
    assert sheet.height >= 10 + 12
