"""The contract: conditionings, and a family from outside that runs through every kind of edit."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from csd_core.denoisers.base import Branch, Conditioning, Guidance
from csd_core.editors import PanoramaEditor, VideoEditor
from csd_core.engine.config import EditConfig
from csd_core.engine.loop import edit_images, edit_latents
from csd_core.errors import UserError
from csd_core.method.schedule import RectifiedFlow
from tests.exact_editor import ExactEditor
from tests.toy_family import Tinter, tinted

FAR = 0.02
"""Mean distance of an edit to the true one, in [0, 1], at most."""


def smooth(*shape: int, seed: int = 0) -> Tensor:
    """Images in [0.2, 0.7]."""
    noise = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    return 0.2 + 0.5 * torch.nn.functional.avg_pool2d(noise, 5, 1, 2)


def test_rows_of_a_conditioning_stay_together() -> None:
    given = Conditioning(4, a=torch.arange(4), b=torch.arange(8).view(4, 2))
    assert given[1:3].tensors["b"].tolist() == [[2, 3], [4, 5]]
    assert given[torch.tensor([3, 0])].tensors["a"].tolist() == [3, 0]
    assert len(given[1:3]) == len(given[torch.tensor([3, 0])]) == 2
    again = Conditioning.cat([given[:1], given[1:]])
    assert torch.equal(again.tensors["b"], given.tensors["b"])
    assert given.signature == (("a", torch.Size([])), ("b", torch.Size([2])))
    assert given.nbytes == 8 * (4 + 8)
    assert given.to(torch.float32).tensors["a"].dtype == torch.float32
    assert len(Conditioning(3)[:2]) == 2
    with pytest.raises(ValueError, match="conditioning 'a': expected 3 rows, got 4"):
        Conditioning(3, a=torch.arange(4))


# A family from outside, without a change to any other file


@pytest.mark.parametrize("wrap", [False, True])
def test_another_family_edits_a_panorama(wrap: bool) -> None:
    editor, image = PanoramaEditor(Tinter()), smooth(1, 3, 22, 50)
    editor.set_progress_bar_config(disable=True)
    edited = editor(image, "redder", wrap=wrap, num_inference_steps=60, output_type="pt").images
    assert isinstance(edited, Tensor)
    assert (edited - tinted(image, "redder")).abs().mean() < FAR


def test_another_family_edits_a_video() -> None:
    editor, frames = VideoEditor(Tinter()), smooth(5, 3, 18, 26)
    editor.set_progress_bar_config(disable=True)
    edited = editor(frames, "bluer", num_inference_steps=60, output_type="pt").frames
    assert isinstance(edited, Tensor)
    assert (edited[0] - tinted(frames, "bluer")).abs().mean() < FAR


def test_another_family_edits_images_of_any_size() -> None:
    images, config = smooth(2, 3, 13, 18), EditConfig(num_steps=60)
    edited = edit_images(Tinter(), images, "redder", config)
    assert (edited - tinted(images, "redder")).abs().mean() < FAR


def test_evaluations_of_another_family_are_counted() -> None:
    tinter = Tinter()
    with tinter.count_evaluations() as counted:
        edit_images(tinter, smooth(3, 3, 8, 8), "redder", EditConfig(num_steps=2, noise_pool=0))
    assert counted.count == 2 * 3 * 2  # steps, particles, sides
    edit_images(tinter, smooth(1, 3, 8, 8), "redder", EditConfig(num_steps=1))
    assert counted.count == 12


def test_a_family_without_a_sampler_names_those_that_have_one() -> None:
    editor = PanoramaEditor(Tinter())
    with pytest.raises(
        UserError, match=r"method: expected csd, or a model of InstructPix2Pix .*, got Tinter"
    ):
        editor(smooth(1, 3, 16, 16), "redder", method="ip2p-overlap")


def test_a_family_that_cannot_be_moved_says_so() -> None:
    with pytest.raises(UserError, match="device: expected a model that can be moved, got Tinter; load it on"):
        PanoramaEditor(Tinter()).to("cpu")


class Wordy(ExactEditor):
    """Its text has another length with the image than without: such rows cannot lie in one tensor."""

    def conditioning(self, branch: Branch, condition: Conditioning) -> Conditioning:
        given = super().conditioning(branch, condition)
        text = given.tensors["text"]
        return Conditioning(
            len(text), **{**given.tensors, "text": text[:, None].expand(-1, 2 + branch.image)}
        )

    def predict_noise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        given = {**conditioning.tensors, "text": conditioning.tensors["text"][:, 0]}
        return super().predict_noise(x_t, t, Conditioning(len(x_t), **given))


@pytest.mark.parametrize("noise_pool", [0, 2])
def test_branches_of_unlike_shapes_are_evaluated_in_groups(noise_pool: int) -> None:
    modes, source = torch.randn(2, 5, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    config = EditConfig(num_steps=8, batch_size=3, noise_pool=noise_pool, guidance_scale=3.0)
    condition = Conditioning(5, image=source)
    wordy = Wordy(modes)
    edited = edit_latents(wordy, source, source, condition, "a", config)
    whole = edit_latents(ExactEditor(modes), source, source, condition, "a", config)
    torch.testing.assert_close(edited, whole, rtol=0, atol=1e-5)
    assert wordy.calls > 8


# The law of the two kinds of schedules


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"baseline": "noise"},
        {"baseline": "prompt", "source_prompt": "a photo"},
        {"mixing": False},
        {"bandwidth_factor": 3.0},
        {"noise_pool": 4},
        {"t_range": (0.02, 0.98)},
    ],
)
def test_one_editor_as_variance_preserving_and_as_flow_gives_the_same_edits(
    settings: dict[str, object],
) -> None:
    directions, source = torch.randn(2, 6, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    modes = 8 * directions / directions.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    config = replace(EditConfig(num_steps=60, noise_pool=0, batch_size=4, guidance_scale=3.0), **settings)
    condition = Conditioning(6, image=source)
    edits = [
        edit_latents(ExactEditor(modes, schedule), source, source, condition, "edit", config)
        for schedule in (None, RectifiedFlow())
    ]
    assert (edits[0] - source).abs().mean() > 0.05
    torch.testing.assert_close(edits[0], edits[1], rtol=0, atol=1e-4)


def test_guidance_without_prompts_is_by_the_image_alone() -> None:
    branches = ExactEditor(torch.zeros(1, 4, 4, 4)).guided({}, 1, Guidance(7.5, 1.5))
    assert [(branch.image, branch.weights) for branch in branches] == [(False, (-0.5,)), (True, (1.5,))]
