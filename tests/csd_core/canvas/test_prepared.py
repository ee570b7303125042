"""What Panorama and VideoEdit share: encoding, resuming, chunks, methods and numbers of steps."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from csd_core.canvas.windows import Windows
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine.config import MethodConfig
from csd_core.engine.draws import particles_of_step
from csd_core.engine.prepared import PreparedEdit, with_steps
from csd_core.errors import UserError
from csd_core.presets import INSTRUCT_PIX2PIX, Preset
from tests.csd_core.canvas.quick import QUICK, panorama, video

SPLIT_ERROR = 1e-4

Prepare = Callable[..., PreparedEdit]
each_kind = pytest.mark.parametrize("prepare", [panorama, video])


@pytest.mark.parametrize(
    ("prepare", "how", "sizes"),
    [
        (panorama, {}, [1]),
        (panorama, {"wrap": True}, [1]),
        (video, {"given": {"chunk_size": 4}}, [4, 2]),
        (video, {"given": {"chunk_size": 10**30}}, [6]),
    ],
)
def test_no_image_is_encoded_twice(
    denoiser: InstructPix2Pix, encoded: list[int], prepare: Prepare, how: dict[str, Any], sizes: list[int]
) -> None:
    prepare(denoiser, num_steps=1, **how).run()
    assert encoded == sizes


@each_kind
def test_an_edit_is_resumed_to_the_same_bits(denoiser: InstructPix2Pix, prepare: Prepare) -> None:
    kept: dict[int, Tensor] = {}
    whole = prepare(denoiser, num_steps=5).run(callback=lambda k, x: kept.update({k: x.clone()}))
    assert torch.equal(prepare(denoiser, num_steps=5).run(kept[2], start_step=3), whole)


@each_kind
def test_particles_of_a_step_exchange_gradients_however_they_are_evaluated(
    denoiser: InstructPix2Pix, prepare: Prepare
) -> None:
    whole = prepare(denoiser, given={"chunk_size": 16}, num_steps=4).run()
    for chunk_size in (1, 3):
        parts = prepare(denoiser, given={"chunk_size": chunk_size}, num_steps=4).run()
        torch.testing.assert_close(parts, whole, rtol=0, atol=SPLIT_ERROR)
    alone = prepare(denoiser, given={"mixing": False}, num_steps=4).run()
    assert (alone - whole).abs().max() > 0.01


@each_kind
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"prompt": "  "}, "prompt: expected an instruction, got nothing"),
        ({"num_steps": -1}, "num_steps"),
        ({"given": {"batch_size": 0}}, "batch_size"),
        ({"given": {"chunk_size": 0}}, "chunk_size"),
        ({"given": {"t_range": (0.5, 0.2)}}, "t_range"),
        ({"given": {"baseline": "prompt"}}, "source_prompt: expected what the source shows"),
    ],
)
def test_bad_settings_are_reported_at_once(
    denoiser: InstructPix2Pix, prepare: Prepare, how: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepare(denoiser, **how)


# How many steps


def test_by_default_every_particle_is_sampled_equally_often_in_whole_rounds() -> None:
    windows = Windows(20, 200, 8, 4, batch_size=4)
    cases = [(windows.num_particles, 4, windows.updates_per_round)]
    cases += [(frames, batch, 1) for frames, batch in ((6, 4), (24, 8), (25, 8), (7, 7), (5, 16), (1, 8))]
    for count, batch, updates in cases:
        rounds, method = math.ceil(count / batch), MethodConfig(batch_size=batch)
        edit = with_steps(method, QUICK["video"], None, rounds, updates)
        sampled = [p for k in range(edit.num_steps) for p in particles_of_step(edit, count, k)]
        assert torch.tensor(sampled).bincount().tolist() == [edit.num_steps // rounds] * count
        assert edit.num_steps / rounds * updates >= QUICK["video"].updates
        assert with_steps(method, QUICK["video"], 7, rounds, updates).num_steps == 7


def test_steps_for_the_expected_updates() -> None:
    windows = Windows(8, 8 * 9, 8, 4, batch_size=1)  # 17 windows in a row, two over each pixel in the middle
    rounds = windows.steps_per_round, windows.updates_per_round
    for updates, steps in ((4, 34), (4.1, 51)):
        preset = Preset(learning_rate=1, batch_size=1, updates=updates, least_steps=1)
        assert with_steps(MethodConfig(batch_size=1), preset, None, *rounds).num_steps == steps


def test_the_papers_panorama_takes_the_papers_steps() -> None:
    preset = INSTRUCT_PIX2PIX["panorama"]
    method = MethodConfig.from_preset(preset)
    sizes = (64, 240), (496, 544)  # 512 x 1920 and 3968 x 4352 pixels
    small, large = (Windows(*size, 64, 16, batch_size=preset.batch_size) for size in sizes)
    assert small.num_particles == 12  # appendix B.1
    edit = with_steps(method, preset, None, small.steps_per_round, small.updates_per_round)
    assert edit.num_steps in range(200, 203)
    assert (edit.lr_decay_every, edit.learning_rate, edit.lr_decay) == (20, 2.0, 0.9)
    edit = with_steps(method, preset, None, large.steps_per_round, large.updates_per_round)
    assert edit.num_steps == large.steps_per_round > 200


def test_the_papers_24_frames_take_the_papers_steps() -> None:
    preset = INSTRUCT_PIX2PIX["video"]
    method = MethodConfig.from_preset(preset)
    edit = with_steps(method, preset, None, 3, 1)
    assert edit.num_steps == 201  # 200, made whole rounds of 3
    assert (edit.lr_decay_every, edit.learning_rate, edit.lr_decay, edit.batch_size) == (20, 0.5, 0.9, 8)
    assert with_steps(method, preset, None, 1, 1).num_steps == 200
    assert with_steps(method, preset, 50, 3, 1).lr_decay_every == 5
