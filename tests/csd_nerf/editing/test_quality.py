import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from csd_core.evaluation.metrics.pixels import psnr
from csd_core.mini_editor.edits import INSTRUCTIONS, apply_edit
from csd_nerf.editing import quality as csd_quality
from csd_nerf.editing.quality import Quality, Shown, edited_views, mean_psnr
from csd_nerf.editing.rounds import EditedView
from csd_nerf.editing.views import to_bytes
from csd_nerf.runs.novel_views import render_view
from tests.csd_nerf.test_csd_model import build

SIZE = (20, 30)
TOLERANCE = 1e-3  # dB


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    poses = torch.eye(4)[:3].repeat(3, 1, 1)
    poses[:, :, 3] = torch.tensor([[0.0, 0, 1], [0.2, 0, 1], [0, 0.2, 1]])
    return Cameras(poses, 25.0, 25.0, 15.0, 10.0, width=30, height=20)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def test_psnr_of_small_views_is_that_of_whole_renders(cameras: Cameras, images: torch.Tensor) -> None:
    model = build().eval()
    expected = [psnr(render_view(model, cameras, k)[0], images[k]) for k in range(3)]
    got = mean_psnr(model, [Shown(cameras, k, images[k]) for k in range(3)])
    assert got == pytest.approx(sum(expected) / 3, abs=TOLERANCE)


def test_only_pixels_inside_the_mask_count(cameras: Cameras, images: torch.Tensor) -> None:
    model, mask = build().eval(), torch.zeros(SIZE, dtype=torch.bool)
    mask[:7, 5:9] = True
    expected = psnr(render_view(model, cameras, 1)[0], images[1], mask)
    assert mean_psnr(model, [Shown(cameras, 1, images[1], mask)]) == pytest.approx(expected, abs=TOLERANCE)
    nothing = Shown(cameras, 1, images[1], torch.zeros(SIZE, dtype=torch.bool))
    assert math.isnan(mean_psnr(model, [nothing]))
    assert math.isnan(mean_psnr(model, []))


def test_large_views_are_looked_at_on_an_even_grid() -> None:
    pose: Any = None
    y, x = csd_quality._grid(Shown(pose, 0, torch.zeros(3, 300, 1000)))
    assert 500 < len(y) < csd_quality._PIXELS**2
    assert abs(float(y.float().mean()) - 150) < 15
    assert abs(float(x.float().mean()) - 500) < 15
    assert int(y.max()) < 300
    assert int(x.max()) < 1000


def test_a_few_edited_views_are_evenly_chosen(cameras: Cameras) -> None:
    edits = {view: torch.full((3, *SIZE), view, dtype=torch.uint8) for view in range(0, 26, 2)}
    chosen = edited_views(cameras, edits)
    assert [view.index for view in chosen] == [0, 8, 16, 24]
    assert all(torch.equal(view.image * 255, edits[view.index].float()) for view in chosen)


@pytest.mark.parametrize(
    ("base", "follows", "words", "trusted"),
    [
        (25.0, 27.0, ("25.0", "27.0"), True),
        (15.8, 27.0, ("15.8", "poses", "--base-steps"), False),
        (25.0, 9.2, ("9.2", "edit-interval"), False),
        (math.nan, 27.0, ("27.0",), True),
    ],
)
def test_low_figures_are_warned_of_in_one_line(
    capsys: pytest.CaptureFixture[str], base: float, follows: float, words: tuple[str, ...], trusted: bool
) -> None:
    quality = Quality()
    quality.base_is(base)
    quality.round_is(1, follows)
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == (1 if math.isnan(base) else 2)
    assert printed.count("warning:") == (0 if trusted else 1)
    assert all(word in printed for word in words)
    verdict = quality.verdict()
    assert "\n" not in verdict
    assert verdict.startswith("The result can be trusted" if trusted else "The result can NOT be trusted")
    assert all(word in verdict for word in words)


def test_quality_is_read_as_it_was_written_and_older_runs_have_none(tmp_path: Path) -> None:
    assert Quality.read(tmp_path) == Quality()
    assert Quality().verdict() == "Quality: not measured."
    quality = Quality(base=21.5, rounds={"9": 30.0, "10": 19.0}, hues={"9": 3.0})
    quality.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["quality.json"]
    assert Quality.read(tmp_path) == quality
    assert quality.follows == 19.0, "of the worst round"
    assert json.loads((tmp_path / "quality.json").read_text())["base"] == 21.5


def rounds_of(colors: list[str]) -> list[EditedView]:
    """Random photos with the instruction's true edit, one outcome each."""
    generator = torch.Generator().manual_seed(0)
    photos = [torch.rand(3, *SIZE, generator=generator) for _ in colors]
    edits = [apply_edit("tint", photo, color) for photo, color in zip(photos, colors, strict=True)]
    return [
        EditedView(k, to_bytes(photo), to_bytes(photo), to_bytes(edit))
        for k, (photo, edit) in enumerate(zip(photos, edits, strict=True))
    ]


def test_views_edited_in_different_colors_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = list(INSTRUCTIONS["tint"].outcomes)
    quality = Quality(base=25.0)
    quality.round_is(1, 27.0)
    quality.edits_are(1, rounds_of([outcomes[0]] * len(outcomes)))
    assert quality.spread < 5
    assert "warning:" not in capsys.readouterr().out
    assert quality.verdict().startswith("The result can be trusted")
    quality.edits_are(2, rounds_of(outcomes))
    quality.edits_are(3, rounds_of([outcomes[1]] * len(outcomes)))
    photo = torch.full((3, *SIZE), 200, dtype=torch.uint8)
    quality.edits_are(4, [EditedView(0, photo, photo, photo - 100)])
    assert quality.hues.keys() == {"1", "2", "3"}, "grey edits have no hue"
    printed = capsys.readouterr().out
    assert printed.count("warning: round 2:") == 1
    assert printed.count("warning:") == 1
    assert "different colours" in quality.verdict()
    assert quality.verdict().startswith("The result can NOT be trusted")
