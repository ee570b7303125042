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

from csd_core import baselines
from csd_core.engine.config import EditConfig
from csd_nerf.editing.edit import Editing, edit_by_sampling
from csd_nerf.editing.rendering import render_views
from csd_nerf.editing.rounds import Rounds
from csd_nerf.editing.viewer_panel import LiveSettings
from csd_nerf.editing.views import to_float
from tests.csd_nerf.conftest import arguments, parse, train, write_capture
from tests.toy_family import Tinter, tinted

SIZES = [(48, 32), (32, 48), (32, 32), (40, 24)] * 3
RENDER_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, tiny_epsilon: Path) -> Any:
    """The trainer of a run over views of four sizes, with alpha; batch larger than the capture."""
    folder = tmp_path_factory.mktemp("mixed")
    capture = write_capture(folder / "scene", SIZES, channels=4)
    more = ("--pipeline.datamanager.edit.batch-size", "50", "--max-num-iterations", "6", "--base-steps", "2")
    return train(parse(arguments(capture, folder / "out", tiny_epsilon, *more)))


def test_mixed_sizes_come_back_at_the_size_of_training(mixed: Any) -> None:
    manager = mixed.datamanager
    assert manager.rounds_done == 2
    assert manager.views_per_round == len(manager.train_dataset) == 11
    for view in range(11):
        edit = manager.edited_view(view)
        assert edit is not None
        assert edit.shape == (3, *manager.train_dataset[view]["image"].shape[:2])


def test_photos_are_kept_and_transparent_parts_are_white(mixed: Any) -> None:
    image = mixed.datamanager.train_dataset[3]["image"]
    expected = image[..., :3] * image[..., 3:] + 1 - image[..., 3:]
    got = to_float(mixed.datamanager.photo(3)).permute(1, 2, 0)
    torch.testing.assert_close(got, expected, rtol=0, atol=0.5 / 255 + 1e-6)


def test_renders_are_nerfactos_and_no_larger_than_needed(mixed: Any) -> None:
    manager, model, views = mixed.datamanager, mixed.model.eval(), [0, 5, 2, 0]
    cameras = manager.train_ray_generator.cameras
    with mixed.progress.round(9):
        *whole, small = render_views(model, cameras, views, [(99, 99)] * 3 + [(8, 12)], mixed.progress)
    for view, render in zip(views, whole, strict=False):
        rays = manager.train_dataset.cameras.generate_rays(camera_indices=view, keep_shape=True)
        expected = model.get_outputs_for_camera_ray_bundle(rays)["rgb"].permute(2, 0, 1)
        torch.testing.assert_close(render, expected, rtol=0, atol=RENDER_TOLERANCE)
    assert small.shape == (3, 8, 12)
    model.train()


@pytest.mark.parametrize("start", ["render", "photo", "previous"])
def test_an_edit_starts_from_what_is_configured(
    mixed: Any, start: str, monkeypatch: pytest.MonkeyPatch
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
    assert "note: edits start at step 2" in capsys.readouterr().out
    assert manager.is_due(8, first=2)


def test_rounds_use_the_settings_of_the_panel(mixed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = mixed.datamanager
    for name, value in (("prompt", "night"), ("guidance_scale", 4.0), ("image_guidance_scale", 2.0)):
        monkeypatch.setattr(manager.live, name, value)
    prompt, settings = manager._prompt_and_settings(5)
    assert prompt == "night"
    assert (settings.guidance_scale, settings.image_guidance_scale) == (4.0, 2.0)
    assert settings.seed != manager.config.edit.seed
    monkeypatch.setattr(manager.live, "prompt", "  ")
    assert manager._prompt_and_settings(5)[0] == manager.config.prompt


@pytest.mark.parametrize("cyclic", [False, True])
def test_a_model_that_is_not_kept_is_freed_before_the_cache_is_emptied(
    mixed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cyclic: bool
) -> None:
    manager = copy.copy(mixed.datamanager)
    manager.config = dataclasses.replace(manager.config, keep_model_loaded=False)
    manager._denoiser = None
    denoiser: Any = manager._load_denoiser()
    if cyclic:  # as compiled and offloaded models are
        denoiser.itself = denoiser
    reference, freed = weakref.ref(denoiser), []
    del denoiser
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(reference() is None))
    gc.disable()  # so that only the round itself collects
    try:
        manager.run_round(9, mixed.model, Rounds(tmp_path / "edits"), mixed.progress)
    finally:
        gc.enable()
    assert freed == [True]


def test_another_family_edits_a_round_of_views(mixed: Any, tmp_path: Path) -> None:
    manager = copy.copy(mixed.datamanager)
    manager._denoiser = Tinter()
    manager.live = LiveSettings("redder", 1.0, 1.0)
    edit = EditConfig(num_steps=60, batch_size=4)
    manager.config = dataclasses.replace(manager.config, edit=edit, start_from="photo")
    views = manager.run_round(9, mixed.model, Rounds(tmp_path / "edits"), mixed.progress)
    assert views
    for view in views:
        photo, edited = to_float(manager.photo(view)), to_float(manager.edited_view(view))
        assert edited.shape == photo.shape
        # it was edited at the family's own size, 16 pixels, and enlarged: colours are compared, not pixels
        difference = (edited - tinted(photo, "redder")).mean(dim=(1, 2))
        torch.testing.assert_close(difference, torch.zeros(3), rtol=0, atol=0.02)


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


def test_views_are_edited_one_by_one_without_a_checkpoint_each(single: Any) -> None:
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
    assert list((single.base_dir / "base_model").glob("step-000000001.ckpt"))
    names = {path.name for path in single.checkpoint_dir.glob("step-*.ckpt")}
    assert names == {"step-000000007.ckpt"}


def test_a_single_view_is_sampled_from_the_render_under_the_photo(
    single: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def spy(_: Any, image: torch.Tensor, condition: torch.Tensor, *__: Any, level: float) -> torch.Tensor:
        seen.update(image=image, condition=condition, level=level)
        return image

    monkeypatch.setattr(baselines, "ip2p_renewed", spy)
    manager, model = single.datamanager, single.model.eval()
    with single.progress.round(9):
        (done,) = manager._edit_views([1], model, *manager._prompt_and_settings(4), single.progress)
    height, width = done.photo.shape[1:]
    given = {name: seen[name][0, :, :height, :width] for name in ("image", "condition")}
    assert seen["image"].shape == seen["condition"].shape
    assert float((given["image"] - to_float(done.start)).abs().max()) < 1 / 255
    assert float((given["condition"] - to_float(done.photo)).abs().max()) < 1 / 255
    levels = set()
    for number in range(4):
        progress: Any = _NoProgress()
        prompt, settings = manager._prompt_and_settings(number)
        editing = Editing(manager._load_denoiser(), prompt, settings, progress)
        edit_by_sampling([given["image"]], [given["image"]], editing, steps=2, noise_range=(0.2, 0.9))
        levels.add(seen["level"])
    assert len(levels) == 4
    assert 0.2 <= min(levels) <= max(levels) <= 0.9


class _NoProgress:
    @contextmanager
    def task(self, *_: Any) -> Any:
        yield lambda _: None
