"""Rounds of edits over views of mixed sizes."""

import copy
import dataclasses
import gc
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_nerf.csd_datamanager import CSDDataManagerConfig, Editing
from csd_nerf.editing.rounds import Rounds
from csd_nerf.editing.views import to_float
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
    assert not manager.is_due(3, first=2)
    manager.edit_panel.edit_now.cb_hook(None)
    assert manager.is_due(3, first=2)
    assert not manager.is_due(3, first=2)
    manager.request_round()
    assert not manager.is_due(1, first=2)
    assert "begin at step 2" in capsys.readouterr().out
    assert manager.is_due(8, first=2)


def test_rounds_use_what_the_panel_says(mixed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = mixed.datamanager
    for name, value in (("prompt", "night"), ("guidance_scale", 4.0), ("image_guidance_scale", 2.0)):
        monkeypatch.setattr(manager.live, name, value)
    prompt, settings = manager._prompt_and_settings(5)
    assert prompt == "night"
    assert (settings.guidance_scale, settings.image_guidance_scale) == (4.0, 2.0)
    assert settings.seed != manager.config.edit.seed
    monkeypatch.setattr(manager.live, "prompt", "  ")
    assert manager._prompt_and_settings(5)[0] == manager.config.prompt


def test_paper_settings() -> None:
    config = CSDDataManagerConfig()
    assert (config.edit_interval, config.edit.batch_size, config.start_from) == (2000, 16, "render")


ONE_VIEW = {
    "--pipeline.datamanager.schedule": "one-view",
    "--pipeline.datamanager.sampling-steps": "2",
    "--max-num-iterations": "8",
    "--base-steps": "2",
    "--pipeline.datamanager.edit-interval": "2",
    "--steps-per-save": "3",
}


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, tiny_epsilon: Path) -> Any:
    """The trainer of a run that edits one view every two steps, of two sizes that no latent fits."""
    folder = tmp_path_factory.mktemp("single")
    capture = write_capture(folder / "scene", [(35, 32), (32, 35)] * 3)
    more = [word for pair in ONE_VIEW.items() for word in pair]
    return train(parse(arguments(capture, folder / "out", tiny_epsilon, *more)))


def test_views_are_edited_one_by_one(single: Any) -> None:
    manager = single.datamanager
    assert manager.rounds_done == 3
    edited = [view for view in range(len(manager.train_dataset)) if manager.edited_view(view) is not None]
    assert len(edited) == 3  # without replacement
    rounds = sorted((single.base_dir / "edits").glob("round_*"))
    assert [len(list(folder.glob("[0-9]*.png"))) for folder in rounds] == [1, 1, 1]
    for view in edited:
        edit, photo = manager.edited_view(view), manager.photo(view)
        assert edit.shape == photo.shape
        assert not torch.equal(edit, photo)


def test_single_views_are_not_worth_a_checkpoint(single: Any) -> None:
    """Those of the schedule alone, and the scene before the first edit."""
    assert list((single.base_dir / "base_model").glob("step-000000001.ckpt"))
    names = {path.name for path in single.checkpoint_dir.glob("step-*.ckpt")}
    assert names == {"step-000000007.ckpt"}


def test_a_view_is_renewed_from_the_render_under_the_photo(
    single: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from csd_core import baselines

    seen: dict[str, Any] = {}

    def spy(_: Any, image: torch.Tensor, condition: torch.Tensor, *__: Any, level: float) -> torch.Tensor:
        seen.update(image=image, condition=condition, level=level)
        return image

    monkeypatch.setattr(baselines, "ip2p_renewed", spy)
    manager, model = single.datamanager, single.model.eval()
    prompt, settings = manager._prompt_and_settings(4)
    editing = Editing(manager._load_denoiser(), prompt, settings, single.progress)
    with single.progress.round(9):
        (done,) = manager._edit_views([1], model, editing)
    height, width = done.photo.shape[1:]
    like = seen["condition"][0, :, :height, :width]
    assert seen["image"].shape == seen["condition"].shape
    assert float((seen["image"][0, :, :height, :width] - to_float(done.start)).abs().max()) < 1 / 255
    assert float((like - to_float(done.photo)).abs().max()) < 1 / 255
    low, high = manager.config.sampling_range
    assert low <= seen["level"] <= high
    levels = set()
    for number in range(4):
        quiet: Any = _Quiet()
        prompt, settings = manager._prompt_and_settings(number)
        editing = Editing(manager._load_denoiser(), prompt, settings, quiet)
        manager._renewed(seen["condition"], seen["image"], editing)
        levels.add(round(seen["level"], 6))
    assert len(levels) == 4


class _Quiet:
    """Shows no progress."""

    @contextmanager
    def task(self, *_: Any) -> Any:
        yield lambda _: None


@pytest.mark.parametrize("cyclic", [False, True])
def test_a_model_that_is_not_kept_is_freed_before_the_cache_is_emptied(
    mixed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cyclic: bool
) -> None:
    manager = copy.copy(mixed.datamanager)
    manager.config = dataclasses.replace(manager.config, keep_model_loaded=False)
    manager._denoiser = None
    denoiser: Any = manager._load_denoiser()
    if cyclic:  # as compiled and offloaded models have
        denoiser.itself = denoiser
    gone, freed = weakref.ref(denoiser), []
    del denoiser
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(gone() is None))
    gc.disable()  # so that nothing but the round itself collects
    try:
        manager.run_round(9, mixed.model, Rounds(tmp_path / "edits"), mixed.progress)
    finally:
        gc.enable()
    assert freed == [True]
