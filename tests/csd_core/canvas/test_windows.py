import math
from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor

from csd_core.canvas.windows import Windows, axis_starts, expected_updates, ring_starts, split_sizes
from csd_core.engine.config import EditConfig
from csd_core.engine.draws import particles_of_step
from csd_core.errors import UserError


def test_starts_by_hand() -> None:
    assert axis_starts(64, 32, 16) == [0, 16, 32]
    assert axis_starts(70, 32, 16) == [0, 16, 32, 38]
    assert axis_starts(32, 32, 16) == [0]
    assert axis_starts(33, 32, 32) == [0, 1]
    assert ring_starts(64, 32, 16) == [0, 16, 32, 48]
    assert ring_starts(64, 32, 16, origin=60) == [60, 12, 28, 44]
    assert ring_starts(33, 32, 16) == [0, 11, 22]


@pytest.mark.parametrize("stride", [1, 3, 7, 8])
def test_every_pixel_is_covered_for_any_stride(stride: int) -> None:
    for length in (8, 9, 20):
        assert coverage(Windows(length, length + 5, 8, stride, batch_size=4)).min() >= 1


@pytest.mark.parametrize(("width", "stride", "origin"), [(32, 8, 0), (33, 8, 5), (19, 6, 18), (8, 8, 3)])
def test_on_a_ring_no_place_is_special(width: int, stride: int, origin: int) -> None:
    starts = ring_starts(width, 8, stride, origin)
    steps = [(b - a) % width for a, b in pairwise([*starts, starts[0]])]
    assert sum(steps) == width or len(starts) == 1
    assert all(step <= stride for step in steps)
    assert max(steps) - min(steps) <= 1
    assert coverage(Windows(8, width, 8, stride, batch_size=2, wrap=True, origin=origin)).min() >= 1


@pytest.mark.parametrize("wrap", [False, True])
def test_a_stride_that_leaves_gaps_is_refused(wrap: bool) -> None:
    for stride in (0, 9):
        with pytest.raises(UserError, match="stride: expected 1 to 8"):
            Windows(16, 16, 8, stride, batch_size=4, wrap=wrap)
    with pytest.raises(UserError, match="canvas: expected sides of at least 8"):
        Windows(16, 7, 8, 4, batch_size=4)


def coverage(windows: Windows) -> Tensor:
    total = torch.zeros(windows.height, windows.width)
    for top, left in windows.corners:
        columns = [(left + x) % windows.width for x in range(windows.window)]
        total[top : top + windows.window, columns] += 1
    return total


def test_particles_are_cut_from_the_canvas_and_put_back() -> None:
    canvas = torch.randn(1, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    windows = Windows(12, 20, 8, 6, batch_size=4)
    assert windows.corners == [(0, 0), (0, 6), (0, 12), (4, 0), (4, 6), (4, 12)]
    particles = windows.gather(canvas, [4, 1])
    assert torch.equal(particles[0], canvas[0, :, 4:12, 6:14])
    assert torch.equal(particles[1], canvas[0, :, 0:8, 6:14])


def test_a_step_is_the_mean_over_the_windows_that_cover_a_pixel() -> None:
    generator = torch.Generator().manual_seed(0)
    windows = Windows(12, 20, 8, 6, batch_size=3, reweight_borders=False)
    canvas = torch.randn(1, 2, 12, 20, generator=generator)
    steps, before = torch.randn(3, 2, 8, 8, generator=generator), canvas.clone()
    windows.descend(canvas, steps, [0, 4, 1])
    for row in range(12):
        for column in range(20):
            places = [(row - windows.corners[p][0], column - windows.corners[p][1]) for p in (0, 4, 1)]
            covering = [steps[k][:, y, x] for k, (y, x) in enumerate(places) if 0 <= y < 8 and 0 <= x < 8]
            mean = torch.stack(covering).mean(0) if covering else torch.zeros(2)
            torch.testing.assert_close(canvas[0, :, row, column], before[0, :, row, column] - mean)


def test_windows_reach_around_a_ring() -> None:
    canvas = torch.arange(8 * 20.0).view(1, 1, 8, 20)
    windows = Windows(8, 20, 8, 5, batch_size=1, wrap=True, origin=17, reweight_borders=False)
    assert windows.corners == [(0, 17), (0, 2), (0, 7), (0, 12)]
    rolled = canvas.roll(3, dims=-1)
    assert torch.equal(windows.gather(canvas, [0])[0], rolled[0, :, :, :8])
    windows.descend(canvas, windows.gather(canvas, [0]), [0])
    assert canvas.roll(3, dims=-1)[..., :8].abs().max() == 0
    assert torch.equal(canvas.roll(3, dims=-1)[..., 8:], rolled[..., 8:])


def by_enumeration(covering: int, particles: int, batch_size: int) -> float:
    """Expected number of batches that hold one of `covering` particles, over all batches of this size."""
    total = 0.0
    for size in split_sizes(particles, batch_size):
        batches = list(combinations(range(particles), size))
        total += sum(min(batch) < covering for batch in batches) / len(batches)
    return total


@pytest.mark.parametrize(("particles", "batch_size"), [(5, 2), (7, 3), (6, 6), (4, 9), (3, 1)])
def test_expected_updates_are_the_mean_over_all_batches(particles: int, batch_size: int) -> None:
    config = EditConfig(batch_size=batch_size)
    sizes = split_sizes(particles, batch_size)
    assert sorted(sizes) == sorted(len(particles_of_step(config, particles, k)) for k in range(len(sizes)))
    for covering in range(1, particles + 1):
        expected = expected_updates(torch.tensor([0, covering]), particles, batch_size)
        assert expected.tolist() == pytest.approx([0, by_enumeration(covering, particles, batch_size)])


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("fade", [0, 2])
def test_every_pixel_has_the_same_expected_total_step(wrap: bool, fade: int) -> None:
    windows = Windows(18, 26, 8, 3, batch_size=4, wrap=wrap, fade=fade)
    config, rounds = EditConfig(batch_size=4), 150
    moved = torch.zeros(1, 1, 18, 26)
    for step in range(rounds * windows.steps_per_round):
        particles = particles_of_step(config, windows.num_particles, step)
        windows.descend(moved, -torch.ones(len(particles), 1, 8, 8), particles)
    moved /= rounds
    expected = torch.full_like(moved, windows.updates_per_round)
    torch.testing.assert_close(moved, expected, rtol=0.1, atol=0)


@pytest.mark.parametrize(
    ("wrap", "window", "expected"),
    [
        (False, 0, [1] * 6 + [0.75, 0.25] + [0] * 8),
        (False, 1, [0] * 4 + [0.25, 0.75, 1, 1, 1, 1, 0.75, 0.25] + [0] * 4),
        (True, 0, [0.25, 0.75, 1, 1, 1, 1, 0.75, 0.25] + [0] * 8),
    ],
)
def test_a_step_fades_out_towards_edges_that_are_inside(
    wrap: bool, window: int, expected: list[float]
) -> None:
    windows = Windows(8, 16, 8, 4, batch_size=1, wrap=wrap, reweight_borders=False, fade=2)
    canvas = torch.zeros(1, 1, 8, 16)
    windows.descend(canvas, -torch.ones(1, 1, 8, 8), [window])
    assert canvas[0, 0, 3].tolist() == expected
    assert canvas[0, 0, :, 6].std() == 0  # the upper and the lower edge are those of the canvas


def test_a_mask_keeps_pixels_and_drops_windows() -> None:
    moves, needed = torch.zeros(16, 32), torch.zeros(16, 32)
    moves[2:6, 2:7], needed[3:5, 3:6] = 1, 1
    moves[4, 4] = 0.5
    windows = Windows(16, 32, 8, 8, batch_size=4, moves=moves, needed=needed)
    assert windows.corners == [(0, 0)]
    canvas = torch.zeros(1, 2, 16, 32)
    windows.descend(canvas, -torch.ones(1, 2, 8, 8), [0])
    assert torch.equal(canvas[0, 0], moves)
    with pytest.raises(UserError, match="mask"):
        Windows(16, 32, 8, 8, batch_size=4, needed=torch.zeros(16, 32))


def test_a_step_does_not_look_at_the_whole_canvas() -> None:
    windows = Windows(16, 32, 8, 8, batch_size=4)
    canvas = torch.zeros(1, 1, 16, 32)
    canvas[..., 20:] = math.nan
    windows.descend(canvas, torch.ones(1, 1, 8, 8), [0])
    assert canvas[..., :8, :8].isfinite().all()
    assert windows._count.abs().max() == 0
