from pathlib import Path

import pytest
import torch
from torch import Tensor

from csd_core.denoisers.base import Conditioning, PromptWeights
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine.config import EditConfig
from csd_core.engine.plan import count_evaluations
from csd_core.engine.predict import Predictor, edit_branches
from tests.models import load

CONFIG = EditConfig(num_steps=1, batch_size=3, noise_pool=0, guidance_scale=4.0, image_guidance_scale=1.5)
LEFT = (torch.arange(8) < 3).float().expand(8, 8)


@pytest.fixture(scope="module")
def denoiser(tiny_epsilon: Path) -> InstructPix2Pix:
    return load(tiny_epsilon)


def predicted(denoiser: InstructPix2Pix, prompts: PromptWeights, config: EditConfig = CONFIG) -> Tensor:
    """Predictions for the target of three particles, (3, 4, 8, 8)."""
    x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    branches = edit_branches(denoiser, config, prompts, 3)
    predictor = Predictor(denoiser, branches, config, 3)
    condition = Conditioning(3, image=0.5 * x)
    return predictor.predict({"target": x}, condition, torch.tensor(300.0), [0, 1, 2])["target"]


@pytest.mark.parametrize("guidance", [1.5, 4.0])  # at 1.5 the branch with the image alone cancels
def test_shares_of_pixels_are_what_whole_prompts_say_there(
    denoiser: InstructPix2Pix, guidance: float
) -> None:
    config = EditConfig(guidance_scale=guidance, image_guidance_scale=1.5)
    one, other = (predicted(denoiser, {name: [1.0] * 3}, config) for name in ("red", "blue"))
    mixed = predicted(denoiser, {"red": [LEFT, 1.0, 0.25], "blue": [1 - LEFT, 0.0, 0.75]}, config)
    torch.testing.assert_close(mixed[0], torch.where(LEFT > 0, one[0], other[0]))
    torch.testing.assert_close(mixed[1], one[1])
    torch.testing.assert_close(mixed[2], 0.25 * one[2] + 0.75 * other[2])


def test_a_guidance_of_its_own_holds_in_its_pixels(denoiser: InstructPix2Pix) -> None:
    plain = predicted(denoiser, {"red": [1.0] * 3})
    strong = predicted(denoiser, {"red": [1.0] * 3}, EditConfig(guidance_scale=8.0, image_guidance_scale=1.5))
    mixed = predicted(denoiser, {"red": [1 + LEFT] * 3})
    torch.testing.assert_close(mixed, torch.where(LEFT > 0, strong, plain))


def test_a_prompt_is_evaluated_where_a_pixel_asks_for_it(denoiser: InstructPix2Pix) -> None:
    corner = torch.zeros(8, 8)
    corner[0, 0] = 1e-3
    prompts = {"red": [1.0, 1 - corner, 1.0], "blue": [0.0, corner, torch.zeros(8, 8)]}
    assert count_evaluations(denoiser, CONFIG, prompts, 3) == 3 * 5 + 1


def test_shares_that_add_up_except_for_rounding_bring_no_branch_back(denoiser: InstructPix2Pix) -> None:
    config = EditConfig(guidance_scale=1.5, image_guidance_scale=1.5)
    shares = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    rest = 1 - shares + 1e-7
    target = edit_branches(denoiser, config, {"a": [shares], "b": [rest]}, 1)["target"]
    assert [branch.text for branch in target] == ["", "a", "b"]
    assert not target[0].image  # the branch with the image and no text has no weight
