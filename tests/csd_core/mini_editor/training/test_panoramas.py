import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from csd_core.command import run_command
from csd_core.mini_editor.edits import INSTRUCTIONS
from csd_core.mini_editor.training.panoramas import (
    METHODS,
    PanoramasConfig,
    borders,
    compare,
    corners,
    true_edit,
)


def write_picture(path: Path, size: tuple[int, int]) -> Path:
    """A smooth random picture."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def test_every_way_is_measured(tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "hill.png", (200, 140))
    args = ["--images", str(picture), "--output", str(tmp_path / "out"), "--instructions", "night", "--width"]
    assert run_command(PanoramasConfig, compare, [*args, "160"]) == 2  # 112 pixels are less than a window
    assert not (tmp_path / "out").exists()
    assert run_command(PanoramasConfig, compare, [*args, "190", "--stride", "32", "--num-steps", "5"]) == 0
    rows = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["method"] for row in rows] == list(METHODS)
    for row in rows:
        assert row["psnr"] > row["source_psnr"] + 3
        assert row["seam"] > 0
        assert row["evaluations"] > 0
        with Image.open(tmp_path / "out" / f"hill_night_{row['method']}.png") as edited:
            assert edited.size == (190, 133)
    assert "| night | csd |" in (tmp_path / "out" / "table.md").read_text()
    assert (tmp_path / "out" / "sheet_hill_night.png").is_file()


@pytest.mark.parametrize("name", ["tint", "dawn"])
def test_an_edit_without_one_right_answer_cannot_be_measured(name: str, tmp_path: Path, capsys) -> None:
    picture = write_picture(tmp_path / "hill.png", (200, 140))
    args = ["--images", str(picture), "--output", str(tmp_path / "out"), "--instructions", name]
    assert run_command(PanoramasConfig, compare, args) == 2
    assert "one right answer" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_true_edit_is_the_instructions_function() -> None:
    image = torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    expected = INSTRUCTIONS["snow"].function(image[0].permute(1, 2, 0).numpy(), "")
    assert np.allclose(true_edit(image, "snow")[0].permute(1, 2, 0), expected.clip(0, 1))


def test_corners_and_borders_by_hand() -> None:
    image = torch.arange(3 * 6 * 8.0).view(1, 3, 6, 8)
    cut = corners(image, 2)
    assert torch.equal(cut[0], image[0, :, :2, :2])
    assert torch.equal(cut[3], image[0, :, 4:, 6:])
    assert borders(300, 128, 64) == [0, 64, 128, 172, 192, 256, 300]
    assert borders(300, 128, 128) == [0, 128, 172, 256, 300]
    assert borders(64, 128, 64, margin=64) == [-64, 0, 64, 128]
