"""Edits are deterministic functions of the neighbourhood, and the language is understood."""

import pytest
import torch

from csd_core.mini_editor.edits import INSTRUCTIONS, affected_mask, apply_edit, find_instruction

CASES = [(name, outcome) for name, i in INSTRUCTIONS.items() for outcome in i.outcomes]


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """Red, orange, blue and grey quarters with some texture; (3, 32, 40)."""
    quarters = torch.tensor([[0.8, 0.1, 0.15], [0.9, 0.55, 0.15], [0.15, 0.3, 0.85], [0.5, 0.5, 0.5]])
    rows = torch.cat(
        [quarters[:2].repeat_interleave(20, 0)[None], quarters[2:].repeat_interleave(20, 0)[None]]
    )
    texture = 0.05 * torch.randn(32, 40, 1, generator=torch.Generator().manual_seed(0))
    return (rows.repeat_interleave(16, 0) + texture).clamp(0, 1).permute(2, 0, 1)


@pytest.mark.parametrize(("name", "outcome"), CASES)
def test_an_edit_keeps_shape_and_range_and_changes_the_image(name, outcome, image):
    edited = apply_edit(name, image, outcome)
    assert edited.shape == image.shape
    assert edited.dtype == torch.float32
    assert edited.min() >= 0
    assert edited.max() <= 1
    assert (edited - image).abs().mean() > 0.02
    assert torch.equal(edited, apply_edit(name, image, outcome))


@pytest.mark.parametrize(("name", "outcome"), CASES)
def test_an_edit_does_not_depend_on_the_position(name, outcome, image):
    # A crop edited alone is the crop of the edited image, away from its border: views and windows agree.
    margin = 10
    whole = apply_edit(name, image, outcome)[:, 4:-2, 6:]
    alone = apply_edit(name, image[:, 4:-2, 6:], outcome)
    inner = (slice(None), slice(margin, -margin), slice(margin, -margin))
    torch.testing.assert_close(whole[inner], alone[inner], atol=1e-5, rtol=0)


def test_red_to_blue_by_hand():
    red, grey = torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.5, 0.5, 0.5])
    image = torch.stack([red, grey], dim=-1)[:, None]
    edited = apply_edit("red to blue", image)
    assert edited[:, 0, 0].argmax() == 2
    torch.testing.assert_close(edited[:, 0, 1], grey)
    assert affected_mask("red to blue", image).tolist() == [[True, False]]
    assert affected_mask("night", image).all()


def test_choices_are_far_apart(image):
    for name in (n for n, i in INSTRUCTIONS.items() if i.kind == "choice"):
        edits = [apply_edit(name, image, outcome) for outcome in INSTRUCTIONS[name].outcomes]
        gaps = [(a - b).square().mean().sqrt() for k, a in enumerate(edits) for b in edits[:k]]
        assert min(gaps) > 0.1


def test_an_outcome_must_be_one_of_the_declared(image):
    with pytest.raises(ValueError, match=r"expected one of 'red', .*, got 'mauve'"):
        apply_edit("tint", image, "mauve")


@pytest.mark.parametrize("name", list(INSTRUCTIONS))
def test_every_wording_means_its_instruction(name):
    for wording in (*INSTRUCTIONS[name].wordings, *INSTRUCTIONS[name].unseen):
        assert find_instruction(wording) is INSTRUCTIONS[name], wording
        assert find_instruction(" ".join(reversed(wording.upper().split())) + "!") is INSTRUCTIONS[name]


def test_unknown_prompts_are_not_understood():
    assert find_instruction("turn the penguins into chickens") is None
    assert find_instruction("") is None
