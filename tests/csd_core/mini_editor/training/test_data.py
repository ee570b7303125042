"""Training batches are functions of (seed, step), and conditions are dropped as often as stated."""

import os
import threading

import numpy as np
import pytest
import torch

from csd_core.denoisers.language import FILLER
from csd_core.mini_editor.edits import INSTRUCTIONS, find_instruction
from csd_core.mini_editor.training.build import LATENT_CHANNELS, build_vae
from csd_core.mini_editor.training.data import (
    NAMES,
    encoded_pairs,
    known_prompt,
    map_on_all_cores,
    random_edit,
    rng_for,
    source_pool,
    unet_batch,
    unknown_prompt,
    vae_batch,
)
from csd_core.mini_editor.training.sources import (
    HELD_OUT_PHOTOGRAPHS,
    TRAINING_PHOTOGRAPHS,
    photograph,
    random_source,
)

LOCK = threading.Lock()


def place_of_work(index: int) -> tuple[int, int, int]:
    assert LOCK.acquire(timeout=5), "a lock that was copied in its locked state"
    LOCK.release()
    return index, os.getpid(), torch.get_num_threads()


def test_other_processes_return_results_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each computes on one thread, and does not inherit a lock that is held here."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with LOCK:
        made = list(map_on_all_cores(place_of_work, 7, chunk=2))
    assert [index for index, *_ in made] == list(range(7))
    assert os.getpid() not in {process for _, process, _ in made}
    assert {threads for *_, threads in made} == {1}


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> torch.Tensor:
    return source_pool(tmp_path_factory.mktemp("pool") / "sources.npy", count=4, size=32, seed=0)


@pytest.fixture(scope="module")
def pairs(pool, tmp_path_factory):
    torch.manual_seed(0)
    return encoded_pairs(
        tmp_path_factory.mktemp("pairs") / "pairs.pt", pool, build_vae().eval(), per_source=3, seed=0
    )


def test_sources_are_images_and_repeat_with_their_seed():
    images = [random_source(rng_for(0, 0, k), 32) for k in range(6)]
    assert all(
        i.shape == (32, 32, 3) and i.dtype == np.float32 and i.min() >= 0 and i.max() <= 1 for i in images
    )
    assert np.array_equal(images[3], random_source(rng_for(0, 0, 3), 32))
    assert np.abs(images[0] - images[1]).mean() > 0.01


def test_every_photograph_is_installed_and_none_is_held_out_and_trained_on():
    assert all(photograph(name).ndim == 3 for name in (*TRAINING_PHOTOGRAPHS, *HELD_OUT_PHOTOGRAPHS))
    assert not set(TRAINING_PHOTOGRAPHS) & set(HELD_OUT_PHOTOGRAPHS)


def test_the_pool_is_made_once(pool, tmp_path):
    path = tmp_path / "sources.npy"
    first = source_pool(path, count=4, size=32, seed=0)
    assert torch.equal(first, pool)
    assert torch.equal(source_pool(path, count=4, size=32, seed=9), first)
    assert list(tmp_path.iterdir()) == [path]


def test_vae_batches_depend_on_seed_and_step_alone(pool):
    batch = vae_batch(pool, batch=4, crop=16, seed=0, step=5)
    assert batch.shape == (4, 3, 16, 16)
    assert batch.min() >= 0
    assert batch.max() <= 1
    assert torch.equal(batch, vae_batch(pool, batch=4, crop=16, seed=0, step=5))
    assert not torch.equal(batch, vae_batch(pool, batch=4, crop=16, seed=0, step=6))


def test_pairs_are_encoded_by_the_vae(pairs, pool):
    assert pairs.source.shape == (4, LATENT_CHANNELS, 8, 8)
    assert pairs.edited.shape == (12, LATENT_CHANNELS, 8, 8)
    assert pairs.instruction.shape == (12,)
    torch.manual_seed(0)
    expected = build_vae().eval().encode(pool[2:3].float() / 127.5 - 1).latents  # type: ignore[union-attr]
    torch.testing.assert_close(pairs.source[2:3].float(), expected, atol=5e-3, rtol=5e-3)


def test_unet_batches_drop_each_condition_in_a_tenth_of_the_rows(pairs):
    batch = unet_batch(pairs, batch=4000, crop=4, timesteps=1000, seed=0, step=0)
    textless = torch.tensor([prompt == "" for prompt in batch.prompts])
    imageless = batch.keep_image == 0
    for dropped, share in ((textless, 0.10), (imageless, 0.10), (textless & imageless, 0.05)):
        assert abs(float(dropped.float().mean()) - share) < 0.015
    again = unet_batch(pairs, batch=4000, crop=4, timesteps=1000, seed=0, step=0)
    assert torch.equal(batch.noise, again.noise)
    assert batch.prompts == again.prompts
    assert batch.timesteps.min() < 20
    assert batch.timesteps.max() > 980


def test_unet_batches_pair_each_edit_with_its_own_source(pairs):
    whole = unet_batch(pairs, batch=16, crop=8, timesteps=10, seed=0, step=0)
    changed = [pair for pair in zip(whole.source, whole.edited, strict=True) if not torch.equal(*pair)]
    assert len(changed) >= 12
    for source, edited in changed:
        row = next(k for k in range(12) if torch.equal(pairs.edited[k].float(), edited))
        assert torch.equal(pairs.source[row // 3].float(), source)


def test_unknown_prompts_and_half_of_the_missing_ones_change_nothing(pairs):
    batch = unet_batch(pairs, batch=4000, crop=4, timesteps=1000, seed=0, step=0)
    same = (batch.source == batch.edited).flatten(1).all(1)
    unread = torch.tensor([bool(p) and find_instruction(p) is None for p in batch.prompts])
    textless = torch.tensor([prompt == "" for prompt in batch.prompts]) & (batch.keep_image == 1)
    assert same[unread].all()
    assert abs(float(unread.float().mean()) - 0.06) < 0.015
    assert abs(float(same[textless].float().mean()) - 0.5) < 0.1
    known = torch.tensor([find_instruction(p) is not None for p in batch.prompts])
    assert not same[known].any()


def test_changed_wordings_keep_the_words_with_meaning():
    rng = rng_for(0)
    for k in range(200):
        instruction = INSTRUCTIONS[NAMES[k % len(NAMES)]]
        words = set(known_prompt(rng, k % len(NAMES)).split())
        assert any(set(w.split()) - FILLER <= words for w in instruction.wordings)


def test_unknown_prompts_are_outside_the_language():
    prompts = [unknown_prompt(rng_for(k)) for k in range(200)]
    assert not any(find_instruction(prompt) for prompt in prompts)
    assert len(set(prompts)) > 150


def test_local_edits_are_rarely_sampled_where_they_change_nothing():
    grey = torch.full((3, 16, 16), 0.5)
    kinds = [list(INSTRUCTIONS.values())[random_edit(rng_for(k), grey)[0]].kind for k in range(60)]
    assert kinds.count("local") <= 9  # 15 % of a third of the samples, plus chance
