from pathlib import Path

import torch

from csd_core.engine.config import EditConfig
from csd_nerf.editing.rounds import Rounds
from csd_nerf.editing.views import to_float
from tests.csd_nerf.conftest import arguments, parse, train
from tests.toy_family import Tinter, tinted


def test_another_family_edits_a_round_of_views(tmp_path: Path, capture: Path, tiny_epsilon: Path) -> None:
    steps = ("--max-num-iterations", "1", "--base-steps", "1")
    trainer = train(parse(arguments(capture, tmp_path, tiny_epsilon, *steps)))
    manager = trainer.datamanager
    manager._denoiser, manager.live.prompt = Tinter(), "redder"
    manager.config.edit, manager.config.start_from = EditConfig(num_steps=60, batch_size=4), "photo"
    manager.live.guidance_scale = manager.live.image_guidance_scale = 1.0
    views = manager.run_round(1, trainer.model, Rounds(tmp_path / "edits"), trainer.progress)
    assert len(views) == 4
    for view in views:
        photo, edit = to_float(manager.photo(view)), to_float(manager.edited_view(view))
        assert edit.shape == photo.shape
        # it was edited at the family's own size, 16 pixels, and enlarged: colours are compared, not pixels
        difference = (edit - tinted(photo, "redder")).mean(dim=(1, 2))
        torch.testing.assert_close(difference, torch.zeros(3), rtol=0, atol=0.02)
