from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from csd_core.canvas.panorama import Frame, Panorama, brightest_column, changing, sample_panorama, scheduled
from csd_core.canvas.regions import Region
from csd_core.canvas.windows import Windows
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine.config import EditConfig
from csd_core.engine.loop import particles_of_step
from csd_core.errors import UserError
from csd_core.presets import PANORAMA, PANORAMA_MINI, Preset, panorama_preset

QUICK = Preset(EditConfig(learning_rate=2.0, batch_size=4, guidance_scale=3.0), updates=1, least_steps=4)
STRENGTH_ERROR = 0.10
ROLL_ERROR = 1e-4


@pytest.fixture(scope="module")
def denoiser(tiny_epsilon: Path) -> InstructPix2Pix:
    return InstructPix2Pix.from_pretrained(str(tiny_epsilon))


@pytest.fixture(scope="module")
def mini() -> InstructPix2Pix:
    return InstructPix2Pix.from_pretrained("mini")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """A smooth random image."""
    coarse = torch.rand(1, 3, height // 8 + 2, width // 8 + 2, generator=torch.Generator().manual_seed(seed))
    size = (height, width)
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=True)


def panorama(denoiser: InstructPix2Pix, image: Tensor, prompt: str | None = "red", **settings) -> Panorama:
    settings = {"stride": 4, **settings}
    return Panorama(denoiser, image, prompt, settings.pop("edit", QUICK.edit), QUICK, **settings)


# The frame


@pytest.mark.parametrize("size", [(32, 32), (33, 97), (200, 41), (5, 7), (1, 1), (20, 300), (300, 20)])
@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("margin", [0, 16, 48])
def test_an_image_enters_the_canvas_and_leaves_it_unharmed(
    size: tuple[int, int], wrap: bool, margin: int
) -> None:
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


@pytest.mark.parametrize("size", [(32, 32), (45, 70), (70, 37), (11, 19)])
@pytest.mark.parametrize("borders", ["margin", "lift", "none"])
def test_an_edit_is_as_large_as_its_source(denoiser: InstructPix2Pix, size: tuple[int, int], borders) -> None:
    job = panorama(denoiser, picture(*size), borders=borders, num_steps=2)
    edited = job.finish(job.run())
    assert edited.shape == (1, 3, *size)
    assert 0 <= edited.min() <= edited.max() <= 1


@pytest.mark.parametrize("wrap", [False, True])
def test_no_image_is_encoded_twice(denoiser: InstructPix2Pix, encoded: list[int], wrap: bool) -> None:
    panorama(denoiser, picture(40, 80), num_steps=1, wrap=wrap).run()
    assert encoded == [1]


def test_evaluations_are_five_a_window_and_step(denoiser: InstructPix2Pix) -> None:
    job = panorama(denoiser, picture(40, 80), num_steps=3)
    drawn = sum(len(particles_of_step(job.edit, job.windows.num_particles, step)) for step in range(3))
    with denoiser.count_evaluations() as evaluations:
        job.run()
    assert evaluations.count == 5 * drawn


def test_windows_are_cut_in_batches_and_resumed_to_the_same_bits(denoiser: InstructPix2Pix) -> None:
    image, kept = picture(40, 60), {}
    job = panorama(denoiser, image, num_steps=5)
    whole = job.run(callback=lambda step, canvas: kept.update({step: canvas.clone()}))
    assert torch.equal(panorama(denoiser, image, num_steps=5).run(kept[2], start_step=3), whole)
    small = replace(QUICK.edit, max_batch=3)
    torch.testing.assert_close(
        panorama(denoiser, image, num_steps=5, edit=small).run(), whole, rtol=1e-4, atol=1e-4
    )


def test_by_default_every_window_is_drawn_equally_often() -> None:
    windows = Windows(20, 200, 8, 4, batch_size=4)
    edit = scheduled(EditConfig(batch_size=4), windows, QUICK, None)
    drawn = [p for k in range(edit.num_steps) for p in particles_of_step(edit, windows.num_particles, k)]
    counts = torch.tensor(drawn).bincount()
    assert counts.min() == counts.max() >= 1
    assert scheduled(EditConfig(), windows, QUICK, 7).num_steps == 7


def test_the_papers_panorama_takes_the_papers_steps() -> None:
    windows = Windows(64, 240, 64, 16, batch_size=4)  # 1920 x 512: 12 windows (appendix B.1)
    assert windows.num_particles == 12
    edit = scheduled(PANORAMA.edit, windows, PANORAMA, None)
    assert edit.num_steps in range(200, 203)
    assert (edit.lr_decay_every, edit.learning_rate, edit.lr_decay) == (20, 2.0, 0.9)
    large = Windows(496, 544, 64, 16, batch_size=4)  # 3968 x 4352
    assert scheduled(PANORAMA.edit, large, PANORAMA, None).num_steps == large.steps_per_round > 200


def test_presets_go_with_the_model(denoiser: InstructPix2Pix, mini: InstructPix2Pix) -> None:
    assert panorama_preset(denoiser) is PANORAMA
    assert panorama_preset(mini) is PANORAMA_MINI
    assert PANORAMA.with_edit(guidance_scale=3.0, seed=None).guidance_scale == 3.0
    assert PANORAMA.with_edit(guidance_scale=None).guidance_scale == 7.5


def change_by_place(job: Panorama, side: int) -> Tensor:
    """Mean change of corners, edges and middle, (3,)."""
    change = (job.decode(job.run()) - job.decode(job.latents[0]))[0].mean(0).abs()
    rows, columns = (torch.arange(length) for length in change.shape)
    near = [torch.minimum(place, len(place) - 1 - place) < side for place in (rows, columns)]
    corner, border = near[0][:, None] & near[1], near[0][:, None] | near[1]
    return torch.stack([change[where].mean() for where in (corner, border & ~corner, ~border)])


@pytest.mark.parametrize("borders", ["margin", "lift"])
def test_a_uniform_image_is_edited_alike_everywhere(mini: InstructPix2Pix, borders) -> None:
    image = torch.tensor([0.35, 0.5, 0.6]).view(1, 3, 1, 1).expand(1, 3, 224, 256).contiguous()
    # without guidance: two evaluations in place of five; steps so small that nothing is near its end
    plain = replace(PANORAMA_MINI.edit, guidance_scale=1, image_guidance_scale=1, lr_decay=1.0)
    edit = replace(plain, learning_rate=0.25)
    job = Panorama(mini, image, "make it night", edit, replace(QUICK, updates=14), stride=16, borders=borders)
    corner, edge, middle = change_by_place(job, 32)
    assert middle > 0.01
    assert corner / middle == pytest.approx(1, abs=STRENGTH_ERROR)
    assert edge / middle == pytest.approx(1, abs=STRENGTH_ERROR)


# Wrap


def test_an_image_that_is_rolled_is_edited_the_same(mini: InstructPix2Pix) -> None:
    image = picture(128, 384, seed=3)
    rolled = image.roll(192, dims=-1)
    edits = []
    for source in (image, rolled):
        job = Panorama(
            mini,
            source,
            "make it night",
            PANORAMA_MINI.edit,
            PANORAMA_MINI,
            num_steps=4,
            stride=16,
            wrap=True,
        )
        edits.append(job.finish(job.run()))
    torch.testing.assert_close(edits[1].roll(-192, dims=-1), edits[0], rtol=0, atol=ROLL_ERROR)


def test_across_the_wrap_the_step_is_as_between_neighbours(mini: InstructPix2Pix) -> None:
    x = torch.linspace(0, 2 * torch.pi, 257)[:-1]
    image = (0.5 + 0.3 * torch.stack([x.sin(), x.cos(), (2 * x).sin()])[:, None]).expand(3, 128, 256)[None]
    steps = {}
    for wrap in (True, False):
        job = Panorama(
            mini,
            image.contiguous(),
            "make it night",
            PANORAMA_MINI.edit,
            PANORAMA_MINI,
            num_steps=8,
            stride=16,
            wrap=wrap,
        )
        edited = job.finish(job.run())[0]
        across = (edited[..., 0] - edited[..., -1]).abs().mean()
        steps[wrap] = float(across / edited.diff(dim=-1).abs().mean(dim=(0, 1)).max())
    assert steps[True] <= 1
    assert steps[False] > steps[True]


def test_the_first_window_goes_with_the_image() -> None:
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
    assert moved[left : left + 4].all()
    assert not moved[left + 4 + 2 :].any()  # two latent pixels around the mask move too


def test_regions_fade_into_each_other_over_a_quarter_of_a_window(denoiser: InstructPix2Pix) -> None:
    area = torch.zeros(32, 96)
    area[:, 40:] = 1
    job = panorama(denoiser, picture(32, 96), "left", regions=[Region("right", area)], borders="lift")
    for p, (_, left) in enumerate(job.windows.corners):
        right = [{9: 1 / 3, 10: 2 / 3}.get(x, float(x >= 10)) for x in range(left, left + 8)]
        share = torch.as_tensor(job.prompts["right"][p]).expand(8, 8)
        torch.testing.assert_close(share, torch.tensor(right).expand(8, 8))
        torch.testing.assert_close(torch.as_tensor(job.prompts["left"][p]).expand(8, 8), 1 - share)


def test_at_a_border_of_regions_windows_leave_no_stairs(denoiser: InstructPix2Pix) -> None:
    """What one step asks of a pixel does not hang on the window that asks."""
    area = (torch.arange(48)[:, None] * 1.5 < torch.arange(96)).float()
    job = panorama(denoiser, picture(48, 96), "below", regions=[Region("above", area)], stride=2)
    asked = torch.full((job.windows.height, job.windows.width), torch.nan)
    for p in range(job.windows.num_particles):
        mine = job.windows.view(asked, p)
        share = torch.as_tensor(job.prompts["above"][p]).expand_as(mine)
        assert torch.equal(mine.nan_to_num(0), torch.where(mine.isnan(), 0, share))
        mine.copy_(share)


def test_regions_without_a_prompt_leave_the_rest(denoiser: InstructPix2Pix) -> None:
    image, one, two = picture(32, 160), torch.zeros(32, 160), torch.zeros(32, 160)
    one[:, 8:40], two[4:20, 100:130] = 1, 1
    job = panorama(denoiser, image, None, regions=[Region("one", one), Region("two", two, 5.0)], num_steps=4)
    edited, kept = job.finish(job.run()), (one + two) == 0
    assert torch.equal(edited[..., kept], image[..., kept])
    assert (edited - image)[..., one > 0].abs().max() > 0.01
    for p in range(job.windows.num_particles):
        guidance = torch.as_tensor(job.prompts["one"][p] + job.prompts["two"][p] * 3 / 5)
        torch.testing.assert_close(guidance, torch.ones_like(guidance))


def test_a_region_is_edited_by_its_own_instruction(mini: InstructPix2Pix) -> None:
    area = torch.zeros(128, 384)
    area[:, 192:] = 1
    image = picture(128, 384, seed=5)
    job = Panorama(
        mini,
        image,
        "make it night",
        PANORAMA_MINI.edit,
        PANORAMA_MINI,
        num_steps=16,
        stride=16,
        regions=[Region("make it snowy", area)],
    )
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


def test_bad_input_is_named(denoiser: InstructPix2Pix) -> None:
    image = picture(40, 60)
    area = torch.ones(40, 60)
    cases = [
        ({"stride": 0}, "stride: expected 1 to 8"),
        ({"stride": 9}, "stride: expected 1 to 8"),
        ({"mask": torch.zeros(40, 60)}, "mask: expected pixels that may change"),
        ({"mask": torch.ones(40, 61)}, "mask: expected the image's size"),
        ({"regions": [Region("a", torch.ones(4, 4))]}, "region 'a'"),
        ({"regions": [Region(" ", area)]}, "regions: expected a prompt"),
        ({"regions": [Region("a", area * 0)]}, "region 'a'"),
        ({"num_steps": -1}, "num_steps"),
        ({"edit": replace(QUICK.edit, t_range=(0.5, 0.2))}, "t_range"),
        (
            {"edit": replace(QUICK.edit, guidance_scale=0), "regions": [Region("a", area, 2.0)]},
            "guidance_scale",
        ),
    ]
    for settings, message in cases:
        with pytest.raises(UserError, match=message):
            panorama(denoiser, image, **settings)
    for prompt in ("", "  ", None):
        with pytest.raises(UserError, match="prompt: expected an instruction"):
            panorama(denoiser, image, prompt)


@pytest.mark.parametrize("method", ["ip2p-resize", "ip2p-patch", "ip2p-overlap"])
def test_the_usual_ways_take_any_size(denoiser: InstructPix2Pix, method) -> None:
    sampling = replace(PANORAMA.sampling, num_inference_steps=2)
    for size in ((11, 40), (45, 70)):
        image = picture(*size)
        edited = sample_panorama(method, denoiser, image, "red", sampling, stride=4, progress=False)
        assert edited.shape == image.shape
