import gc
import math
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from csd_core.baselines import SamplingConfig
from csd_core.canvas import video as module
from csd_core.canvas.detail import Detail
from csd_core.canvas.video import PREVIEW_FRAMES, ArrayClip, Frames, VideoEdit, as_image, with_method
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine.config import EditConfig
from csd_core.engine.loop import edit_images, particles_of_step
from csd_core.errors import UserError
from csd_core.image_ops import resize
from csd_core.io.images import quantise
from csd_core.method.schedule import step_generator
from csd_core.presets import VIDEO, VIDEO_MINI, Preset, scheduled, video_preset
from tests.conftest import DOWNSCALE

QUICK = Preset(EditConfig(learning_rate=0.5, batch_size=4, guidance_scale=3.0), updates=2, least_steps=3)
SPLIT_ERROR = 1e-5
SIZE = (45, 61)


@pytest.fixture(scope="module")
def denoiser(tiny_epsilon: Path) -> InstructPix2Pix:
    return InstructPix2Pix.from_pretrained(str(tiny_epsilon))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def moving(count: int = 6, size: tuple[int, int] = SIZE, seed: int = 0) -> list[np.ndarray]:
    """Frames cut one after the other, 3 pixels apart, from blurred noise."""
    height, width = size
    wide = np.random.default_rng(seed).integers(0, 256, (height, width + 3 * count, 3), np.uint8)
    wide = cv2.blur(wide, (5, 5))
    return [wide[:, 3 * k : 3 * k + width].copy() for k in range(count)]


def job(denoiser: InstructPix2Pix, clip: Any = None, prompt: str = "red", **settings: Any) -> VideoEdit:
    clip = moving() if clip is None else clip
    clip = ArrayClip(clip) if isinstance(clip, list) else clip
    return VideoEdit(denoiser, clip, prompt, settings.pop("edit", QUICK.edit), QUICK, **settings)


def finished(edit: VideoEdit, canvas: Tensor, detail: Detail | None = None) -> Tensor:
    return torch.stack(list(edit.finish(canvas, detail)))


def images(frames: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) / 255


# Sizes


@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [
        ((45, 61), None, (32, 43)),
        ((61, 45), None, (43, 32)),
        ((64, 96), None, (32, 48)),
        ((20, 30), None, (32, 48)),
        ((45, 61), 45, (45, 61)),
        ((45, 61), 6, (6, 8)),
        ((33, 33), 18, (18, 18)),
        ((1, 1), 5, (5, 5)),
        ((3, 40), 4, (4, 53)),
    ],
)
@pytest.mark.parametrize("detail", ["none", "guided"])
def test_frames_are_edited_at_the_resolution_and_come_back_in_their_size(
    denoiser: InstructPix2Pix,
    size: tuple[int, int],
    resolution: int | None,
    expected: tuple[int, int],
    detail: Detail,
) -> None:
    edit = job(denoiser, moving(3, size), resolution=resolution, num_steps=1, detail=detail)
    assert edit.size == expected
    assert edit.latent_shape == (4, -(-expected[0] // DOWNSCALE), -(-expected[1] // DOWNSCALE))
    source, condition = edit.latents
    assert source.shape == condition.shape == (3, *edit.latent_shape)
    canvas = edit.run()
    assert canvas.shape == source.shape
    assert edit.decode(canvas).shape == (3, 3, *expected)
    edited = finished(edit, canvas)
    assert edited.shape == (3, 3, *size)
    assert edited.dtype == torch.float32
    assert 0 <= edited.min() <= edited.max() <= 1


def test_what_grows_with_the_frames_is_four_times_the_latents(denoiser: InstructPix2Pix) -> None:
    edit = job(denoiser)
    assert edit.nbytes == 4 * edit.latents[0].nbytes
    assert edit.num_particles == 6


# The method


def test_every_frame_moves_equally_often_in_whole_rounds() -> None:
    for frames, batch in ((6, 4), (24, 8), (25, 8), (7, 7), (5, 16), (1, 8)):
        edit = scheduled(replace(QUICK.edit, batch_size=batch), Frames(frames, batch), QUICK, None)
        steps = range(edit.num_steps)
        drawn = torch.tensor([p for step in steps for p in particles_of_step(edit, frames, step)]).bincount()
        assert drawn.tolist() == [edit.num_steps // math.ceil(frames / batch)] * frames
        assert drawn.min() >= QUICK.updates


@pytest.mark.parametrize("preset", [VIDEO, VIDEO_MINI])
def test_more_frames_take_more_steps_and_move_as_often(preset: Preset) -> None:
    def updates(frames: int) -> tuple[int, float]:
        edit = scheduled(preset.edit, Frames(frames, preset.edit.batch_size), preset, None)
        return edit.num_steps, edit.num_steps * preset.edit.batch_size / frames

    assert updates(24)[1] >= preset.updates
    assert updates(240)[0] > 5 * updates(24)[0]
    assert updates(240)[1] == pytest.approx(max(preset.updates, updates(24)[1]), rel=0.03)


def test_the_papers_24_frames_take_the_papers_steps(denoiser: InstructPix2Pix) -> None:
    edit = VideoEdit(denoiser, ArrayClip(moving(24, (8, 8))), "red", VIDEO.edit, VIDEO).edit
    assert edit.num_steps == 201  # 200, made whole rounds of 3
    assert (edit.lr_decay_every, edit.learning_rate, edit.lr_decay, edit.batch_size) == (20, 0.5, 0.9, 8)
    short = VideoEdit(denoiser, ArrayClip(moving(1, (8, 8))), "red", VIDEO.edit, VIDEO).edit
    assert short.num_steps == 200
    given = VideoEdit(denoiser, ArrayClip(moving(24, (8, 8))), "red", VIDEO.edit, VIDEO, num_steps=50).edit
    assert (given.num_steps, given.lr_decay_every) == (50, 5)


def test_presets_go_with_the_model(denoiser: InstructPix2Pix) -> None:
    assert video_preset(denoiser) is VIDEO
    assert video_preset(InstructPix2Pix.from_pretrained("mini")) is VIDEO_MINI


@pytest.mark.parametrize("resolution", [45, 33])
def test_it_is_the_edit_of_images_that_agree(denoiser: InstructPix2Pix, resolution: int) -> None:
    frames = moving()
    edit = job(denoiser, frames, resolution=resolution, detail="none", num_steps=4)
    edited = finished(edit, edit.run())
    expected = edit_images(denoiser, resize(images(frames), edit.size), "red", edit.edit)
    expected = F.interpolate(expected, size=SIZE, mode="bilinear")
    torch.testing.assert_close(edited, expected, rtol=0, atol=SPLIT_ERROR)
    assert (edited - images(frames)).abs().mean() > 0.02


def test_frames_of_a_step_exchange_gradients_however_they_are_evaluated(denoiser: InstructPix2Pix) -> None:
    whole = job(denoiser, num_steps=4, edit=replace(QUICK.edit, max_batch=16))
    expected = whole.run()
    for max_batch in (1, 3):
        parts = job(denoiser, num_steps=4, edit=replace(QUICK.edit, max_batch=max_batch))
        canvas = parts.run()
        torch.testing.assert_close(canvas, expected, rtol=0, atol=SPLIT_ERROR)
        torch.testing.assert_close(
            finished(parts, canvas), finished(whole, expected), rtol=0, atol=SPLIT_ERROR
        )
    alone = job(denoiser, num_steps=4, edit=replace(QUICK.edit, batch_size=1)).run()
    assert (alone - expected).abs().max() > 0.01


def test_no_more_is_evaluated_at_a_time_than_allowed(denoiser: InstructPix2Pix) -> None:
    sizes: dict[str, list[int]] = {"unet": [], "encoder": [], "decoder": []}
    pipeline: Any = denoiser.pipeline()
    networks = {
        "unet": pipeline.unet,
        "encoder": pipeline.vae.encoder,
        "decoder": pipeline.vae.decoder,
    }
    hooks = [
        network.register_forward_pre_hook(lambda _, args, name=name: sizes[name].append(len(args[0])))
        for name, network in networks.items()
    ]
    edit = job(denoiser, moving(7), num_steps=1, edit=replace(QUICK.edit, max_batch=3))
    finished(edit, edit.run())
    edit.decode_one_tile()
    for hook in hooks:
        hook.remove()
    assert all(max(found) == 3 for found in sizes.values())
    assert sizes["encoder"] == [3, 3, 1]  # once for source and condition


def test_an_edit_is_resumed_to_the_same_bits(denoiser: InstructPix2Pix) -> None:
    kept: dict[int, Tensor] = {}
    whole = job(denoiser, num_steps=5).run(callback=lambda k, x: kept.update({k: x.clone()}))
    assert torch.equal(job(denoiser, num_steps=5).run(kept[2], start_step=3), whole)


def test_evaluations_of_the_methods(denoiser: InstructPix2Pix) -> None:
    for method, each in (("csd", 5), ("no-svgd", 5), ("sds", 3), ("dds", 6)):
        chosen: Any = method
        edit = with_method(QUICK.edit, chosen, "a film", num_frames=6, scaled=True)
        with denoiser.count_evaluations() as evaluations:
            job(denoiser, edit=edit, num_steps=2).run()  # two batches of three frames
        assert evaluations.count == each * 6


# Which method


def test_the_methods_differ_as_table_3_has_it() -> None:
    made = {
        name: with_method(QUICK.edit, method, "a film", num_frames=6, scaled=False)
        for name, method in {name: cast(Any, name) for name in module.VARIANTS}.items()
    }
    assert made["csd"] == replace(QUICK.edit, source_prompt="a film")
    assert made["sds"] == replace(made["csd"], baseline="noise")
    assert made["dds"] == replace(made["csd"], baseline="prompt")
    assert made["no-svgd"] == replace(made["csd"], mixing=False)


@pytest.mark.parametrize(("num_frames", "shared"), [(8, 4), (6, 3), (1, 1), (9, 3)])
def test_the_learning_rate_of_no_svgd_is_fitted_if_it_is_open(num_frames: int, shared: int) -> None:
    """To the frames that share a step: four at most, batches of a round differ by one at most."""
    for method in module.VARIANTS:
        chosen: Any = method
        factor = 2 / (shared + 1) if method == "no-svgd" else 1
        rates = {
            scaled: with_method(QUICK.edit, chosen, "a", num_frames=num_frames, scaled=scaled).learning_rate
            for scaled in (True, False)
        }
        assert rates == {True: pytest.approx(0.5 * factor), False: 0.5}
    chosen = "ip2p-frame"
    with pytest.raises(UserError, match="method: expected one of csd"):
        with_method(QUICK.edit, chosen, "a", num_frames=num_frames, scaled=False)


def changed_by_another_frame(denoiser: InstructPix2Pix, method: Any) -> list[bool]:
    """Which of the frames come out otherwise if frame 2 is another."""
    edit = replace(with_method(QUICK.edit, method, "a film", num_frames=6, scaled=False), batch_size=6)
    frames, other = moving(), moving()
    other[2] = moving(seed=1)[2]
    one, two = (job(denoiser, clip, edit=edit, num_steps=3) for clip in (frames, other))
    pairs = zip(one.finish(one.run()), two.finish(two.run()), strict=True)
    return [not torch.equal(a, b) for a, b in pairs]


def test_without_svgd_frames_know_nothing_of_each_other(denoiser: InstructPix2Pix) -> None:
    assert changed_by_another_frame(denoiser, "no-svgd") == [k == 2 for k in range(6)]
    assert changed_by_another_frame(denoiser, "csd") == [True] * 6


def test_without_svgd_a_frame_is_edited_as_if_it_were_alone(denoiser: InstructPix2Pix) -> None:
    """Frame 0 has the noise of frame 0 in a video of one frame; the others have noise of their own."""
    edit = replace(QUICK.edit, mixing=False, batch_size=6)
    together, alone = (job(denoiser, moving()[:n], edit=edit, num_steps=3).run() for n in (6, 1))
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=SPLIT_ERROR)
    same = job(denoiser, [moving()[0]] * 2, edit=edit, num_steps=3).run()
    assert (same[0] - same[1]).abs().max() > 0.01


def test_one_frame_is_plain_score_distillation(denoiser: InstructPix2Pix) -> None:
    canvases = []
    for method in ("csd", "no-svgd"):
        chosen: Any = method
        edit = with_method(QUICK.edit, chosen, "", num_frames=6, scaled=False)
        canvases.append(job(denoiser, moving(1), edit=edit, num_steps=3).run())
    assert torch.equal(*canvases)
    assert (canvases[0] - job(denoiser, moving(1)).latents[0]).abs().max() > 0.1


# Never the whole video


class Counted:
    """A clip that counts its arrays, and how many there are at a time of those that `track` was told."""

    def __init__(self, frames: list[np.ndarray]) -> None:
        self._frames = frames
        self.num_frames, self.size = len(frames), frames[0].shape[:2]
        self.begun = self.most = self.given = 0
        self._alive: list[weakref.ref[Any]] = []

    def frames(self) -> Iterator[np.ndarray]:
        self.begun += 1
        for k in range(self.num_frames):
            self.given += 1
            yield self.track(self._frames[k].copy())

    def track(self, made: Any) -> Any:
        self._alive = [ref for ref in self._alive if ref() is not None] + [weakref.ref(made)]
        self.most = max(self.most, len(self._alive))
        return made

    def alive(self) -> int:
        return sum(ref() is not None for ref in self._alive)


@pytest.mark.parametrize("max_batch", [1, 4])
@pytest.mark.parametrize("detail", ["none", "guided"])
def test_only_a_batch_of_frames_is_in_memory(
    denoiser: InstructPix2Pix, monkeypatch: pytest.MonkeyPatch, max_batch: int, detail: Detail
) -> None:
    clip, whole = Counted(moving(15, (20, 30))), Counted(moving(15, (20, 30)))
    monkeypatch.setattr(module, "as_image", lambda frame, device: whole.track(as_image(frame, device)))
    edit = job(
        denoiser,
        clip,
        edit=replace(QUICK.edit, max_batch=max_batch),
        detail=detail,
        resolution=12,
        num_steps=1,
    )
    assert clip.begun == 0  # nothing is decoded before it is asked for
    gc.disable()  # what waits for the garbage collector is in memory, too
    try:
        _ = edit.latents
        assert clip.begun == 1
        _ = edit.latents
        canvas = edit.run()
        assert clip.begun == 1  # they are computed once
        assert clip.alive() <= 1
        edited = sum(1 for _ in edit.finish(canvas))
    finally:
        gc.enable()
    assert (edited, clip.begun, clip.given) == (15, 2, 30)
    assert clip.most <= 2  # as arrays: one, and the one after it
    assert whole.most <= max_batch + 1  # as images
    assert whole.alive() == clip.alive() == 0


def test_frames_are_finished_as_they_are_asked_for(denoiser: InstructPix2Pix) -> None:
    clip = Counted(moving(9, (20, 30)))
    edit = job(denoiser, clip, edit=replace(QUICK.edit, max_batch=3), resolution=12)
    stream = edit.finish(edit.latents[0])
    assert clip.given == 9  # those of the latents
    for k, _ in enumerate(stream):
        assert clip.given == 9 + 3 * (k // 3 + 1)


# Detail and mask


@pytest.mark.parametrize("size", [SIZE, (20, 30)])
@pytest.mark.parametrize("detail", ["residual", "guided"])
def test_without_an_edit_frames_come_back_exactly(
    denoiser: InstructPix2Pix, size: tuple[int, int], detail: Detail
) -> None:
    frames = moving(size=size)
    edit = job(denoiser, frames, detail=detail, edit=replace(QUICK.edit, max_batch=4))
    for frame, kept in zip(frames, edit.finish(edit.latents[0]), strict=True):
        np.testing.assert_array_equal(quantise(kept, np.uint8), frame)
    lost = finished(edit, edit.latents[0], "none")  # what this autoencoder loses is much
    assert (lost - images(frames)).abs().mean() > 0.05


def test_detail_may_be_chosen_at_the_end(denoiser: InstructPix2Pix) -> None:
    first, second = (job(denoiser, detail=detail, num_steps=2) for detail in ("guided", "residual"))
    canvas = first.run()
    assert torch.equal(finished(first, canvas, "residual"), finished(second, canvas))
    assert not torch.equal(finished(first, canvas), finished(second, canvas))


@pytest.mark.parametrize("detail", ["none", "guided"])
def test_each_frame_has_its_mask(denoiser: InstructPix2Pix, detail: Detail) -> None:
    masks = [np.zeros(SIZE, np.float32) for _ in range(6)]
    for k, mask in enumerate(masks):
        mask[5 * k : 5 * k + 10], mask[5 * k + 10 : 5 * k + 15] = 1, 0.25
    frames = moving()
    edit = job(denoiser, frames, masks=masks, detail=detail, num_steps=3)
    free = job(denoiser, frames, detail=detail, num_steps=3)
    canvas = edit.run()
    assert torch.equal(canvas, free.run())  # it is put on at the end
    source, unmasked, edited = images(frames), finished(free, canvas), finished(edit, canvas)
    chosen = torch.from_numpy(np.stack(masks))[:, None].expand_as(source)
    assert torch.equal(edited[chosen == 0], source[chosen == 0])
    assert torch.equal(edited[chosen == 1], unmasked[chosen == 1])
    soft = chosen == 0.25
    torch.testing.assert_close(edited[soft], (0.75 * source + 0.25 * unmasked)[soft])
    assert torch.equal(finished(edit, canvas), edited)  # masks begin anew
    assert (edited[chosen == 1] - source[chosen == 1]).abs().mean() > 0.01


# Previews


@pytest.mark.parametrize(("count", "shown"), [(3, [0, 1, 2]), (15, [0, 2, 4, 6, 8, 10, 12, 14]), (1, [0])])
def test_a_preview_shows_frames_from_all_over(
    denoiser: InstructPix2Pix, count: int, shown: list[int]
) -> None:
    edit = job(denoiser, moving(count))
    canvas = edit.latents[0]
    strip = edit.preview(canvas)
    assert len(shown) <= PREVIEW_FRAMES
    assert strip.shape == (3, 32, 43 * len(shown))
    torch.testing.assert_close(strip, torch.cat([edit.decode(canvas)[k] for k in shown], dim=-1))


# Frames by themselves


def by_diffusers(denoiser: InstructPix2Pix, image: Tensor, config: SamplingConfig) -> Tensor:
    pipeline: Any = denoiser.pipeline()
    return pipeline(
        prompt="red",
        negative_prompt=config.negative_prompt,
        image=image,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        image_guidance_scale=config.image_guidance_scale,
        generator=step_generator(config.seed, 0),
        output_type="pt",
    ).images[0]


@pytest.mark.parametrize("max_batch", [1, 16])
def test_sampled_frames_are_what_diffusers_makes_of_each(denoiser: InstructPix2Pix, max_batch: int) -> None:
    frames = moving(4, (36, 48))
    frames[3] = frames[1]
    config = SamplingConfig(num_inference_steps=3, negative_prompt="dull", seed=4, max_batch=max_batch)
    edit = job(denoiser, frames, resolution=36, detail="none")
    edited = finished(edit, edit.sample(config))
    for frame, made in zip(images(frames), edited, strict=True):
        expected = by_diffusers(denoiser, frame[None], config)
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(edited[1], edited[3], rtol=0, atol=SPLIT_ERROR)


def test_sampling_checks_its_settings_before_anything_is_computed(denoiser: InstructPix2Pix) -> None:
    clip = Counted(moving(2))
    for config, name in (
        (SamplingConfig(guidance_scale=0.5), "guidance_scale"),
        (SamplingConfig(num_inference_steps=1000), "num_inference_steps"),
    ):
        with pytest.raises(UserError, match=name):
            job(denoiser, clip).sample(config)
    assert clip.begun == 0


def test_sampling_shows_its_progress(denoiser: InstructPix2Pix, capsys: pytest.CaptureFixture[str]) -> None:
    config = SamplingConfig(num_inference_steps=1)
    job(denoiser, moving(3)).sample(config)
    assert capsys.readouterr().err == ""
    job(denoiser, moving(3)).sample(config, progress=True)
    assert "3/3" in capsys.readouterr().err


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "  "}, "prompt: expected an instruction, got nothing"),
        ({"clip": []}, "video: expected at least one frame, got none"),
        ({"resolution": 3}, "resolution: expected at least 4 pixels, got 3"),
        ({"resolution": 0}, "resolution"),
        ({"detail": "sharp"}, "detail: expected one of none, residual, guided, got sharp"),
        ({"num_steps": -1}, "num_steps"),
        ({"edit": replace(QUICK.edit, batch_size=0)}, "batch_size"),
        ({"edit": replace(QUICK.edit, max_batch=0)}, "max_batch"),
        ({"edit": replace(QUICK.edit, t_range=(0.5, 0.2))}, "t_range"),
        ({"edit": replace(QUICK.edit, baseline="prompt")}, "source_prompt: expected what the source shows"),
    ],
)
def test_bad_settings_are_named_at_once(
    denoiser: InstructPix2Pix, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        job(denoiser, **settings)


def test_an_array_is_not_kept_by_its_image() -> None:
    frame = moving(1)[0]
    image = as_image(frame, torch.device("cpu"))
    assert image.shape == (1, 3, *SIZE)
    assert image.is_contiguous()
    before = image.clone()
    frame[:] = 0
    assert torch.equal(image, before)
    np.testing.assert_array_equal(quantise(image[0], np.uint8), moving(1)[0])
