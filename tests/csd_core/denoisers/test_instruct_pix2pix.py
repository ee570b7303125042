import shutil
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import skimage.data
import torch
from torch import Tensor

from csd_core import presets
from csd_core.denoisers.base import Branch, Conditioning
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.denoisers.runtime.batching import evaluator
from csd_core.denoisers.runtime.device import default_dtype
from csd_core.denoisers.runtime.vae import WRAP, Autoencoder, around_the_ends
from csd_core.engine.config import EditConfig
from csd_core.engine.loop import edit_latents
from csd_core.method.guidance import instruct_pix2pix
from tests.conftest import DOWNSCALE, NATIVE_SIZE, TEXT_TOKENS
from tests.models import load

PIPELINE_ERROR = 1e-3
"""Largest difference to diffusers' images, in [0, 1]."""
SPLIT_ERROR = 1e-5
GUIDANCE, IMAGE_GUIDANCE = 7.5, 1.5


def images(n: int = 1, height: int = NATIVE_SIZE, width: int = NATIVE_SIZE) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def given(model: InstructPix2Pix, image: Tensor, *texts: str) -> Conditioning:
    """Conditioning of the rows of `image` (n, C, h, w), each with its text, or all with one."""
    rows = [
        model.conditioning(Branch(True, text, ()), Conditioning(1, image=image[k : k + 1]))
        for k, text in enumerate(texts if len(texts) > 1 else texts * len(image))
    ]
    return Conditioning.cat(rows)


@pytest.fixture
def copy(tiny_epsilon: Path, tmp_path: Path) -> Path:
    """A model folder to be damaged."""
    return Path(shutil.copytree(tiny_epsilon, tmp_path / "model"))


def sample_with_ddim(
    model: InstructPix2Pix, scheduler: Any, image: Tensor, prompt: str, noise: Tensor, steps: int
) -> Tensor:
    """InstructPix2Pix's sampler by our adapter and guidance; DDIM from the predicted noise alone."""
    condition = model.encode_condition(image, model.encode(image))
    branches = Branch(False, "", ()), Branch(True, "", ()), Branch(True, prompt, ())
    conditioning = Conditioning.cat([model.conditioning(branch, condition) for branch in branches])
    scheduler.set_timesteps(steps)
    stride = scheduler.config.num_train_timesteps // steps
    x = noise
    for timestep in scheduler.timesteps.tolist():
        t = torch.full((3,), float(timestep))
        eps_u, eps_i, eps_it = model.predict_noise(x.expand(3, -1, -1, -1), t, conditioning).split(1)
        eps = instruct_pix2pix(eps_u, eps_i, eps_it, GUIDANCE, IMAGE_GUIDANCE)
        alpha, sigma = model.schedule.alpha(t[:1]), model.schedule.sigma(t[:1])
        previous = timestep - stride
        # before the first timestep: set_alpha_to_one is off, the schedule's first entry stands for "clean"
        last = torch.tensor([max(previous, 0.0)])
        x0 = (x - sigma * eps) / alpha
        x = model.schedule.alpha(last) * x0 + model.schedule.sigma(last) * eps
    return model.decode(x)


@pytest.mark.parametrize("size", [(NATIVE_SIZE, NATIVE_SIZE), (NATIVE_SIZE, 2 * NATIVE_SIZE)])
def test_reproduces_the_pipeline_of_diffusers(tiny_model: Path, size: tuple[int, int]) -> None:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
        StableDiffusionInstructPix2PixPipeline,
    )

    pipeline: Any = StableDiffusionInstructPix2PixPipeline.from_pretrained(str(tiny_model))
    pipeline.set_progress_bar_config(disable=True)
    image, steps, prompt = images(1, *size), 10, "make it red"
    noise = torch.randn(
        1, 4, size[0] // DOWNSCALE, size[1] // DOWNSCALE, generator=torch.Generator().manual_seed(3)
    )
    theirs = pipeline(
        prompt,
        image=image,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        image_guidance_scale=IMAGE_GUIDANCE,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
    ).images
    ours = sample_with_ddim(load(tiny_model), pipeline.scheduler, image, prompt, noise, steps)
    assert ours.std() > 0.01  # not a constant, which would agree by itself
    torch.testing.assert_close(ours, theirs, rtol=0, atol=PIPELINE_ERROR)


def test_sizes_are_read_from_the_model(tiny_epsilon: Path) -> None:
    model = load(tiny_epsilon)
    assert (model.downscale, model.native_size, model.latent_channels) == (DOWNSCALE, NATIVE_SIZE, 4)
    assert model.encode(images(2, 32, 48)).shape == (2, 4, 8, 12)
    assert model.decode(torch.zeros(2, 4, 8, 12)).shape == (2, 3, 32, 48)
    text = given(model, torch.zeros(3, 4, 8, 8), "a", "", "b").tensors["text"]
    assert text.shape == (3, TEXT_TOKENS, 16)
    assert not isinstance(model, torch.nn.Module)


def test_noisy_latents_are_scaled_and_the_condition_is_not(tiny_epsilon: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    vae: Any = AutoencoderKL.from_pretrained(str(tiny_epsilon / "vae"))
    with torch.no_grad():
        mode = vae.encode(images() * 2 - 1).latent_dist.mode()
    model = load(tiny_epsilon)
    latents = model.encode(images())
    torch.testing.assert_close(latents, mode * 0.5)  # scaling_factor of the fixture
    torch.testing.assert_close(model.encode_condition(images(), latents).tensors["image"], mode)
    with torch.no_grad():
        decoded = vae.decode(mode).sample / 2 + 0.5
    torch.testing.assert_close(model.decode(model.encode(images())), decoded.clamp(0, 1))


def test_velocity_models_return_noise(tiny_epsilon: Path, tiny_velocity: Path) -> None:
    plain, velocity = load(tiny_epsilon), load(tiny_velocity)
    x_t, t = (
        torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0.0, 500, 999]),
    )
    conditioning = given(plain, torch.zeros(3, 4, 8, 8), "red")
    # the same weights: what one calls noise the other calls velocity
    v = plain.predict_noise(x_t, t, conditioning)
    alpha, sigma = (f(t).view(3, 1, 1, 1) for f in (velocity.schedule.alpha, velocity.schedule.sigma))
    torch.testing.assert_close(velocity.predict_noise(x_t, t, conditioning), alpha * v + sigma * x_t)


def test_the_schedule_is_the_one_the_scheduler_ends_up_with(tiny_epsilon: Path, tiny_velocity: Path) -> None:
    last = torch.tensor([999.0])
    assert load(tiny_velocity).schedule.alpha(last).item() < 1e-3  # zero terminal SNR
    assert load(tiny_epsilon).schedule.alpha(last).item() == pytest.approx(0.0683, abs=1e-3)


@pytest.mark.parametrize("chunk_size", [1, 2, 5])
def test_batches_may_be_split(tiny_model: Path, chunk_size: int) -> None:
    model = load(tiny_model)
    generator = torch.Generator().manual_seed(0)
    x_t, image = torch.randn(2, 5, 4, 8, 8, generator=generator)
    t, conditioning = (
        torch.tensor([1.0, 100, 200, 500, 900]),
        given(model, image, "red", "", "blue", "a", "b"),
    )
    whole = model.predict_noise(x_t, t, conditioning)
    split = evaluator(model, chunk_size)(x_t, t, conditioning)
    torch.testing.assert_close(split, whole, rtol=0, atol=SPLIT_ERROR)


def test_each_prompt_is_embedded_once(tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(tiny_epsilon)
    embedded: list[str] = []
    original = model._encode_text
    monkeypatch.setattr(model, "_encode_text", lambda prompt: (embedded.append(prompt), original(prompt))[1])
    image = torch.zeros(3, 4, 8, 8)
    first = given(model, image, "red", "blue", "red").tensors["text"]
    assert torch.equal(given(model, image[:2], "blue", "red").tensors["text"], first[[1, 0]])
    assert embedded == ["red", "blue"]
    assert not torch.equal(first[0], first[1])


def test_a_prompt_longer_than_the_encoder_reads_is_reported(
    tiny_epsilon: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, image = load(tiny_epsilon), torch.zeros(1, 4, 8, 8)
    given(model, image, "abcdefghij")  # start, 10 letters, end: just fits
    with pytest.warns(UserWarning, match="cut after 10 tokens: 'abcdefghijk'"):
        given(model, image, "abcdefghijk")
    assert caplog.text == ""  # transformers would say it again


def test_a_model_with_a_small_language_answers_a_foreign_prompt(copy: Path) -> None:
    (copy / "language.json").write_text('{"red": ["red"]}')
    model = load(copy)
    assert model.presets is presets.MINI
    source = torch.zeros(1, 4, 8, 8)
    edit = partial(edit_latents, model, source, source, Conditioning(1, image=source))
    edit("RED", EditConfig(num_steps=1))  # understood: warnings are errors
    edit("RED", EditConfig(num_steps=1, baseline="prompt", source_prompt="a cat"))  # no instruction
    with pytest.warns(UserWarning, match="not taught 'a cat'.*it knows: red"):
        edit("a cat", EditConfig(num_steps=1))


def test_half_precision_leaves_the_vae_in_float32(tiny_epsilon: Path) -> None:
    model = load(tiny_epsilon, torch_dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert model._text_encoder.dtype == torch.bfloat16
    assert model.vae.network.dtype == torch.float32
    x = torch.zeros(1, 4, 8, 8)
    assert model.predict_noise(x, torch.tensor([3.0]), given(model, x, "red")).dtype == torch.float32
    torch.testing.assert_close(model.encode(images()), load(tiny_epsilon).encode(images()))


def test_weights_stored_in_half_precision_are_loaded_as_asked(copy: Path) -> None:
    from transformers import CLIPTextModel

    text_encoder = CLIPTextModel.from_pretrained(str(copy / "text_encoder"), dtype=torch.float16)
    text_encoder.save_pretrained(str(copy / "text_encoder"))
    assert load(copy)._text_encoder.dtype == torch.float32


class Seen:
    """Shapes of what the VAE's two networks were given."""

    def __init__(self, model: InstructPix2Pix) -> None:
        self.encoder: list[tuple[int, ...]] = []
        self.decoder: list[tuple[int, ...]] = []
        for network, shapes in (
            (model.vae.network.encoder, self.encoder),
            (model.vae.network.decoder, self.decoder),
        ):
            network.register_forward_pre_hook(lambda _, args, shapes=shapes: shapes.append(args[0].shape))


@pytest.fixture(params=["AutoencoderKL", "AutoencoderTiny"])
def any_vae(request: pytest.FixtureRequest, copy: Path) -> Path:
    """A model folder, once with each kind of VAE."""
    if request.param == "AutoencoderTiny":
        save_tiny_vae(copy)
    return copy


def save_tiny_vae(folder: Path) -> Any:
    """Put an untrained AutoencoderTiny in place of a model's VAE."""
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    channels: Any = (8,) * 3  # diffusers annotates tuples as having one element
    torch.manual_seed(0)
    vae: Any = AutoencoderTiny(
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        num_encoder_blocks=cast(Any, (0, 1, 1)),
        num_decoder_blocks=cast(Any, (1, 1, 0)),
        scaling_factor=0.5,
    )
    vae.save_pretrained(folder / "vae")
    return vae


def passes(network: Any) -> int:
    """How often a tile passes a network: once for each of its norms, and to be computed."""
    return 1 + sum(isinstance(part, torch.nn.GroupNorm) for part in network.modules())


def test_large_images_pass_the_vae_one_tile_of_one_image_at_a_time(any_vae: Path) -> None:
    model, large = load(any_vae), images(2, 36, 3 * NATIVE_SIZE)
    seen = Seen(model)
    latents = model.encode(large)
    assert latents.shape == (2, 4, 9, 24)
    assert model.decode(latents).shape == large.shape
    # tiles of 48 pixels begin at 0, 24 and 48, in each of two images
    assert seen.encoder == [(1, 3, 36, 48)] * 6 * passes(model.vae.network.encoder)
    assert seen.decoder == [(1, 4, 9, 12)] * 6 * passes(model.vae.network.decoder)


def test_images_up_to_a_limit_pass_the_vae_whole(any_vae: Path) -> None:
    model, image = load(any_vae), images(2, 2 * NATIVE_SIZE, 60)
    seen = Seen(model)
    latents = model.encode(image)
    model.decode(latents)
    assert (seen.encoder, seen.decoder) == ([(2, 3, 64, 60)], [(2, 4, 16, 15)])
    model.vae.tile_above -= 1
    model.decode(model.encode(image))
    tiled = [
        1 + 2 * 4 * passes(network) for network in (model.vae.network.encoder, model.vae.network.decoder)
    ]
    assert [len(seen.encoder), len(seen.decoder)] == tiled


def test_an_odd_size_of_tile_is_rounded_down(any_vae: Path) -> None:
    model = load(any_vae)
    model.vae.tile_above, model.vae.tile_size, model.vae.tile_overlap = 32, 27, 9
    seen = Seen(model)
    latents = model.encode(images(1, 40, 40))
    assert model.decode(latents).shape == (1, 3, 40, 40)
    assert {shape[-2:] for shape in seen.encoder} == {(24, 24)}
    assert {shape[-2:] for shape in seen.decoder} == {(6, 6)}


def test_tiling_of_diffusers_is_switched_off(tiny_epsilon: Path) -> None:
    vae = load(tiny_epsilon).vae.network
    vae.enable_tiling()
    assert not Autoencoder(vae, NATIVE_SIZE).network.use_tiling


def test_a_tiny_vae_is_read_and_scaled(copy: Path) -> None:
    vae = save_tiny_vae(copy)
    model, image = load(copy), images(1, NATIVE_SIZE, NATIVE_SIZE)
    latents = model.vae.encode(image)
    with torch.no_grad():
        torch.testing.assert_close(latents, vae.encode(image * 2 - 1).latents)
        whole = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(model.encode(image), 0.5 * latents)
    torch.testing.assert_close(model.decode(0.5 * latents), whole)
    assert whole.std() > 1e-3


# The small editor that ships: a trained VAE on photographs


@pytest.fixture(scope="module")
def mini() -> InstructPix2Pix:
    return load("mini")


@pytest.fixture(params=["astronaut", "coffee"])
def photograph(request: pytest.FixtureRequest) -> Tensor:
    """(1, 3, 200, 480) in [0, 1]; the files are part of scikit-image."""
    pixels = torch.from_numpy(getattr(skimage.data, request.param)())[100:300, :480]
    return pixels.permute(2, 0, 1)[None] / 255


def test_tiles_of_a_photograph_show_no_seams(
    mini: InstructPix2Pix, photograph: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(mini)
    latents = mini.encode(photograph)
    tiled = mini.decode(latents)
    assert (len(seen.encoder), len(seen.decoder)) == (8, 8)
    monkeypatch.setattr(mini.vae, "tile_above", 480)
    torch.testing.assert_close(latents, mini.encode(photograph), rtol=0, atol=1e-5)
    whole = mini.decode(latents)
    assert (len(seen.encoder), len(seen.decoder)) == (9, 9)
    assert (tiled - whole).abs().mean() < 1e-4 / 255
    assert (tiled - whole).abs().max() < 0.01 / 255
    # a step from column to column is a seam, if it is larger than the image's own
    step, own = (image.diff(dim=-1).abs().mean(dim=(0, 1, 2)) for image in (tiled, whole))
    assert (step - own).max() < 1e-3 / 255


@pytest.mark.parametrize(("tile_above", "error"), [(999, 1e-5), (256, 0.01 / 255)])
def test_rolling_a_photograph_around_the_ends_rolls_latents_and_image(
    mini: InstructPix2Pix, photograph: Tensor, tile_above: int, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mini.vae, "tile_above", tile_above)
    factor, image = mini.downscale, photograph[..., :64, :240]

    def encode(x: Tensor) -> Tensor:
        return mini.encode(around_the_ends(x, WRAP * factor))[..., WRAP:-WRAP]

    def decode(x: Tensor) -> Tensor:
        return mini.decode(around_the_ends(x, WRAP))[..., WRAP * factor : -WRAP * factor]

    latents, shown = encode(image), decode(encode(image))
    for columns in (1, 17, 40):
        rolled = encode(image.roll(columns * factor, -1))
        torch.testing.assert_close(rolled, latents.roll(columns, -1), rtol=0, atol=1e-5)
        torch.testing.assert_close(decode(rolled), shown.roll(columns * factor, -1), rtol=0, atol=error)


# Speed: the form in which the network gets its inputs.


class Inputs:
    """What the UNet was called with."""

    def __init__(self, model: InstructPix2Pix) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

        def keep(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.calls.append((args[0], args[1], kwargs["encoder_hidden_states"]))

        model._unet.register_forward_pre_hook(keep, with_kwargs=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_network_and_its_inputs_lie_in_memory_as_convolutions_compute(
    tiny_epsilon: Path, dtype: torch.dtype
) -> None:
    model = load(tiny_epsilon, torch_dtype=dtype)
    weights = [p for p in model._unet.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[-1] > 1]
    assert len(weights) > 10
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    seen, x = Inputs(model), torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    conditioning = model.conditioning(Branch(False, "red", ()), Conditioning(3, image=x))
    predicted = model.predict_noise(x, torch.full((), 7.0).expand(3), conditioning)
    ((sample, t, text),) = seen.calls
    assert sample.is_contiguous(memory_format=torch.channels_last)
    assert not sample.is_contiguous()
    assert sample.dtype == text.dtype == dtype
    assert t.is_contiguous()
    assert text.is_contiguous()
    assert predicted.dtype == torch.float32
    assert predicted.is_contiguous()  # what the engine adds up lies as its canvas does


def test_attention_is_torchs_own(tiny_epsilon: Path) -> None:
    from diffusers.models.attention_processor import AttnProcessor2_0

    processors = load(tiny_epsilon)._unet.attn_processors
    assert len(processors) > 0
    assert all(type(processor) is AttnProcessor2_0 for processor in processors.values())  # SDPA


def test_text_is_cast_once_and_properties_walk_no_parameters(
    tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(tiny_epsilon, torch_dtype=torch.bfloat16)
    model._text_encoder.to(torch.float32)
    x = torch.zeros(1, 4, 8, 8)
    assert given(model, x, "red").tensors["text"].dtype == torch.bfloat16
    assert given(model, x, "red").tensors["text"].dtype == torch.bfloat16

    def walk(_: Any) -> Any:
        raise AssertionError("asked diffusers for a property")

    monkeypatch.setattr(type(model._unet), "dtype", property(walk))
    monkeypatch.setattr(type(model._unet), "device", property(walk))
    assert (model.dtype, model.device) == (torch.bfloat16, torch.device("cpu"))


def test_velocity_is_turned_into_noise_in_single_precision(tiny_velocity: Path) -> None:
    model = load(tiny_velocity, torch_dtype=torch.bfloat16)
    x, t = (
        1 + torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 1e-3,
        torch.tensor([600.0]),
    )
    zero = torch.zeros(1, 4, 8, 8)
    monkey: Any = model._unet
    monkey.forward = lambda sample, *_, **__: (torch.zeros_like(sample[:, :4]),)  # v = 0: eps = sigma x_t
    eps = model.predict_noise(x[:1], t, given(model, zero, "red"))
    torch.testing.assert_close(eps, model.schedule.sigma(t) * x[:1])  # bfloat16 would give 1 for all of x


def test_the_default_precision_is_that_of_the_device(tiny_epsilon: Path) -> None:
    assert load(tiny_epsilon, torch_dtype="auto").dtype == default_dtype(torch.device("cpu"))
