import pytest
import torch

from csd_core.method.guidance import (
    classifier_free,
    instruct_pix2pix,
    instruct_pix2pix_weights,
)

EPS_U, EPS_I, EPS_IT = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()


def test_instruct_pix2pix_by_hand() -> None:
    one, three, seven = (torch.tensor(float(value)) for value in (1, 3, 7))
    assert instruct_pix2pix(one, three, seven, 10.0, 2.0).item() == 1 + 2 * (3 - 1) + 10 * (7 - 3)
    assert classifier_free(one, three, 10.0).item() == 1 + 10 * (3 - 1)


@pytest.mark.parametrize(("guidance", "image_guidance"), [(7.5, 1.5), (1.0, 1.0), (0.0, 1.3), (3.0, 3.0)])
def test_weights_are_the_formula(guidance: float, image_guidance: float) -> None:
    weights = instruct_pix2pix_weights(guidance, image_guidance)
    weighed = weights.unconditional * EPS_U + weights.image * EPS_I + weights.image_text * EPS_IT
    torch.testing.assert_close(weighed, instruct_pix2pix(EPS_U, EPS_I, EPS_IT, guidance, image_guidance))
    assert sum(weights) == pytest.approx(1)


def test_the_image_baseline_is_classifier_free_guidance_by_the_image() -> None:
    weights = instruct_pix2pix_weights(0.0, 1.5)
    weighed = weights.unconditional * EPS_U + weights.image * EPS_I
    torch.testing.assert_close(weighed, classifier_free(EPS_U, EPS_I, 1.5))
    assert weights.image_text == 0


def test_weights_that_cancel_are_exactly_zero() -> None:
    assert instruct_pix2pix_weights(7.5, 1.0).unconditional == 0
    assert instruct_pix2pix_weights(1.5, 1.5).image == 0
    assert instruct_pix2pix_weights(0.0, 1.5).image_text == 0
