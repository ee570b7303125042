"""Pixels are sampled inside masks, evenly, whatever the masks are."""

import pytest
import torch
from nerfstudio.data.pixel_samplers import PixelSampler, PixelSamplerConfig

from csd_nerf.nerfstudio_compat.pixel_sampler import MaskedPixelSampler

RAYS = 4096


def sampler(kind: type[PixelSampler] = MaskedPixelSampler) -> PixelSampler:
    return kind(PixelSamplerConfig(num_rays_per_batch=RAYS))


def masks(count: int = 3) -> torch.Tensor:
    found = torch.zeros(count, 6, 8, 1, dtype=torch.bool)
    found[:, 1:4, 2:5] = True
    return found


def test_samples_are_nerfstudios_where_it_samples() -> None:
    batch = {"image": torch.rand(3, 6, 8, 3), "mask": masks(), "image_idx": torch.tensor([2, 0, 1])}
    found = []
    for kind in (MaskedPixelSampler, PixelSampler):
        torch.manual_seed(0)
        found.append(sampler(kind).sample(batch)["indices"])
    assert torch.equal(*found)


@pytest.mark.parametrize("white", ["some", "one pixel"])
def test_samples_lie_inside_the_mask_and_are_even(white: str) -> None:
    mask = masks() if white == "some" else torch.zeros(3, 60, 80, 1, dtype=torch.bool)
    mask[1, 5, 7] = True  # 4096 samples of one pixel: nerfstudio raises
    torch.manual_seed(0)
    image, row, column = sampler().sample_method(RAYS, *mask.shape[:3], mask=mask).T
    assert mask[image, row, column].all()
    counts = torch.zeros(mask.shape[:3]).index_put((image, row, column), torch.ones(RAYS), accumulate=True)
    inside = counts[mask[..., 0]]
    expected = RAYS / len(inside)
    assert (inside - expected).abs().max() < 5 * expected**0.5 + 1


def test_photos_of_several_sizes_have_masks_of_their_own() -> None:
    wide = torch.zeros(4, 9, 1, dtype=torch.bool)
    wide[0] = True
    batch = {
        "image": [torch.rand(6, 8, 3), torch.rand(4, 9, 3)],
        "mask": [masks(1)[0], wide],
        "image_idx": torch.tensor([1, 0]),
    }
    image, row, column = sampler().sample(batch)["indices"].T
    assert set(image.tolist()) == {0, 1}
    assert batch["mask"][0][row[image == 1], column[image == 1]].all()
    assert (row[image == 0] == 0).all()
