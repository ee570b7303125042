"""Flow, warps and flicker of synthetic motion, against what was put in and against scipy."""

import weakref
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from scipy import ndimage

from csd_core.errors import UserError
from csd_core.evaluation.metrics.flow import optical_flow, visible, warp, warp_errors

HEIGHT, WIDTH = 72, 96
MOVE_X, MOVE_Y = 5, -3


def texture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A smooth random picture (3, height, width) in [0.1, 0.9]."""
    noise = np.random.default_rng(seed).random((3, height, width))
    smooth = ndimage.gaussian_filter(noise, (0, 2, 2))
    low, high = smooth.min(), smooth.max()
    return torch.from_numpy(0.1 + 0.8 * (smooth - low) / (high - low)).float()


def panned(frames: int) -> list[torch.Tensor]:
    """A picture that moves by MOVE_X to the right and MOVE_Y down from frame to frame."""
    wide = texture(HEIGHT + 40, WIDTH + 40)
    corners = [(20 - k * MOVE_Y, 20 - k * MOVE_X) for k in range(frames)]
    return [wide[:, top : top + HEIGHT, left : left + WIDTH] for top, left in corners]


def warp_error(frames: Iterable[torch.Tensor], sources: Iterable[torch.Tensor]) -> float:
    """The mean over pairs."""
    return float(np.mean([error for error, _ in warp_errors(frames, sources)]))


def constant(x: float, y: float) -> torch.Tensor:
    return torch.tensor([float(x), float(y)])[:, None, None].expand(2, HEIGHT, WIDTH).contiguous()


def test_the_flow_of_a_translation_is_the_translation():
    one, two = panned(2)
    flow = optical_flow(one, two)
    inner = flow[:, 12:-12, 12:-12] - constant(MOVE_X, MOVE_Y)[:, 12:-12, 12:-12]
    assert inner.abs().max() < 0.2
    assert inner.abs().mean() < 0.05


def test_frames_too_small_for_a_flow_are_refused():
    for size in ((11, 11), (7, 60), (60, 7)):
        with pytest.raises(UserError, match=r"^frames: .* 8 and 12 pixels"):
            optical_flow(texture(*size), texture(*size))
    for size in ((12, 8), (8, 12), (8, 200)):
        assert optical_flow(texture(*size), texture(*size)).shape == (2, *size)


def test_a_warp_fetches_what_scipy_interpolates():
    image = texture(HEIGHT, WIDTH)
    flow = torch.randn(2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) * 6
    rows, columns = np.indices((HEIGHT, WIDTH))
    where = [rows + flow[1].numpy(), columns + flow[0].numpy()]
    expected = np.stack([ndimage.map_coordinates(x, where, order=1, mode="nearest") for x in image.numpy()])
    assert np.allclose(warp(image, flow), expected, atol=1e-4)


@pytest.mark.parametrize(("gap", "is_seen"), [(0.8, True), (0.9, False)])
def test_there_and_back_must_end_near_the_start(gap: float, is_seen: bool):
    """Of a flow of 4 pixels: 0.01 (4^2 + (4 - gap)^2) + 0.5, 0.76 for both, against 0.64 and 0.81."""
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    expected[:, : WIDTH - 4] = is_seen  # what leaves the picture is hidden
    assert torch.equal(visible(constant(4, 0), constant(gap - 4, 0)), expected)
    seen = visible(constant(0, -3), constant(0, 3))
    assert seen.all(dim=1).tolist() == [False] * 3 + [True] * (HEIGHT - 3)


def test_what_a_moving_square_covers_is_hidden():
    ground, square = texture(128, 192) * 0.5, texture(56, 56, seed=1) * 0.5 + 0.45
    one, two = ground.clone(), ground.clone()
    one[:, 36:92, 40:96], two[:, 36:92, 52:108] = square, square
    seen = visible(optical_flow(one, two), optical_flow(two, one))
    assert not seen[44:84, 97:107].any()
    assert seen[44:84, 48:88].all()
    assert seen[:20].float().mean() > 0.95


def test_a_clip_that_moves_as_its_source_has_no_error():
    clip = panned(4)
    assert warp_error(clip, clip) < 2e-4
    still = [clip[0]] * 4
    assert warp_error(still, clip) > 100 * warp_error(clip, clip)  # what does not move along is an error


def test_flicker_of_a_moving_clip_is_measured_along_the_motion():
    clip = panned(4)
    flickering = [x + (-1) ** k * 0.1 for k, x in enumerate(clip)]
    assert warp_error(flickering, clip) == pytest.approx(0.2**2, rel=0.02)


def test_each_pair_has_its_error_and_that_of_its_sources():
    still = [texture(HEIGHT, WIDTH)] * 3
    frames = [still[0], still[1] + 0.1, still[2] + 0.1]
    (one, source), (other, _) = warp_errors(frames, still)
    assert (one, other, source) == pytest.approx((0.1**2, 0, 0), abs=1e-5)
    assert [pair[1] for pair in warp_errors(still, frames)] == pytest.approx([0.1**2, 0], abs=1e-4)
    red = [still[0], still[1] + torch.tensor([0.2, 0, 0])[:, None, None]]
    assert warp_error(red, still[:2]) == pytest.approx(0.2**2 / 3, abs=1e-5)
    assert warp_errors(still[:1], still[:1]) == []


def test_few_frames_are_in_memory_at_a_time():
    alive, most = set(), 0

    def stream() -> Iterator[torch.Tensor]:
        nonlocal most
        for k in range(9):
            image = texture(HEIGHT, WIDTH, seed=k)
            alive.add(k)
            image_gone = weakref.finalize(image, alive.discard, k)
            assert image_gone.alive
            most = max(most, len(alive))
            yield image
            del image

    assert warp_error(stream(), (texture(HEIGHT, WIDTH) for _ in range(9))) > 0
    assert most <= 4  # a pair, the one before it and the next
