"""Fixtures for all tests: tiny InstructPix2Pix models of real diffusers classes, built offline in code."""

import json
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import torch

Prediction = Literal["epsilon", "v_prediction"]

TEXT_TOKENS = 12
NATIVE_SIZE = 32
DOWNSCALE = 4


def build_tokenizer(folder: Path):
    """A CLIPTokenizer, whose tokens are single characters and two merges, and its number of words."""
    from transformers import CLIPTokenizer

    characters = [chr(c) for c in range(ord("!"), ord("~") + 1)]
    merges = ["r e", "re d</w>"]
    words = [
        *characters,
        *(c + "</w>" for c in characters),
        "re",
        "red</w>",
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    paths = str(folder / "vocab.json"), str(folder / "merges.txt")
    return CLIPTokenizer(*paths, model_max_length=TEXT_TOKENS), len(words)


def build_pipeline(work: Path, prediction_type: Prediction):
    """A StableDiffusionInstructPix2PixPipeline with seeded random weights: factor 4, native size 32."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
        StableDiffusionInstructPix2PixPipeline,
    )
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer, vocabulary = build_tokenizer(work)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=NATIVE_SIZE // DOWNSCALE,
            in_channels=8,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=4,
        )
        vae_config: dict[str, Any] = {
            "block_out_channels": (8, 8, 8),
            "norm_num_groups": 4,
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "latent_channels": 4,
            "sample_size": NATIVE_SIZE,
            "scaling_factor": 0.5,  # not 1: a latent scaled where it should not be must show
        }
        vae = AutoencoderKL(**vae_config)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=TEXT_TOKENS,
                bos_token_id=vocabulary - 2,
                eos_token_id=vocabulary - 1,
                pad_token_id=vocabulary - 1,
            )
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
        # as v models come: the scheduler rescales its betas, the config's are not what it uses
        rescale_betas_zero_snr=prediction_type == "v_prediction",
        timestep_spacing="leading",  # leaves out the last timestep, where noise tells nothing of x_0
    )
    parts: dict[str, Any] = {"vae": vae, "unet": unet, "text_encoder": text_encoder, "tokenizer": tokenizer}
    nothing: dict[str, Any] = {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    return StableDiffusionInstructPix2PixPipeline(**parts, scheduler=cast(Any, scheduler), **nothing)


def _save(work: Path, prediction_type: Prediction) -> Path:
    folder = work / prediction_type
    build_pipeline(work, prediction_type).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def tiny_epsilon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny InstructPix2Pix model that predicts epsilon. Do not write into it."""
    return _save(tmp_path_factory.mktemp("tiny_epsilon"), "epsilon")


@pytest.fixture(scope="session")
def tiny_velocity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights, read as v prediction, with zero terminal SNR. Do not write into it."""
    return _save(tmp_path_factory.mktemp("tiny_velocity"), "v_prediction")


@pytest.fixture(params=["epsilon", "v_prediction"])
def tiny_model(request: pytest.FixtureRequest) -> Path:
    """Folder of a tiny InstructPix2Pix model, once for each kind of prediction."""
    return request.getfixturevalue("tiny_epsilon" if request.param == "epsilon" else "tiny_velocity")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches of images that were encoded, as they come."""
    from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix

    sizes: list[int] = []
    encode = InstructPix2Pix.encode

    def counted(self: InstructPix2Pix, images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(InstructPix2Pix, "encode", counted)
    monkeypatch.setattr("csd_core.denoisers.families.check_runs", lambda *_: None)  # it encodes as well
    return sizes
