"""Rounds of edits over views of mixed sizes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_nerf.csd_datamanager import CSDDataManagerConfig
from csd_nerf.csd_views import to_float
from tests.csd_nerf.conftest import arguments, parse, train, write_capture

SIZES = [(48, 32), (32, 48), (32, 32), (40, 24)] * 3
RENDER_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, tiny_epsilon: Path) -> Any:
    """The trainer of a run over views of four sizes, with alpha; batch larger than the capture."""
    folder = tmp_path_factory.mktemp("mixed")
    capture = write_capture(folder / "scene", SIZES, channels=4)
    more = ("--pipeline.datamanager.edit.batch-size", "50", "--max-num-iterations", "6", "--base-steps", "2")
    return train(parse(arguments(capture, folder / "out", tiny_epsilon, *more)))


@pytest.fixture
def denoiser(mixed: Any) -> InstructPix2Pix:
    return mixed.datamanager._load_denoiser()


def test_mixed_sizes_come_back_at_the_size_of_training(mixed: Any) -> None:
    manager = mixed.datamanager
    assert manager.rounds_done == 2
    assert manager.views_per_round == len(manager.train_dataset) == 11
    for view in range(11):
        image = manager.train_dataset[view]["image"]
        edit = manager.edited_view(view)
        assert edit is not None
        assert edit.shape == (3, *image.shape[:2])


def test_photos_are_kept_and_transparent_parts_lie_on_white(mixed: Any) -> None:
    image = mixed.datamanager.train_dataset[3]["image"]
    expected = image[..., :3] * image[..., 3:] + 1 - image[..., 3:]
    got = to_float(mixed.datamanager.photo(3)).permute(1, 2, 0)
    torch.testing.assert_close(got, expected, rtol=0, atol=0.5 / 255 + 1e-6)


def test_render_is_nerfactos_own(mixed: Any) -> None:
    manager, model = mixed.datamanager, mixed.model.eval()
    views = [0, 5, 2]
    like = [to_float(manager.photo(view)) for view in views]
    with mixed.progress.round(9):
        renders = manager.render(views, like, model, mixed.progress)
    for view, render in zip(views, renders, strict=True):
        rays = manager.train_dataset.cameras.generate_rays(camera_indices=view, keep_shape=True)
        expected = model.get_outputs_for_camera_ray_bundle(rays)["rgb"].permute(2, 0, 1)
        torch.testing.assert_close(render, expected, rtol=0, atol=RENDER_TOLERANCE)
    model.train()


def test_render_is_no_larger_than_needed(mixed: Any) -> None:
    manager = mixed.datamanager
    with mixed.progress.round(9):
        small, large = manager.render(
            [0, 0], [torch.rand(3, 8, 12), torch.rand(3, 80, 120)], mixed.model, mixed.progress
        )
    assert small.shape == (3, 8, 12)
    assert large.shape == manager.photo(0).shape


@pytest.mark.parametrize("start", ["render", "photo", "previous"])
def test_an_edit_starts_where_it_is_told(
    mixed: Any, denoiser: InstructPix2Pix, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = mixed.datamanager
    monkeypatch.setattr(manager.config, "start_from", start)
    sources = [torch.rand(3, 32, 48)]
    with mixed.progress.round(9):
        (got,) = manager._starts([0], sources, mixed.model, mixed.progress)
    assert got.shape == (3, 32, 48)
    if start == "photo":
        assert got is sources[0]
    elif start == "previous":
        assert torch.equal(got, to_float(manager.edited_view(0)))


def test_a_request_edits_out_of_turn_but_not_during_base_training(
    mixed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    manager = mixed.datamanager
    assert not manager._is_due(3, first=2)
    manager.edit_panel.edit_now.cb_hook(None)
    assert manager._is_due(3, first=2)
    assert not manager._is_due(3, first=2)
    manager.request_round()
    assert not manager._is_due(1, first=2)
    assert "begin at step 2" in capsys.readouterr().out
    assert manager._is_due(8, first=2)


def test_rounds_use_what_the_panel_says(mixed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = mixed.datamanager
    for name, value in (("prompt", "night"), ("guidance_scale", 4.0), ("image_guidance_scale", 2.0)):
        monkeypatch.setattr(manager.live, name, value)
    settings = manager._round_settings(5)
    assert manager._prompt() == "night"
    assert (settings.guidance_scale, settings.image_guidance_scale) == (4.0, 2.0)
    assert settings.seed != manager.config.edit.seed
    monkeypatch.setattr(manager.live, "prompt", "  ")
    assert manager._prompt() == manager.config.prompt


def test_paper_settings() -> None:
    config = CSDDataManagerConfig()
    assert (config.edit_interval, config.edit.batch_size, config.start_from) == (2000, 16, "render")
