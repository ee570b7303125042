import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from csd_core.baselines import (
    METHODS,
    ip2p_frames,
    ip2p_overlap,
    ip2p_patch,
    ip2p_renewed,
    ip2p_resize,
    sample_video,
)
from csd_core.canvas.video import VideoEdit
from csd_core.denoisers.base import Branch, Conditioning, SamplingConfig
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine.config import MethodConfig
from csd_core.errors import UserError
from csd_core.image_ops import resize
from csd_core.io.arrays import ArrayClip
from csd_core.method.schedule import step_generator
from tests import models
from tests.conftest import DOWNSCALE, NATIVE_SIZE
from tests.csd_core.io.clips import one_line

PIPELINE_ERROR = 1e-3
"""Largest difference to diffusers' images, in [0, 1]."""
SPLIT_ERROR = 1e-4
CONFIG = SamplingConfig(num_inference_steps=3, negative_prompt="dull", seed=5)
PROMPT = "red"
SIDE = NATIVE_SIZE // DOWNSCALE
STRIDE = 4  # latent pixels, half a window
ALL = {**METHODS, "ip2p-overlap": partial(ip2p_overlap, stride=STRIDE)}

each_method = pytest.mark.parametrize("method", ALL.values(), ids=ALL)
each_scheduler = pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerAncestralDiscreteScheduler"])


def load(folder: Path, scheduler: str = "DDIMScheduler", **options: Any) -> InstructPix2Pix:
    """The model, with its noise schedule in the hands of another scheduler of diffusers."""
    import diffusers

    parts = models.load(folder, **options).pipeline().components
    parts["scheduler"] = getattr(diffusers, scheduler).from_config(parts["scheduler"].config)
    kept = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    return InstructPix2Pix(**{name: parts[name] for name in kept})


def encode(model: InstructPix2Pix, images: Tensor) -> Conditioning:
    return model.encode_condition(images, model.encode(images))


def embed(model: InstructPix2Pix, text: str) -> Tensor:
    nothing = Conditioning(1, image=torch.zeros(1, 4, 8, 8))
    return model.conditioning(Branch(True, text, (1.0,)), nothing).tensors["text"]


def picture(height: int = NATIVE_SIZE, width: int = NATIVE_SIZE, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def by_hand(model: InstructPix2Pix, image: Tensor, config: SamplingConfig, noise: int = 0) -> Tensor:
    """Diffusers' pipeline as it comes, with the noise of window number `noise`."""
    pipeline: Any = model.pipeline()
    return pipeline(
        prompt=PROMPT,
        negative_prompt=config.negative_prompt,
        image=image,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        image_guidance_scale=config.image_guidance_scale,
        generator=step_generator(config.seed, noise),
        output_type="pt",
    ).images


def difference(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return (one - other).abs().max().item()


# Against diffusers' pipeline as it comes


@each_scheduler
@each_method
def test_one_window_is_what_diffusers_makes_of_it(
    tiny_model: Path, method: Callable[..., Tensor], scheduler: str
) -> None:
    model, image = load(tiny_model, scheduler), picture()
    edited = method(model, image, PROMPT, CONFIG)
    assert difference(edited, by_hand(model, image, CONFIG)) < PIPELINE_ERROR
    assert difference(edited, image) > 0.05


def test_without_guidance_it_is_what_diffusers_makes_of_it(tiny_epsilon: Path) -> None:
    model, image, config = load(tiny_epsilon), picture(), replace(CONFIG, guidance_scale=1.0)
    edited = ip2p_overlap(model, image, PROMPT, config, stride=STRIDE)
    assert difference(edited, by_hand(model, image, config)) < PIPELINE_ERROR


def test_resize_edits_the_squeezed_image(tiny_model: Path) -> None:
    model, image = load(tiny_model), picture(45, 70)
    squeezed = by_hand(model, resize(image, (NATIVE_SIZE, NATIVE_SIZE)), CONFIG)
    assert difference(ip2p_resize(model, image, PROMPT, CONFIG), resize(squeezed, (45, 70))) < PIPELINE_ERROR


@each_scheduler
def test_patch_edits_each_window_independently(tiny_model: Path, scheduler: str) -> None:
    model, image = load(tiny_model, scheduler), picture(NATIVE_SIZE + 3, 2 * NATIVE_SIZE + 5)
    expected = torch.full_like(image, torch.nan)
    corners = [(top, left) for top in (0, 3) for left in (0, NATIVE_SIZE, NATIVE_SIZE + 5)]
    for k, (top, left) in enumerate(corners):
        here = (..., slice(top, top + NATIVE_SIZE), slice(left, left + NATIVE_SIZE))
        expected[here] = by_hand(model, image[here], CONFIG, noise=k)
    assert difference(ip2p_patch(model, image, PROMPT, CONFIG), expected) < PIPELINE_ERROR


# Overlapping windows, against a loop of plain Python


def averaged(model: InstructPix2Pix, image: Tensor, config: SamplingConfig, corners: list[Any]) -> Tensor:
    """Denoise a canvas; a latent pixel takes the mean of the guided predictions of the windows over it."""
    side = model.native_size // model.downscale
    scheduler: Any = model.pipeline().scheduler
    unet: Any = model.pipeline().unet
    scheduler.set_timesteps(config.num_inference_steps)
    text, negative = embed(model, PROMPT), embed(model, config.negative_prompt)
    condition = encode(model, image).tensors["image"]
    generator = step_generator(config.seed, 0)
    x = torch.randn(condition.shape, generator=generator) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        total, count = torch.zeros_like(x), torch.zeros_like(x)
        for top, left in corners:
            here = (..., slice(top, top + side), slice(left, left + side))
            x_t, shown = scheduler.scale_model_input(x, t)[here], condition[here]
            total[here] += guided(unet, x_t, t, shown, text, negative, config)
            count[here] += 1
        options = {"generator": generator} if "Ancestral" in type(scheduler).__name__ else {}
        x = scheduler.step(total / count, t, x, **options).prev_sample
    return model.decode(x)


def guided(
    unet: Any, x_t: Tensor, t: Tensor, shown: Tensor, text: Tensor, negative: Tensor, config: SamplingConfig
) -> Tensor:
    """The prediction with both kinds of guidance, one evaluation at a time."""
    blank = torch.zeros_like(shown)
    e_u, e_i, e_it = (
        unet(torch.cat([x_t, image], dim=1), t, encoder_hidden_states=words).sample
        for image, words in ((blank, negative), (shown, negative), (shown, text))
    )
    return e_u + config.image_guidance_scale * (e_i - e_u) + config.guidance_scale * (e_it - e_i)


@each_scheduler
@torch.no_grad()
def test_overlap_averages_in_every_step(tiny_model: Path, scheduler: str) -> None:
    model = load(tiny_model, scheduler)
    image = picture(NATIVE_SIZE + 2 * DOWNSCALE, NATIVE_SIZE + 6 * DOWNSCALE)
    corners = [(top, left) for top in (0, 2) for left in (0, 4, 6)]
    expected = averaged(model, image, CONFIG, corners)
    assert difference(ip2p_overlap(model, image, PROMPT, CONFIG, stride=STRIDE), expected) < PIPELINE_ERROR


def test_overlap_pads_and_crops(tiny_epsilon: Path) -> None:
    model, image = load(tiny_epsilon), picture(NATIVE_SIZE - 1, 2 * NATIVE_SIZE - 3)
    mirrored = torch.cat([image, image[..., -2:-1, :]], dim=-2)
    mirrored = torch.cat([mirrored, mirrored[..., -4:-1].flip(-1)], dim=-1)
    whole = ip2p_overlap(model, mirrored, PROMPT, CONFIG, stride=STRIDE)
    edited = ip2p_overlap(model, image, PROMPT, CONFIG, stride=STRIDE)
    assert torch.equal(edited, whole[..., :-1, :-3])


@each_method
def test_no_large_image_passes_the_vae_untiled(tiny_epsilon: Path, method: Callable[..., Tensor]) -> None:
    model = load(tiny_epsilon)
    vae = model.pipeline().vae
    sides: list[int] = []
    for network, factor in ((vae.encoder, 1), (vae.decoder, DOWNSCALE)):
        network.register_forward_pre_hook(
            lambda _, args, factor=factor: sides.append(max(args[0].shape[-2:]) * factor)
        )
    method(model, picture(NATIVE_SIZE, 5 * NATIVE_SIZE), PROMPT, replace(CONFIG, num_inference_steps=1))
    assert sides
    assert max(sides) <= model.largest_decode < 5 * NATIVE_SIZE


# Frames


@each_scheduler
def test_a_frame_is_what_diffusers_makes_of_it(tiny_model: Path, scheduler: str) -> None:
    model, images = load(tiny_model, scheduler), picture(36, 48, 3)
    edited = ip2p_frames(model, encode(model, images), PROMPT, CONFIG)
    assert edited.shape == (3, 4, 36 // DOWNSCALE, 48 // DOWNSCALE)
    for image, made in zip(images, model.decode(edited), strict=True):
        assert difference(made[None], by_hand(model, image[None], CONFIG)) < PIPELINE_ERROR


def test_a_frame_depends_neither_on_the_others_nor_on_the_chunks(tiny_epsilon: Path) -> None:
    model = load(tiny_epsilon, "EulerAncestralDiscreteScheduler")
    condition = encode(model, picture(16, 20, 5)[torch.tensor([0, 1, 0, 3, 0])])
    whole = ip2p_frames(model, condition, PROMPT, replace(CONFIG, chunk_size=100))
    assert difference(whole[2], whole[0]) < SPLIT_ERROR
    assert difference(whole[1], whole[0]) > 0.01
    batches: list[int] = []
    model.pipeline().unet.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    for chunk_size, calls in ((2, 5 * 2), (7, 3)):
        config, frames = replace(CONFIG, chunk_size=chunk_size), []
        batches.clear()
        with model.count_evaluations() as counted:
            parts = ip2p_frames(model, condition, PROMPT, config, callback=frames.append)
        assert difference(parts, whole) < SPLIT_ERROR
        assert difference(parts[4], parts[0]) < SPLIT_ERROR
        assert (counted.count, frames) == (CONFIG.num_inference_steps * 5 * 3, [0, 1, 2, 3, 4])
        assert max(batches) <= chunk_size
        assert len(batches) == CONFIG.num_inference_steps * calls
    assert difference(ip2p_frames(model, condition, PROMPT, replace(CONFIG, seed=6)), whole) > 0.01


def test_a_video_is_sampled_frame_by_frame(
    tiny_epsilon: Path, capsys: pytest.CaptureFixture[str], encoded: list[int]
) -> None:
    model, frames = load(tiny_epsilon), picture(36, 48, 3).mul(255).byte().permute(0, 2, 3, 1)
    job = VideoEdit(model, ArrayClip(list(frames.numpy())), PROMPT, MethodConfig(), resolution=36)
    with pytest.raises(UserError, match="guidance_scale"):
        sample_video(job, model, replace(CONFIG, guidance_scale=0.5))
    assert encoded == []  # nothing is computed before settings are checked
    sampled = sample_video(job, model, CONFIG, progress=True)
    assert "3/3" in capsys.readouterr().err
    expected = ip2p_frames(model, encode(model, frames.movedim(-1, 1) / 255), PROMPT, CONFIG)
    assert difference(sampled, expected) < SPLIT_ERROR
    assert torch.equal(sample_video(job, model, CONFIG), sampled)
    assert capsys.readouterr().err == ""


# What a result depends on, and what it costs


@each_method
def test_the_result_depends_on_the_seed_and_not_on_the_chunks(
    tiny_epsilon: Path, method: Callable[..., Tensor]
) -> None:
    model, image = load(tiny_epsilon, "EulerAncestralDiscreteScheduler"), picture(34, 50)
    first = method(model, image, PROMPT, CONFIG)
    before = torch.manual_seed(7).get_state()
    assert torch.equal(method(model, image, PROMPT, CONFIG), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert difference(method(model, image, PROMPT, replace(CONFIG, seed=6)), first) > 0.01
    assert difference(method(model, image, PROMPT, replace(CONFIG, chunk_size=5)), first) < SPLIT_ERROR


@pytest.mark.parametrize(("method", "windows"), [("ip2p-resize", 1), ("ip2p-patch", 6), ("ip2p-overlap", 10)])
def test_evaluations_and_calls(tiny_epsilon: Path, method: str, windows: int) -> None:
    model, image = load(tiny_epsilon), picture(NATIVE_SIZE + DOWNSCALE, 3 * NATIVE_SIZE - 2 * DOWNSCALE)
    batches, steps = [], []
    model.pipeline().unet.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    with model.count_evaluations() as counted:
        ALL[method](model, image, PROMPT, replace(CONFIG, chunk_size=4), callback=steps.append)
    assert counted.count == CONFIG.num_inference_steps * windows * 3
    assert max(batches) <= 4
    assert len(batches) == CONFIG.num_inference_steps * -(-windows * 3 // 4)
    assert steps == [0, 1, 2]
    assert model.num_sampling_calls(CONFIG) == 3


def test_number_of_calls_where_a_step_is_evaluated_twice(tiny_epsilon: Path) -> None:
    model, steps = load(tiny_epsilon, "HeunDiscreteScheduler"), []
    ip2p_resize(model, picture(), PROMPT, CONFIG, callback=steps.append)
    assert len(steps) == model.num_sampling_calls(CONFIG) == 2 * CONFIG.num_inference_steps - 1


def test_half_precision_is_the_networks_alone(tiny_epsilon: Path) -> None:
    exact, rounded = (
        ip2p_patch(load(tiny_epsilon, torch_dtype=dtype), picture(34, 50), PROMPT, CONFIG)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert rounded.dtype == torch.float32
    assert 0 < difference(rounded, exact) < 0.1


@torch.no_grad()
def test_latents_of_eight_channels() -> None:
    # diffusers takes them for an image, whose sides it makes multiples of eight
    model = models.load("mini")
    assert model.latent_channels == 8
    image, config = picture(model.native_size, model.native_size + model.downscale), SamplingConfig(1)
    expected = averaged(model, image, config, [(0, 0), (0, 1)])
    assert difference(ip2p_overlap(model, image, PROMPT, config, stride=1), expected) < PIPELINE_ERROR


# Bad input


def test_settings_out_of_range() -> None:
    wrong = {"num_inference_steps": 0, "guidance_scale": math.nan, "image_guidance_scale": 0.9, "seed": -1}
    for name, value in wrong.items():
        assert f"{name}: expected" in one_line(replace(CONFIG, **{name: value}).check)


def test_bad_input_is_reported(tiny_epsilon: Path) -> None:
    model, frames = load(tiny_epsilon), Conditioning(2, image=torch.zeros(2, 4, 8, 8))
    ways: list[Callable[..., Tensor]] = [partial(method, model, picture()) for method in ALL.values()]
    renewed = partial(ip2p_renewed, model, picture(), picture())
    for way in (*ways, partial(ip2p_frames, model, frames), partial(renewed, level=0.5)):
        message = one_line(way, PROMPT, replace(CONFIG, chunk_size=0))
        assert "chunk_size: expected at least 1, or auto, got 0" in message
        message = one_line(way, PROMPT, replace(CONFIG, num_inference_steps=1000))
        assert "num_inference_steps: expected fewer than the model's 1000" in message
        assert "prompt: expected an instruction" in one_line(way, "  ", CONFIG)
    for level in (0.0, 1.5):
        assert "level" in one_line(renewed, PROMPT, CONFIG, level=level)
    for method in ALL.values():
        for image in (picture()[0], picture().repeat(2, 1, 1, 1), picture()[:, :1]):
            assert "image: expected one image" in one_line(method, model, image, PROMPT, CONFIG)
    for method in (ip2p_patch, ALL["ip2p-overlap"]):
        for size in ((NATIVE_SIZE - DOWNSCALE, 50), (50, NATIVE_SIZE - DOWNSCALE)):
            message = one_line(method, model, picture(*size), PROMPT, CONFIG)
            assert "no side shorter than 32 pixels" in message
            assert "enlarge" in message
    for stride in (0, SIDE + 1):
        message = one_line(ip2p_overlap, model, picture(), PROMPT, CONFIG, stride=stride)
        assert "stride: expected 1 to 8" in message


# Renewed views


@torch.no_grad()
def renewed_by_hand(model: InstructPix2Pix, image: Tensor, photo: Tensor, level: float) -> Tensor:
    """The loop of Instruct-NeRF2NeRF's code, for the latents that it takes."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    parts: Any = model.pipeline().components
    scheduler: Any = DDIMScheduler.from_config(parts["scheduler"].config)
    scheduler.register_to_config(num_train_timesteps=round(level * len(scheduler.alphas_cumprod)))
    scheduler.set_timesteps(CONFIG.num_inference_steps)
    condition = encode(model, photo).tensors["image"]
    noise = torch.randn(condition.shape[1:], generator=step_generator(CONFIG.seed, 0))[None]
    latents = scheduler.add_noise(model.encode(image), noise, scheduler.timesteps[0])
    text, negative = embed(model, PROMPT), embed(model, CONFIG.negative_prompt)
    for t in scheduler.timesteps:
        predicted = guided(parts["unet"], latents, t, condition, text, negative, CONFIG)
        latents = scheduler.step(predicted, t, latents).prev_sample
    return model.decode(latents)


@each_scheduler
@pytest.mark.parametrize("level", [0.3, 0.98])
def test_a_renewed_view_is_that_of_instruct_nerf2nerf(tiny_model: Path, scheduler: str, level: float) -> None:
    model = load(tiny_model, scheduler)
    render, photo = picture(), picture().flip(-1)
    got = ip2p_renewed(model, render, photo, PROMPT, CONFIG, level=level)
    assert difference(got, renewed_by_hand(model, render, photo, level)) < PIPELINE_ERROR
    other = ip2p_renewed(model, photo, photo, PROMPT, CONFIG, level=level)
    assert difference(got, other) > 10 * PIPELINE_ERROR  # it depends on where it starts
