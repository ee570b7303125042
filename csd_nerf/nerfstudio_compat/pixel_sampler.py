"""nerfstudio's pixel sampler with masks of any share of white, and of photos of several sizes."""

from typing import Any

import torch
from nerfstudio.data.pixel_samplers import PixelSampler
from torch import Tensor


class MaskedPixelSampler(PixelSampler):
    """Samples pixels inside masks.

    nerfstudio's drops the first axis of the masks of a single image, which is every image where sizes differ,
    and raises where a mask holds fewer pixels than are sampled.
    """

    def rejection_sample_mask(
        self,
        mask: Tensor,
        num_samples: int,
        num_images: int,
        image_height: int,
        image_width: int,
        device: Any,
    ) -> Tensor:
        """Image, row and column of each sample (num_samples, 3), uniformly from the mask (N, H, W, 1)."""
        sides = torch.tensor([num_images, image_height, image_width], device=device)
        indices = (torch.rand((num_samples, 3), device=device) * sides).long()
        for _ in range(self.config.max_num_iterations):
            missed = ~mask[..., 0][tuple(indices.to(mask.device).T)].to(device)
            if not missed.any():
                return indices
            indices[missed] = (torch.rand((int(missed.sum()), 3), device=device) * sides).long()
        inside = torch.nonzero(mask[..., 0]).to(device)
        return inside[torch.randint(len(inside), (num_samples,), device=device)]
