import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from csd_core.mini_editor.captions import wordings
from csd_core.mini_editor.training import scorer_train
from csd_core.mini_editor.training.data import NAMES
from csd_core.mini_editor.training.scorer_train import (
    EditPool,
    ScorerConfig,
    build_scorer,
    edit_pool,
    save_scorer,
    scorer_batch,
    scorer_loss,
    tokenize,
)
from csd_core.mini_editor.training.train import StageConfig


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> EditPool:
    return edit_pool(tmp_path_factory.mktemp("pool"), 3, seed=0)


def config(output: Path, steps: int) -> ScorerConfig:
    stage = StageConfig(steps=steps, batch=2, learning_rate=1e-3)
    return ScorerConfig(output, stage, sources=3, checkpoint_every=1, device="cpu")


def test_the_pool_holds_what_the_instructions_do(pool: EditPool) -> None:
    k = NAMES.index("night")
    source = pool.sources[1].float() / 255
    expected = scorer_train.apply_edit("night", source)
    assert np.abs(pool.edits[1, k] / 255 - expected.numpy()).max() < 0.5 / 255 + 1e-6
    assert pool.visible.shape == (3, len(NAMES))
    assert bool(pool.visible[:, k].all())


def test_a_batch_depends_on_seed_and_step_alone(pool: EditPool) -> None:
    one, same, other = (scorer_batch(pool, 2, 0, step) for step in (4, 4, 5))
    assert torch.equal(one.edits, same.edits)
    assert one.captions == same.captions
    assert one.edits.shape[1:] == (13, 3, 96, 96)
    assert not torch.equal(one.edits, other.edits)


def test_source_and_edits_have_the_same_crop(pool: EditPool) -> None:
    """An edit that changes nothing equals its source, except for blur."""
    unchanged = EditPool(
        pool.sources,
        pool.sources.numpy()[:, None].repeat(len(NAMES), axis=1),
        pool.outcomes,
        pool.visible,
    )
    batch = scorer_batch(unchanged, 2, 0, 0)
    difference = (batch.edits - batch.sources[:, None]).abs().amax(dim=(2, 3, 4))
    assert (difference < 1e-5).any()
    assert ((batch.edits - batch.sources[:, None]).abs().mean(dim=(2, 3, 4)) < 0.1).all()


def test_unknown_words_have_no_effect() -> None:
    model: Any = build_scorer().eval()
    known, unknown = tokenize(["a photo at night"]), tokenize(["a qzkvx photo at night"])
    weight = model.token_embedding.weight
    assert bool((weight[known[known > 0]].abs().amax(dim=1) > 0).all())
    strange = unknown[~torch.isin(unknown, known)]
    assert len(strange) > 0
    assert float(weight[strange].detach().abs().max()) == 0
    model.encode_text(unknown).sum().backward()
    assert float(weight.grad[strange].abs().max()) == 0


def test_the_loss_falls_on_one_batch(pool: EditPool) -> None:
    torch.manual_seed(0)
    model, batch = build_scorer(), scorer_batch(pool, 2, 0, 0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(6):
        loss = scorer_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_an_invisible_edit_does_not_count_in_the_directions(pool: EditPool) -> None:
    torch.manual_seed(0)
    sources, edits = torch.randn(1, 16), torch.randn(1, 13, 16)
    batch = scorer_batch(pool, 1, 0, 0)
    texts = {state: torch.randn(16) for state in wordings()}
    hidden = NAMES.index("red to blue")
    batch.visible[:] = True
    batch.visible[0, hidden] = False

    def loss() -> float:
        return float(scorer_train._direction_loss(sources, edits, texts, batch))

    before = loss()
    edits[0, hidden] = torch.randn(16)
    assert loss() == pytest.approx(before, abs=1e-6)
    edits[0, 0] = torch.randn(16)
    assert loss() != pytest.approx(before, abs=1e-3)


def test_a_killed_training_continues_where_it_stopped(tmp_path: Path) -> None:
    stopping(config(tmp_path / "twice", 3), after=1)
    for name in ("once", "twice"):
        scorer_train.main(config(tmp_path / name, 3))
    once, twice = (
        (tmp_path / name / "model" / "open_clip_model.safetensors").read_bytes() for name in ("once", "twice")
    )
    assert once == twice


def stopping(settings: ScorerConfig, after: int) -> None:
    """A run that is killed after some steps."""

    class KilledError(Exception):
        pass

    def loss_or_death(*args: object) -> torch.Tensor:
        nonlocal after
        after -= 1
        if after < 0:
            raise KilledError
        return scorer_loss(*args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer_train, "scorer_loss", loss_or_death)
        with pytest.raises(KilledError):
            scorer_train.main(settings)


def test_the_saved_folder_is_the_model(tmp_path: Path) -> None:
    import open_clip
    from safetensors.torch import load_file

    torch.manual_seed(0)
    model: Any = build_scorer().eval()
    save_scorer(tmp_path, model)
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    again: Any = open_clip.CLIP(**config["model_cfg"]).eval()
    again.load_state_dict(load_file(tmp_path / "open_clip_model.safetensors"))
    image, text = torch.rand(2, 3, 96, 96), tokenize(["a photo", "a photo at night"])
    with torch.no_grad():
        assert torch.allclose(again.encode_image(image), model.encode_image(image), atol=0.02)
        assert torch.allclose(again.encode_text(text), model.encode_text(text), atol=0.02)
    assert (tmp_path / "open_clip_model.safetensors").stat().st_size < 15e6
    assert "snowy" in json.loads((tmp_path / "words.json").read_text())
