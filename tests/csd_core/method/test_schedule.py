from typing import Any

import pytest
import torch

from csd_core.method.schedule import (
    RectifiedFlow,
    VariancePreserving,
    stable_diffusion_schedule,
    step_generator,
)

# alphas_cumprod of squares: alpha = 0.8, 0.6, 0 and sigma = 0.6, 0.8, 1
SCHEDULE = VariancePreserving(torch.tensor([0.64, 0.36, 0.0]))


def test_alpha_sigma_and_weight_by_hand() -> None:
    t = torch.tensor([0, 1, 2])
    torch.testing.assert_close(SCHEDULE.alpha(t), torch.tensor([0.8, 0.6, 0.0]))
    torch.testing.assert_close(SCHEDULE.sigma(t), torch.tensor([0.6, 0.8, 1.0]))
    torch.testing.assert_close(SCHEDULE.weight(t), torch.tensor([0.36, 0.64, 1.0]))
    assert SCHEDULE.alpha(t[0]).shape == ()


@pytest.mark.parametrize("t", [torch.tensor([0, 1]), torch.tensor(1)])
def test_add_noise_has_a_timestep_per_item(t: torch.Tensor) -> None:
    x0, noise = torch.full((2, 3, 1, 1), 10.0), torch.full((2, 3, 1, 1), 100.0)
    expected = torch.tensor([0.8 * 10 + 0.6 * 100 if t.ndim else 0.6 * 10 + 0.8 * 100, 0.6 * 10 + 0.8 * 100])
    torch.testing.assert_close(SCHEDULE.add_noise(x0, noise, t), expected.view(2, 1, 1, 1).expand(2, 3, 1, 1))


def test_noise_comes_back_from_velocity() -> None:
    x0, noise = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 1, 2])
    x_t = SCHEDULE.add_noise(x0, noise, t)
    alpha, sigma = SCHEDULE.alpha(t).view(3, 1, 1, 1), SCHEDULE.sigma(t).view(3, 1, 1, 1)
    torch.testing.assert_close(SCHEDULE.noise_from_velocity(alpha * noise - sigma * x0, x_t, t), noise)


def test_agrees_with_diffusers() -> None:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    theirs: Any = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    ours = VariancePreserving(theirs.alphas_cumprod)
    x0, noise = torch.randn(2, 5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 1, 200, 500, 999])
    torch.testing.assert_close(ours.add_noise(x0, noise, t), theirs.add_noise(x0, noise, t))
    velocity = theirs.get_velocity(x0, noise, t)
    torch.testing.assert_close(ours.noise_from_velocity(velocity, ours.add_noise(x0, noise, t), t), noise)


@pytest.mark.parametrize(
    "values",
    [torch.ones(2, 2), torch.ones(0), torch.tensor([0.5, 1.1]), torch.tensor([-0.1]), torch.tensor(0.5)],
)
def test_refuses_what_is_no_schedule(values: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="alphas_cumprod"):
        VariancePreserving(values)


def test_timesteps_cover_the_range_evenly() -> None:
    schedule = VariancePreserving(torch.linspace(1, 0, 10))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([schedule.sample_timestep((0.2, 0.5), generator) for _ in range(3000)])
    counts = drawn.long().bincount(minlength=10)
    assert drawn.min() == 2
    assert drawn.max() == 4
    assert (counts[2:5] - 1000).abs().max() < 120


@pytest.mark.parametrize(("t_range", "expected"), [((0.31, 0.32), 3), ((0.0, 0.01), 0), ((0.99, 1.0), 9)])
def test_a_narrow_range_still_gives_a_timestep(t_range: tuple[float, float], expected: int) -> None:
    schedule = VariancePreserving(torch.linspace(1, 0, 10))
    assert schedule.sample_timestep(t_range, torch.Generator().manual_seed(0)) == expected


def test_generators_depend_on_their_key_alone() -> None:
    def draw(*key: int) -> float:
        return torch.rand((), generator=step_generator(7, *key), dtype=torch.float64).item()

    keys = [(), (0,), (0, 0), (0, 0, 0), (1, 0), (0, 1), (1, 0, 0), (2**40, 0)]
    values = [draw(*key) for key in keys]
    assert len(set(values)) == len(keys)
    assert values == [draw(*key) for key in keys]
    assert torch.rand((), generator=step_generator(8, 0), dtype=torch.float64).item() != draw(0)


def test_seeding_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    torch.rand(3, generator=step_generator(0, 1))
    assert torch.equal(torch.get_rng_state(), before)


# Rectified flow


def test_flow_by_hand() -> None:
    flow, t = RectifiedFlow(), torch.tensor([0.0, 0.25, 1.0])
    torch.testing.assert_close(flow.alpha(t), torch.tensor([1.0, 0.75, 0.0]))
    torch.testing.assert_close(flow.sigma(t), t)
    torch.testing.assert_close(flow.weight(t), torch.tensor([0.0, 0.0625 / (0.5625 + 0.0625), 1.0]))
    x0, noise = torch.tensor([[10.0]]), torch.tensor([[100.0]])
    torch.testing.assert_close(flow.add_noise(x0, noise, t[1]), torch.tensor([[0.75 * 10 + 0.25 * 100]]))
    x_t = flow.add_noise(x0, noise, t[1])
    torch.testing.assert_close(flow.noise_from_velocity(noise - x0, x_t, t[1]), noise)
    torch.testing.assert_close(flow.normalize(x_t, t[1]), x_t / 0.625**0.5)


def test_a_share_of_the_schedule_is_the_same_noise_in_both_kinds() -> None:
    table, flow = stable_diffusion_schedule(), RectifiedFlow()
    # the range of the paper's code and ours, in sigma
    assert [round(flow.timestep(share), 3) for share in (0.2, 0.5)] == [0.364, 0.618]
    for share in (0.0, 0.02, 0.3, 0.98, 1.0):
        t, s = torch.tensor(table.timestep(share)), torch.tensor(flow.timestep(share))
        torch.testing.assert_close(flow.sigma(s) / flow.alpha(s), table.sigma(t) / table.alpha(t))
        torch.testing.assert_close(flow.weight(s), table.weight(t))


def test_both_kinds_sample_the_same_noise() -> None:
    table, flow = stable_diffusion_schedule(), RectifiedFlow()
    for seed in range(5):
        t = table.sample_timestep((0.2, 0.5), step_generator(seed))
        s = flow.sample_timestep((0.2, 0.5), step_generator(seed))
        assert s == pytest.approx(flow.timestep(t / 1000))
        assert 0.36 < s < 0.62
