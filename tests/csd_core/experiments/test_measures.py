import pytest
import torch

from csd_core.experiments.measures import corners_of, true_measures
from csd_core.experiments.settings import Prompt
from csd_core.method.schedule import step_generator
from csd_core.mini_editor.edits import apply_edit

SNOW, TINT = Prompt.mini("snow"), Prompt.mini("tint")


def picture(height: int = 16, width: int = 48) -> torch.Tensor:
    return 0.2 + 0.6 * torch.rand(3, height, width, generator=step_generator(0))


def test_the_true_edit_has_the_highest_psnr_and_the_source_a_lower_one() -> None:
    source = picture()
    true = true_measures(SNOW, [source], [apply_edit("snow", source)])
    assert true == {"psnr_true": 100.0, "psnr_corners": 100.0}
    unedited = true_measures(SNOW, [source], [source])["psnr_true"]
    assert (unedited or 99) < 30


def test_corners_have_a_psnr_of_their_own() -> None:
    source = picture()
    edited = apply_edit("snow", source)
    edited[:, :4, -4:] = source[:, :4, -4:]
    measures = true_measures(SNOW, [source], [edited])
    corners, whole = (measures[key] or 0 for key in ("psnr_corners", "psnr_true"))
    # the same squared error over 4 x 4 x 4 pixels instead of 16 x 48
    assert whole - corners == pytest.approx(10 * torch.tensor(16 * 48 / 64).log10().item(), abs=0.01)
    assert corners_of(torch.arange(3 * 8 * 12.0).view(3, 8, 12)).shape == (4, 3, 2, 2)


def test_frames_with_the_same_choice_agree_and_others_do_not() -> None:
    source = picture(16, 16)
    red, blue = (apply_edit("tint", source, hue) for hue in ("red", "blue"))
    alike = true_measures(TINT, [source] * 2, [blue, blue])
    assert alike["hue_spread"] == pytest.approx(0, abs=1e-3)
    assert alike["psnr_true"] == 100
    assert alike["share"] == 1.0
    torn = true_measures(TINT, [source] * 2, [blue, red])
    assert (torn["hue_spread"] or 0) > 30
    assert torn["share"] == 0.5
    assert (torn["psnr_true"] or 99) < 80


def test_the_parts_of_a_picture_must_agree() -> None:
    source = picture()
    red, blue = (apply_edit("tint", source, hue) for hue in ("red", "blue"))
    halves = torch.cat([red[..., :24], blue[..., 24:]], dim=-1)
    torn = true_measures(TINT, [source], [halves])
    assert torn["share"] == 0.5
    assert (torn["hue_spread"] or 0) > 30
