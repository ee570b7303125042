import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from csd_core.canvas.detail import Detail, carried, fit_windows, local_affine

SIZE, SMALL = (48, 60), (24, 30)

each_carrying = pytest.mark.parametrize("detail", ["residual", "guided"])


def picture(size: tuple[int, int], seed: int = 0) -> Tensor:
    coarse = torch.rand(1, 3, 7, 9, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=size, mode="bicubic").clamp(0.02, 0.98)


def small(image: Tensor) -> Tensor:
    return F.interpolate(image, size=SMALL, mode="area")


@each_carrying
def test_what_the_autoencoder_loses_in_both_is_not_lost(detail: Detail) -> None:
    frame, lost = picture(SIZE), picture(SMALL, seed=1) * 0.1
    source = small(frame) - lost
    edited = source + 0.1
    torch.testing.assert_close(
        carried(frame, source, edited, detail), (frame + 0.1).clamp(0, 1), atol=2e-3, rtol=0
    )


def test_none_is_the_edit_enlarged() -> None:
    frame, edited = picture(SIZE), picture(SMALL, seed=2)
    expected = F.interpolate(edited, size=SIZE, mode="bilinear")
    torch.testing.assert_close(carried(frame, frame * 0, edited, "none"), expected)


def test_guided_dims_detail_with_its_surroundings() -> None:
    """A frame with stripes too fine for the edit, made three times darker: stripes are darker, too."""
    frame = picture(SIZE)
    stripes = frame + 0.04 * (-1.0) ** torch.arange(SIZE[1])
    source = small(frame)
    dark = stripes.clamp(0, 1) / 3
    guided, residual = (carried(stripes.clamp(0, 1), source, source / 3, d) for d in ("guided", "residual"))
    fine = (guided - dark).abs().mean(), (residual - dark).abs().mean()
    assert fine[0] < fine[1] / 3
    assert fine[0] < 0.01


def test_guided_follows_a_mixture_of_colours() -> None:
    """Grey from the luma of the source: a matrix, not a factor for each channel."""
    frame, weights = picture(SIZE), torch.tensor([0.3, 0.6, 0.1]).view(1, 3, 1, 1)

    def grey(image: Tensor) -> Tensor:
        return (image * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1)

    made = carried(frame, small(frame), grey(small(frame)), "guided")
    assert (made - grey(frame)).abs().mean() < 0.01


def test_what_an_edit_adds_is_there() -> None:
    """A black dot that nothing in the source hints at, of two pixels at the size of the edit."""
    frame = picture(SIZE).clamp(0.3, 0.9)
    edited = small(frame)
    edited[..., 10:12, 14:16] = 0
    for detail in ("residual", "guided"):
        made = carried(frame, small(frame), edited, detail)
        assert made[..., 21:23, 29:31].max() < 0.15
        assert 0 <= made.min() <= made.max() <= 1


def test_noise_is_not_carried() -> None:
    """What differs from frame to frame by less than the autoencoder errs would flicker."""
    frame, noise = picture(SIZE), 0.02 * torch.randn(1, 3, *SMALL, generator=torch.Generator().manual_seed(7))
    source = small(frame)
    edited = source * 0.5 + 0.2 + noise
    errors = {
        detail: (carried(frame, source, edited, detail) - (frame * 0.5 + 0.2)).std()
        for detail in ("residual", "guided")
    }
    assert errors["guided"] < errors["residual"] / 3


def test_the_fit_by_hand() -> None:
    """In the middle of an image as small as a window, it is ordinary least squares."""
    source, target = (torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(k)) for k in (1, 2))
    x = source.flatten(2)[0].T.double()
    y = target.flatten(2)[0].T.double()
    x0, y0 = x - x.mean(0), y - y.mean(0)
    expected = torch.linalg.solve(x0.T @ x0 / 81 + 1e-3 * torch.eye(3), x0.T @ y0 / 81).T
    slope, offset = fit_windows(source, target)
    torch.testing.assert_close(slope[0, :, :, 4, 4].double(), expected, atol=1e-4, rtol=0)
    by_hand = y.mean(0) - expected @ x.mean(0)
    torch.testing.assert_close(offset[0, :, 4, 4].double(), by_hand, atol=1e-4, rtol=0)
    for mean, fits in zip(local_affine(source, target), (slope, offset), strict=True):
        torch.testing.assert_close(mean[..., 4, 4], fits.mean(dim=(-2, -1)))
