from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from csd_core.denoisers.base import Conditioning
from csd_core.engine import loop as engine
from csd_core.engine.config import EditConfig
from csd_core.engine.draws import particle_noise, particles_of_step
from csd_core.engine.layout import Stack
from csd_core.engine.loop import edit_images, edit_latents
from csd_core.errors import NonFiniteError, UserError
from csd_core.method.csd import csd_edit_gradient, csd_gradient
from csd_core.method.guidance import classifier_free, instruct_pix2pix
from csd_core.method.schedule import step_generator
from tests.exact_editor import ExactEditor
from tests.models import load

SPLIT_ERROR = 1e-5
PLAIN = EditConfig(guidance_scale=1, image_guidance_scale=1, noise_pool=0)
"""Guidance that leaves one branch each for target and baseline, the plain posterior; and fresh draws."""


def editor(modes: int = 4, side: int = 4, seed: int = 0) -> ExactEditor:
    directions = torch.randn(modes, 4, side, side, generator=torch.Generator().manual_seed(seed))
    return ExactEditor(8 * directions / directions.flatten(1).norm(dim=1).view(-1, 1, 1, 1))


def sources(particles: int, side: int = 4, seed: int = 1) -> Tensor:
    return torch.randn(particles, 4, side, side, generator=torch.Generator().manual_seed(seed))


def run(
    denoiser: Any,
    config: EditConfig,
    source: Tensor,
    prompt: str | Mapping[str, Sequence[float]] = "edit",
    **rest: Any,
) -> Tensor:
    condition = Conditioning(len(source), image=source)
    return edit_latents(denoiser, rest.pop("canvas", source), source, condition, prompt, config, **rest)


# The law the project rests on: sources have four equally good edits; particles that mix choose alike.

PARTICLES, SEEDS, SIDE = 16, 12, 16  # 4 * 16 * 16 = 1024 dimensions
LAW = EditConfig(guidance_scale=1, image_guidance_scale=1, learning_rate=2.0, num_steps=200, noise_pool=0)


def agreement(config: EditConfig) -> float:
    """Share of the particles that end in the commonest mode, mean over the seeds."""
    shares = []
    for seed in range(SEEDS):
        exact, source = editor(side=SIDE, seed=100 + seed), sources(PARTICLES, SIDE, seed=200 + seed)
        edited = run(exact, replace(config, seed=seed), source)
        counts = exact.nearest_mode(edited, source).bincount(minlength=4)
        shares.append(counts.max().item() / PARTICLES)
    return sum(shares) / SEEDS


@pytest.mark.parametrize(
    ("settings", "expected", "tolerance"),
    [
        pytest.param({"mixing": False}, 0.38, 0.06, id="without mixing: chance"),
        pytest.param({}, 0.72, 0.12, id="with mixing"),
        pytest.param({"bandwidth_factor": 3.0}, 1.0, 0.01, id="three times the bandwidth"),
        pytest.param({"shared_noise": True}, 1.0, 0.01, id="shared noise"),
        pytest.param({"learning_rate": 8.0}, 0.47, 0.12, id="a high learning rate undoes it"),
        pytest.param({"noise_pool": 8}, 0.65, 0.12, id="a pool of pairs: as fresh draws over 48 seeds"),
    ],
)
def test_law_of_agreement(settings: dict[str, Any], expected: float, tolerance: float) -> None:
    # where particles agree in part, the mean over 12 seeds has a standard error of about 0.06
    assert agreement(replace(LAW, **settings)) == pytest.approx(expected, abs=tolerance)


def test_every_particle_reaches_one_of_its_edits() -> None:
    exact, source = editor(side=SIDE), sources(PARTICLES, SIDE)
    change = run(exact, replace(LAW, bandwidth_factor=3.0), source) - source
    nearest = exact.modes[exact.nearest_mode(change, torch.zeros(()))]
    assert (change - nearest).flatten(1).norm(dim=1).max() < 0.5 * 8


# What a step computes.


@pytest.mark.parametrize("baseline", ["image", "noise", "prompt"])
def test_one_step_is_the_equation(baseline: Any) -> None:
    exact, source = editor(), sources(3)
    canvas = source + 0.1 * sources(3, seed=5)
    config = EditConfig(
        guidance_scale=7.5,
        image_guidance_scale=1.5,
        num_steps=1,
        baseline=baseline,
        source_prompt="a photo",
        seed=4,
    )
    t = exact.schedule.sample_timestep((0.2, 0.5), step_generator(4, 0, 0))
    noise = torch.stack([torch.randn(4, 4, 4, generator=step_generator(4, 0, p + 1)) for p in range(3)])
    ts, none = torch.full((3,), t), torch.zeros_like(source)

    def predict(x_t: Tensor, image: Tensor, text: float) -> Tensor:
        return exact.predict_noise(x_t, ts, Conditioning(3, image=image, text=torch.full((3,), text)))

    def guided(x_t: Tensor) -> Tensor:
        eps_u, eps_i = predict(x_t, none, 0.0), predict(x_t, source, 0.0)
        return instruct_pix2pix(eps_u, eps_i, predict(x_t, source, 1.0), 7.5, 1.5)

    x_t, source_t = (exact.schedule.add_noise(x, noise, ts) for x in (canvas, source))
    w = exact.schedule.weight(torch.tensor(t))
    if baseline == "noise":
        gradient = csd_gradient(x_t, guided(x_t), noise, w)
    else:
        eps_u, eps_i = predict(source_t, none, 0.0), predict(source_t, source, 0.0)
        other = classifier_free(eps_u, eps_i, 1.5) if baseline == "image" else guided(source_t)
        gradient = csd_edit_gradient(x_t, guided(x_t), other, w)
    edited = run(exact, config, source, canvas=canvas)
    torch.testing.assert_close(edited, canvas - 2.0 * gradient)


@pytest.mark.parametrize(
    ("settings", "per_particle"),
    [
        pytest.param({}, 5, id="Eq. 9"),
        pytest.param({"image_guidance_scale": 1.0}, 3, id="no unconditional branch"),
        pytest.param({"guidance_scale": 1.5}, 4, id="no image branch in the target"),
        pytest.param({"guidance_scale": 0.0}, 4, id="no text branch"),
        pytest.param({"guidance_scale": 1.0, "image_guidance_scale": 1.0}, 2, id="text and image alone"),
        pytest.param({"baseline": "noise"}, 3, id="SDS"),
        pytest.param({"baseline": "prompt", "source_prompt": "a photo"}, 6, id="DDS"),
    ],
)
def test_no_evaluation_is_spent_on_a_branch_of_weight_zero(
    settings: dict[str, Any], per_particle: int
) -> None:
    exact = editor()
    run(exact, EditConfig(num_steps=3, chunk_size=1000, **settings), sources(6))
    assert exact.evaluations == 3 * 6 * per_particle
    assert exact.calls == 3


def test_a_prompt_is_not_evaluated_for_particles_it_does_not_concern() -> None:
    exact = editor()
    run(exact, replace(PLAIN, num_steps=1), sources(4), {"left": [1, 1, 0.5, 0], "right": [0, 0, 0.5, 1]})
    assert exact.evaluations == (3 + 2) + 4  # target by prompt, baseline


def test_a_prompt_that_concerns_nobody_in_a_batch_is_not_evaluated() -> None:
    exact, config = editor(), replace(PLAIN, num_steps=2, batch_size=1)
    run(exact, config, sources(2), {"left": [1, 0], "right": [0, 1]})
    assert exact.evaluations == 2 * 2


def test_several_prompts_with_equal_meaning_are_one() -> None:
    source, config = sources(4), replace(PLAIN, num_steps=5)
    together = run(editor(), config, source, {"left": [1, 0.25, 0, 0.5], "right": [0, 0.75, 1, 0.5]})
    torch.testing.assert_close(together, run(editor(), config, source, "all"))


def test_without_an_instruction_nothing_changes() -> None:
    config = EditConfig(guidance_scale=0, num_steps=5, repulsion=0)
    source = sources(4)
    torch.testing.assert_close(run(editor(), config, source), source)


# Randomness and splitting.


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 64])
def test_the_split_does_not_matter(tiny_model: Path, chunk_size: int) -> None:
    model = load(tiny_model)
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    config = EditConfig(num_steps=2)
    whole = edit_images(model, images, "make it red", config)
    split = edit_images(model, images, "make it red", replace(config, chunk_size=chunk_size))
    torch.testing.assert_close(split, whole, rtol=0, atol=SPLIT_ERROR)


def test_noise_belongs_to_seed_step_and_particle() -> None:
    like = sources(3)
    noise = particle_noise(PLAIN, 2, [0, 1, 2], like)
    assert torch.equal(particle_noise(PLAIN, 2, [2, 0], like), noise[[2, 0]])
    assert not torch.equal(particle_noise(PLAIN, 3, [0], like), noise[:1])
    assert not torch.equal(particle_noise(replace(PLAIN, seed=1), 2, [0], like), noise[:1])
    assert noise.std() == pytest.approx(1, abs=0.1)


def test_shared_noise_is_one_draw() -> None:
    noise = particle_noise(replace(PLAIN, shared_noise=True), 2, [4, 7], sources(2))
    assert torch.equal(noise[0], noise[1])


@pytest.mark.parametrize(("particles", "batch", "sizes"), [(5, 5, [5]), (5, 2, [2, 2, 1]), (17, 16, [9, 8])])
def test_batches_are_drawn_without_replacement(particles: int, batch: int, sizes: list[int]) -> None:
    config = EditConfig(batch_size=batch)
    drawn = [particles_of_step(config, particles, step) for step in range(2 * len(sizes))]
    for epoch in (drawn[: len(sizes)], drawn[len(sizes) :]):
        assert [len(indices) for indices in epoch] == sizes
        assert sorted(chain(*epoch)) == list(range(particles))
    assert drawn == [particles_of_step(config, particles, step) for step in range(2 * len(sizes))]


def test_particles_outside_the_batch_stay() -> None:
    source, config = sources(5), replace(PLAIN, batch_size=2, num_steps=1)
    moved = (run(editor(), config, source) != source).flatten(1).any(dim=1)
    assert moved.nonzero().flatten().tolist() == sorted(particles_of_step(config, 5, 0))


@pytest.mark.parametrize("batch_size", [2, 16])
def test_a_resumed_edit_is_the_whole_edit(batch_size: int) -> None:
    source, config = sources(5), replace(PLAIN, num_steps=25, batch_size=batch_size)
    whole = run(editor(), config, source)
    half = run(editor(), replace(config, num_steps=11), source)
    assert torch.equal(run(editor(), config, source, canvas=half, start_step=11), whole)


def test_the_callback_sees_every_step() -> None:
    seen: list[tuple[int, Tensor]] = []
    source = sources(2)
    edited = run(
        editor(),
        replace(PLAIN, num_steps=4),
        source,
        callback=lambda step, canvas: seen.append((step, canvas.clone())),
    )
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert torch.equal(seen[-1][1], edited)
    assert len({canvas.sum().item() for _, canvas in seen}) == 4


def test_inputs_are_not_changed() -> None:
    source = sources(3)
    before = source.clone()
    run(editor(), replace(PLAIN, num_steps=2), source)
    assert torch.equal(source, before)


def test_the_learning_rate_decays_in_steps() -> None:
    config = EditConfig(learning_rate=2, lr_decay=0.9, lr_decay_every=20)
    rates = [config.learning_rate_at(step) for step in (0, 19, 20, 199)]
    assert rates == pytest.approx([2, 2, 2 * 0.9, 2 * 0.9**9])


def test_nothing_in_a_step_is_read_back_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device there are no values: whatever would make the host wait for the device raises."""
    exact = editor()
    exact.device, exact.modes, exact.schedule = (
        torch.device("meta"),
        exact.modes.to("meta"),
        exact.schedule.to("meta"),
    )
    conditioning = exact.conditioning
    monkeypatch.setattr(exact, "conditioning", lambda *given: conditioning(*given).to("meta"))
    monkeypatch.setattr(engine._FiniteGuard, "check", lambda *_: None)  # waits on purpose, every ten steps
    for baseline in ("image", "noise"):
        config = EditConfig(num_steps=2, batch_size=3, baseline=baseline)
        edited = run(exact, config, sources(5).to("meta"), {"a": [1] * 5, "b": [0, 0.5, 0, 0, 1]})
        assert edited.device.type == "meta"


# What goes wrong.


class BreaksAt(ExactEditor):
    """Predicts one NaN in the call number step (counted from 0)."""

    step = 13

    def predict_noise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        prediction = super().predict_noise(x_t, t, conditioning)
        if self.calls == self.step + 1:
            prediction[0, 0, 0, 0] = torch.nan
        return prediction


@pytest.mark.parametrize("check_every", [1, 10, 1000])
@pytest.mark.parametrize("mixing", [True, False])
def test_nan_stops_with_the_step_named_and_the_last_good_state(
    monkeypatch: pytest.MonkeyPatch, check_every: int, mixing: bool
) -> None:
    class Guard(engine._FiniteGuard):
        def __init__(self, num_steps: int, canvas: Tensor) -> None:
            super().__init__(num_steps, canvas)
            self.interval = check_every

    monkeypatch.setattr(engine, "_FiniteGuard", Guard)
    source, config = sources(3), replace(PLAIN, num_steps=20, mixing=mixing)
    with pytest.raises(NonFiniteError, match="step 13 ") as raised:
        run(BreaksAt(editor().modes), config, source)
    assert raised.value.step == 13
    assert torch.equal(raised.value.canvas, run(editor(), replace(config, num_steps=13), source))
    assert isinstance(raised.value, FloatingPointError)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"lr_decay_every": 0}, "lr_decay_every"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"guidance_scale": float("inf")}, "guidance_scale"),
        ({"t_range": (0.5, 0.2)}, "t_range"),
        ({"t_range": (0.2, 1.2)}, "t_range"),
        ({"bandwidth_factor": 0.0}, "bandwidth_factor"),
        ({"baseline": "text"}, "baseline"),
        ({"baseline": "prompt"}, "source_prompt"),
        ({"seed": -1}, "seed"),
        ({"noise_pool": -1}, "noise_pool"),
    ],
)
def test_settings_out_of_range_are_named_before_anything_is_computed(
    settings: dict[str, Any], name: str
) -> None:
    exact = editor()
    with pytest.raises(UserError, match=f"^{name}: expected .*, got ") as raised:
        run(exact, EditConfig(**settings), sources(2))
    assert "\n" not in str(raised.value)
    assert exact.calls == 0


@pytest.mark.parametrize("prompt", ["", "  ", {}, {"left": [1.0]}])
def test_a_missing_prompt_is_an_error(prompt: Any) -> None:
    with pytest.raises(UserError, match=r"prompt|weights"):
        run(editor(), PLAIN, sources(2), prompt)
    with pytest.raises(UserError, match=r"prompt|weights"):
        edit_images(editor(), torch.rand(2, 3, 8, 8), prompt, PLAIN)


# Images.


@pytest.mark.parametrize("size", [(32, 32), (30, 41), (33, 32)])
def test_images_of_any_size_come_back_in_their_size(tiny_epsilon: Path, size: tuple[int, int]) -> None:
    model = load(tiny_epsilon)
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    edited = edit_images(model, images, "make it red", EditConfig(num_steps=1))
    assert edited.shape == images.shape
    assert edited.dtype == torch.float32
    assert edited.min() >= 0
    assert edited.max() <= 1


def test_no_image_is_encoded_twice(tiny_epsilon: Path, encoded: list[int]) -> None:
    model = load(tiny_epsilon)
    images, config = torch.rand(3, 3, 32, 32), EditConfig(num_steps=1, chunk_size=2)
    edit_images(model, images, "make it red", config)
    assert encoded == [2, 1]
    edit_images(model, images, "make it red", config, init=images)
    assert sum(encoded) == 3 + 2 * 3


def test_the_edit_starts_from_init_and_is_conditioned_on_the_images() -> None:
    exact, source, init = editor(), sources(3), sources(3, seed=9)
    config = replace(PLAIN, num_steps=3)
    expected = run(exact, config, source, canvas=init)
    assert torch.equal(edit_images(exact, source, "edit", config, init=init), expected)
    with pytest.raises(UserError, match="init"):
        edit_images(exact, source, "edit", config, init=init[:2])


def test_progress_and_callback_go_together(capfd: pytest.CaptureFixture[str]) -> None:
    steps: list[int] = []
    config = replace(PLAIN, num_steps=3)
    edit_images(
        editor(), sources(2), "edit", config, callback=lambda step, _: steps.append(step), progress=True
    )
    assert steps == [0, 1, 2]
    assert "3/3" in capfd.readouterr().err


def test_a_stack_gathers_and_descends() -> None:
    canvas = sources(4)
    before, layout = canvas.clone(), Stack(4)
    assert torch.equal(layout.gather(canvas, [3, 1]), before[[3, 1]])
    layout.descend(canvas, torch.stack([before[3], 2 * before[1]]), [3, 1])
    assert torch.equal(canvas[[0, 2]], before[[0, 2]])
    assert canvas[3].abs().max() == 0
    assert torch.equal(canvas[1], -before[1])


def test_a_callback_that_says_true_ends_the_edit() -> None:
    source, steps = sources(2), []
    early = run(editor(), replace(PLAIN, num_steps=9), source, callback=lambda step, _: step == 1)
    same_start = run(
        editor(),
        replace(PLAIN, num_steps=9),
        source,
        callback=lambda step, canvas: steps.append(canvas.clone()),
    )
    assert torch.equal(early, steps[1])
    assert not torch.equal(early, same_start)
