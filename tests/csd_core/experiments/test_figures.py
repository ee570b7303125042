from pathlib import Path

import pytest
import torch

from csd_core.experiments.figures import Figure, finite, known_truth, parts, read_figures, write_figures
from csd_core.experiments.settings import Prompt
from csd_core.method.schedule import step_generator
from csd_core.mini_editor.edits import apply_edit


def picture(height: int = 16, width: int = 48) -> torch.Tensor:
    return 0.2 + 0.6 * torch.rand(3, height, width, generator=step_generator(0))


def test_the_true_edit_has_the_highest_psnr_and_the_source_a_lower_one() -> None:
    source = picture()
    true = apply_edit("snow", source)
    assert known_truth(Prompt.mini("snow"), [source], [true]) == {"psnr_true": Figure(100.0, 1)}
    unedited = known_truth(Prompt.mini("snow"), [source], [source])["psnr_true"].mean
    assert unedited is not None
    assert unedited < 30


def test_frames_that_took_the_same_choice_agree_and_others_do_not() -> None:
    source = picture(16, 16)
    red, blue = (apply_edit("tint", source, hue) for hue in ("red", "blue"))
    alike = known_truth(Prompt.mini("tint"), [source] * 2, [blue, blue])
    assert alike["hue_spread"].mean == pytest.approx(0, abs=1e-3)
    assert alike["psnr_true"].mean == 100
    assert alike["share"] == Figure(1.0, 2)
    torn = known_truth(Prompt.mini("tint"), [source] * 2, [blue, red])
    assert torn["hue_spread"].mean is not None
    assert torn["hue_spread"].mean > 30
    assert torn["share"] == Figure(0.5, 2)
    assert torn["psnr_true"].mean is not None
    assert torn["psnr_true"].mean < 80


def test_parts_of_a_picture_are_what_must_agree_in_it() -> None:
    source = picture()
    red, blue = (apply_edit("tint", source, hue) for hue in ("red", "blue"))
    halves = torch.cat([red[..., :24], blue[..., 24:]], dim=-1)
    torn = known_truth(Prompt.mini("tint"), [source], [halves])
    assert torn["share"] == Figure(0.5, 12)
    assert torn["hue_spread"].mean is not None
    assert torn["hue_spread"].mean > 30


def test_parts_are_squares_of_half_the_short_side() -> None:
    image = torch.arange(3 * 5 * 9.0).view(3, 5, 9)
    squares = parts(image)
    assert len(squares) == 2 * 4
    assert torch.equal(squares[0], image[:, :2, :2])
    assert torch.equal(squares[5], image[:, 2:4, 2:4])


def test_figures_are_kept(tmp_path: Path) -> None:
    path, figures = tmp_path / "figures.json", {"lpips": Figure(None), "psnr_true": Figure(21.5, 3)}
    assert read_figures(path) is None
    write_figures(path, figures, {"extractor": "abc"})
    assert read_figures(path) == figures


def test_what_json_does_not_know_is_none() -> None:
    assert [finite(value) for value in (1.0, float("nan"), float("inf"))] == [1.0, None, None]
