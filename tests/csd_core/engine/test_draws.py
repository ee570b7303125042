from itertools import chain

import pytest
import torch

from csd_core.engine.config import EditConfig
from csd_core.engine.draws import SHARED_IN_POOL, Draws, particle_noise, particles_of_step
from tests.exact_editor import stable_diffusion_schedule

LIKE = torch.zeros(3, 4, 2, 2)
SCHEDULE = stable_diffusion_schedule()


def draws(num_particles: int = 7, **settings: object) -> Draws:
    return Draws(EditConfig(**{"batch_size": 3, "num_steps": 31, **settings}), num_particles)  # type: ignore[arg-type]


def test_without_a_pool_every_step_has_a_pair_of_its_own() -> None:
    fresh = draws()
    assert [fresh.pair(step) for step in range(31)] == list(range(31))
    assert not any(fresh.comes_back(step) for step in range(31))
    assert len({fresh.timestep(SCHEDULE, step) for step in range(31)}) > 20


def test_a_pool_is_gone_through_in_a_new_order_each_time() -> None:
    pool = draws(noise_pool=4)
    rounds = [pool.pair(step) for step in range(0, 31, 3)]
    assert pool.steps_per_round == 3
    assert all(pool.pair(step) == rounds[step // 3] for step in range(31))
    assert sorted(rounds[:4]) == sorted(rounds[4:8]) == [0, 1, 2, 3]
    orders = {tuple(draws(noise_pool=4, seed=seed).pair(3 * k) for k in range(4)) for seed in range(9)}
    assert len(orders) > 4


def test_timesteps_of_a_pool_lie_one_in_each_part_of_the_range() -> None:
    pool = draws(noise_pool=5, t_range=(0.2, 0.7))
    for step in range(31):
        low = 200 + 100 * pool.pair(step)
        assert low <= pool.timestep(SCHEDULE, step) < low + 100
    drawn = {draws(noise_pool=5, seed=seed).timestep(SCHEDULE, 0) for seed in range(20)}
    assert len(drawn) > 10


def test_the_same_pair_is_the_same_timestep_and_noise() -> None:
    pool = draws(noise_pool=4)
    first = {}
    for step in range(31):
        seen = pool.timestep(SCHEDULE, step), pool.noise(step, [5, 0, 2], LIKE)
        before = first.setdefault(pool.pair(step), seen)
        assert seen[0] == before[0]
        assert torch.equal(seen[1], before[1])
    one, other = (first[pair][1] for pair in (0, 1))
    assert not torch.equal(one, other)
    assert torch.equal(one, particle_noise(EditConfig(), 0, [5, 0, 2], LIKE, SHARED_IN_POOL))


def test_a_pair_comes_back_until_its_last_round() -> None:
    pool = draws(noise_pool=4)  # 11 rounds
    for step in range(31):
        later = {pool.pair(s) for s in range(3 * (step // 3 + 1), 31)}
        assert pool.comes_back(step) == (pool.pair(step) in later)


@pytest.mark.parametrize("step", [0, 1, 4, 13, 22, 30])
def test_first_steps_are_those_that_met_the_particles_first(step: int) -> None:
    pool = draws(noise_pool=4)
    particles = pool.particles(step)
    met: dict[int, int] = {}
    for earlier in range(31):
        if pool.pair(earlier) == pool.pair(step):
            for particle in pool.particles(earlier):
                met.setdefault(particle, earlier)
    assert pool.first_steps(step, particles) == sorted({met[particle] for particle in particles})
    assert pool.first_steps(step, []) == []


@pytest.mark.parametrize("noise_pool", [6, 11, 1000])  # of 11 rounds
def test_a_pool_that_is_not_gone_through_twice_is_none(noise_pool: int) -> None:
    unused, fresh = draws(noise_pool=noise_pool), draws()
    assert unused.pool == 0
    for step in range(31):
        assert unused.pair(step) == step
        assert unused.timestep(SCHEDULE, step) == fresh.timestep(SCHEDULE, step)
    assert draws(noise_pool=5).pool == 5


def test_particles_are_those_of_the_step() -> None:
    pool = draws(noise_pool=4)
    assert sorted(chain(*(pool.particles(step) for step in range(3)))) == list(range(7))
    config = EditConfig(batch_size=3, num_steps=31)
    assert pool.particles(8) == particles_of_step(config, 7, 8)


@pytest.mark.parametrize("shared", [0.0, 0.25, 0.6])
def test_particles_have_a_share_of_the_variance_in_common(shared: float) -> None:
    like = torch.zeros(2, 4, 64, 64)
    noise = particle_noise(EditConfig(), 3, [5, 8], like, shared)
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert torch.corrcoef(noise.flatten(1))[0, 1] == pytest.approx(shared, abs=0.03)
    alone = particle_noise(EditConfig(), 3, [8], like, shared)
    assert torch.equal(alone[0], noise[1])


def test_a_pool_of_shared_noise_is_one_draw_for_all() -> None:
    noise = draws(noise_pool=4, shared_noise=True).noise(0, [5, 0], LIKE)
    assert torch.equal(noise[0], noise[1])
