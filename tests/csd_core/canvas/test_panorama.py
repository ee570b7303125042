from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from csd_core.canvas.panorama import Borders, Frame, Panorama, brightest_column, changing
from csd_core.canvas.regions import Region
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine.config import MethodConfig
from csd_core.errors import UserError
from tests.csd_core.canvas.quick import QUICK, panorama, picture

STRENGTH_ERROR = 0.10
ROLL_ERROR = 1e-4


def night(mini: InstructPix2Pix, image: Tensor, **how: Any) -> Panorama:
    config = MethodConfig.from_preset(mini.presets["panorama"])
    return Panorama(mini, image, "make it night", config, stride=16, **how)


# The frame


@pytest.mark.parametrize("size", [(32, 32), (33, 97), (200, 41), (1, 1), (20, 300)])
@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("margin", [0, 16, 48])
def test_an_image_returns_from_the_canvas_as_it_was(size: tuple[int, int], wrap: bool, margin: int) -> None:
    frame, image = Frame.around(size, 32, 4, margin, wrap), picture(*size)
    framed = frame.enter(image)
    assert tuple(framed.shape[-2:]) == frame.canvas_size
    assert all(side % 4 == 0 and side >= 32 for side in frame.canvas_size)
    left = frame.leave(framed)
    assert left.shape == image.shape
    if min(size) >= 32 and not (wrap and size[1] % 4):
        assert torch.equal(left, image)


def test_the_margin_is_numpys_mirror() -> None:
    image, frame = picture(33, 40), Frame.around((33, 40), 32, 4, 64, False)
    expected = np.pad(image[0].numpy(), ((0, 0), (64, 64 + 3), (64, 64)), mode="reflect")
    assert np.array_equal(frame.enter(image)[0].numpy(), expected)


def test_a_small_image_is_enlarged_in_its_aspect() -> None:
    assert Frame.around((10, 30), 32, 4, 0, False).inner == (32, 96)
    assert Frame.around((500, 30), 32, 4, 0, False).inner == (533, 32)
    assert Frame.around((33, 99), 32, 4, 0, True).inner == (33, 100)


# The edit


def change_by_place(job: Panorama, side: int) -> Tensor:
    """Mean change of corners, edges and middle, (3,)."""
    change = (job.decode(job.run()) - job.decode(job.latents[0]))[0].mean(0).abs()
    rows, columns = (torch.arange(length) for length in change.shape)
    near = [torch.minimum(place, len(place) - 1 - place) < side for place in (rows, columns)]
    corner, border = near[0][:, None] & near[1], near[0][:, None] | near[1]
    return torch.stack([change[where].mean() for where in (corner, border & ~corner, ~border)])


@pytest.mark.parametrize("borders", ["margin", "reweight"])
def test_a_uniform_image_is_edited_equally_everywhere(mini: InstructPix2Pix, borders: Borders) -> None:
    image = torch.tensor([0.35, 0.5, 0.6]).view(1, 3, 1, 1).expand(1, 3, 224, 256).contiguous()
    # without guidance: two evaluations in place of five; steps so small that nothing is near its end
    plain = {"guidance_scale": 1.0, "image_guidance_scale": 1.0, "lr_decay": 1.0, "learning_rate": 0.25}
    config = MethodConfig.from_preset(mini.presets["panorama"], **plain)
    preset = replace(QUICK["panorama"], updates=14)
    job = Panorama(mini, image, "make it night", config, preset=preset, stride=16, borders=borders)
    corner, edge, middle = change_by_place(job, 32)
    assert middle > 0.01
    assert corner / middle == pytest.approx(1, abs=STRENGTH_ERROR)
    assert edge / middle == pytest.approx(1, abs=STRENGTH_ERROR)


# Wrap


def test_a_rolled_image_gives_the_rolled_edit(mini: InstructPix2Pix) -> None:
    image = picture(128, 384, seed=3)
    edits = []
    for source in (image, image.roll(192, dims=-1)):
        job = night(mini, source, num_steps=4, wrap=True)
        edits.append(job.finish(job.run()))
    torch.testing.assert_close(edits[1].roll(-192, dims=-1), edits[0], rtol=0, atol=ROLL_ERROR)


def test_across_the_wrap_the_step_is_as_between_neighbours(mini: InstructPix2Pix) -> None:
    x = torch.linspace(0, 2 * torch.pi, 257)[:-1]
    image = (0.5 + 0.3 * torch.stack([x.sin(), x.cos(), (2 * x).sin()])[:, None]).expand(3, 128, 256)[None]
    steps = {}
    for wrap in (True, False):
        job = night(mini, image.contiguous(), num_steps=8, wrap=wrap)
        edited = job.finish(job.run())[0]
        across = (edited[..., 0] - edited[..., -1]).abs().mean()
        steps[wrap] = float(across / edited.diff(dim=-1).abs().mean(dim=(0, 1)).max())
    assert steps[True] <= 1
    assert steps[False] > steps[True]


def test_the_first_window_moves_with_the_image() -> None:
    image = picture(32, 400)
    width = 100
    first = brightest_column(image, width)
    assert brightest_column(image.roll(200, dims=-1), width) == (first + 50) % width
    bright = torch.zeros(1, 3, 8, 400)
    bright[..., 120:140] = 1
    assert brightest_column(bright, width) in (32, 33)


# Mask and regions


def test_outside_the_mask_nothing_changes(denoiser: InstructPix2Pix) -> None:
    image, mask = picture(48, 90), torch.zeros(48, 90)
    mask[10:30, 20:50], mask[30:34, 20:50] = 1, 0.25
    job = panorama(denoiser, image, mask=mask, num_steps=4)
    canvas = job.run()
    edited, unmasked = job.finish(canvas), job.decode(canvas)
    assert torch.equal(edited[..., mask == 0], image[..., mask == 0])
    assert torch.equal(edited[..., mask == 1], unmasked[..., mask == 1])
    soft = mask == 0.25
    torch.testing.assert_close(edited[..., soft], (0.75 * image + 0.25 * unmasked)[..., soft])
    assert (edited[..., mask == 1] - image[..., mask == 1]).abs().max() > 0.01


def test_windows_without_anything_to_change_are_not_evaluated(denoiser: InstructPix2Pix) -> None:
    image, mask = picture(32, 320), torch.zeros(32, 320)
    mask[:, :16] = 1
    whole, part = panorama(denoiser, image), panorama(denoiser, image, mask=mask)
    assert part.windows.num_particles < whole.windows.num_particles / 3
    source = part.latents[0]
    moved = (part.run() - source).abs().amax(dim=(0, 1)).amax(dim=0) > 0
    left = part.frame.margin[0] // 4
    assert moved[left : left + 4 + 2].all()  # two latent pixels around the mask move too
    assert not moved[left + 4 + 2 :].any()


def test_regions_without_a_prompt_leave_the_rest(denoiser: InstructPix2Pix) -> None:
    image, one, two = picture(32, 160), torch.zeros(32, 160), torch.zeros(32, 160)
    one[:, 8:40], two[4:20, 100:130] = 1, 1
    job = panorama(denoiser, image, None, regions=[Region("one", one), Region("two", two)], num_steps=4)
    edited, kept = job.finish(job.run()), (one + two) == 0
    assert torch.equal(edited[..., kept], image[..., kept])
    assert (edited - image)[..., one > 0].abs().max() > 0.01


def test_a_region_is_edited_by_its_own_instruction(mini: InstructPix2Pix) -> None:
    area = torch.zeros(128, 384)
    area[:, 192:] = 1
    image = picture(128, 384, seed=5)
    job = night(mini, image, num_steps=16, regions=[Region("make it snowy", area)])
    edited = job.finish(job.run())
    assert edited[..., :96].mean() < image[..., :96].mean() - 0.15
    assert edited[..., 288:].mean() > image[..., 288:].mean() + 0.1


def test_what_may_change_is_inside_both_mask_and_regions() -> None:
    mask, area = torch.zeros(4, 4), torch.zeros(4, 4)
    mask[:3], area[2:] = 0.5, 1
    assert changing(None, None, (4, 4)) is None
    assert torch.equal(changing(mask, (), (4, 4)), mask)  # pyright: ignore[reportArgumentType]
    both = changing(mask, [Region("a", area)], (4, 4))
    assert both is not None
    assert both[2].tolist() == [0.5] * 4
    assert both[[0, 1, 3]].abs().max() == 0


# Bad input


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"stride": 9}, "stride: expected 1 to 8"),
        ({"mask": torch.zeros(40, 60)}, "mask: expected pixels that may change"),
        ({"mask": torch.ones(40, 61)}, "mask: expected the image's size"),
        ({"regions": [Region("a", torch.ones(4, 4))]}, "region 'a'"),
        (
            {"given": {"guidance_scale": 0}, "regions": [Region("a", torch.ones(40, 60), 2.0)]},
            "guidance_scale",
        ),
        ({"prompt": None}, "prompt: expected an instruction"),
    ],
)
def test_bad_input_is_reported(denoiser: InstructPix2Pix, how: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        panorama(denoiser, **how)
