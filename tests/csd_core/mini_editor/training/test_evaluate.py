"""The evaluation of a mini editor as a user runs it, in miniature."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from csd_core.command import run_command
from csd_core.errors import UserError
from csd_core.mini_editor.edits import INSTRUCTIONS
from csd_core.mini_editor.training import evaluate as evaluation
from csd_core.mini_editor.training.evaluate import EvaluateConfig, by_kind, cell, evaluate
from csd_core.mini_editor.training.pictures import held_out_pictures, read_pictures, squares, to_tensor


def cells(text: str, title: str) -> list[list[str]]:
    """The rows of the table under a heading."""
    lines = text.split(f"### {title}")[1].split("###")[0].splitlines()
    return [line[2:-2].split(" | ") for line in lines if line.startswith("|")][2:]


def test_every_section_has_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "CHOICE_PHOTOGRAPHS": 1,
        "CHOICE_SEEDS": 4,
        "LANGUAGE_PHOTOGRAPHS": 1,
        "CSD_PHOTOGRAPHS": 1,
        "CSD_STEPS": 2,
        "SIZES": ((64, 64), (64, 192)),
    }.items():
        monkeypatch.setattr(evaluation, name, value)
    args = ["--output", str(tmp_path), "--steps", "2", "--seeds", "1"]
    args += ["--instructions", "night", "orange to green", "tint"]
    assert run_command(EvaluateConfig, evaluate, args) == 0
    text = (tmp_path / "tables.md").read_text()
    night, orange, tint = cells(text, "Full sampling, dB to the ground truth; VAE")
    assert night[:3] == ["night", "light", "2"]
    assert (orange[1], tint[1]) == ("local", "choice")
    assert float(night[5]) > 5
    assert night[8] == "–"
    assert float(orange[8]) > 5
    assert [row[0] for row in cells(text, "Means by kind")] == ["light", "local", "choice"]
    (row,) = cells(text, "Choices")
    assert sum(int(part.split()[1]) for part in row[2].split(", ")) == 4
    ways = {row[0]: row[1:] for row in cells(text, "Other words")}
    assert ways["capitals"] == ways["canonical"] == [*["100 %"] * 4, "100.0"]  # the tokenizer has no capitals
    assert all(row[4] == "yes" for row in cells(text, "Unknown prompts"))
    for row in cells(text, "Negative prompts"):
        assert float(row[3]) == pytest.approx(float(row[2]) - float(row[1]), abs=0.15)
    assert [row[:2] for row in cells(text, "CSD-Edit")[:2]] == [["light", "sampled"], ["light", "csd"]]
    assert [row[0] for row in cells(text, "Other sizes")] == ["64 x 64", "64 x 192"]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 4 * 128  # the sources and three instructions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"instructions": ("rain",)}, "instructions: expected some of night"),
        ({"photographs": [Path("nowhere")]}, "nowhere"),
        ({"model": Path("nowhere")}, "model: expected the folder of an InstructPix2Pix model, got nowhere"),
    ],
)
def test_bad_settings_are_reported_before_anything_is_written(tmp_path, change, message):
    output = tmp_path / "report"
    with pytest.raises(UserError, match=message):
        evaluate(replace(EvaluateConfig(output=output), **change))
    assert not output.exists()


def test_means_by_kind_by_hand():
    instructions = [INSTRUCTIONS[name] for name in ("night", "snow", "red to blue")]
    scores = [dict.fromkeys(evaluation.SCORES, value) for value in (1.0, 3.0, 7.0)]
    means = by_kind(instructions, scores)
    assert (means["light"]["gain"], means["local"]["gain"]) == (2.0, 7.0)
    assert [cell(means["light"]["gain"], "{:+.1f}"), cell(float("nan"))] == ["+2.0", "–"]


def test_a_wide_picture_gives_squares_side_by_side():
    wide = Image.new("RGB", (480, 100))
    for k, colour in enumerate(("red", "lime", "blue", "white")):
        wide.paste(colour, (120 * k, 0, 120 * (k + 1), 100))
    parts = [to_tensor(part) for part in squares(wide, 128)]
    assert len(parts) == 5
    assert len(squares(wide.transpose(Image.Transpose.ROTATE_90), 128)) == 5
    assert len(squares(wide.crop((0, 0, 190, 100)), 128)) == 1
    torch.testing.assert_close(parts[0].mean((1, 2)), torch.tensor([1.0, 0.0, 0.0]), rtol=0, atol=0.05)
    torch.testing.assert_close(parts[-1].mean((1, 2)), torch.ones(3), rtol=0, atol=0.05)


def test_pictures_of_a_folder_are_evenly_spaced(tmp_path):
    for k in range(9):
        Image.new("RGB", (20, 16), (20 * k, 0, 0)).save(tmp_path / f"{k}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    found = read_pictures([tmp_path, tmp_path / "8.png"], per_folder=3)
    assert list(found) == ["0", "4", "8", f"{tmp_path.name}/8.png"]
    assert found["4"].getpixel((0, 0)) == (80, 0, 0)
    assert len(read_pictures([tmp_path])) == 9
    assert list(held_out_pictures()) == ["coffee", "rocket"]
