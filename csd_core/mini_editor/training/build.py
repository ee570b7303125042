"""The parts of the mini editor, untrained, and the diffusers folder they are saved to.

The VAE's factor is 4 (8 loses too much of a 128 px image). The instruction enters the UNet twice: pooled,
as scale and shift of every residual block (`addition_embed_type="text"`), and by cross attention at the two
lower resolutions. The highest resolution has no attention, which keeps large images cheap.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise, product
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
    StableDiffusionInstructPix2PixPipeline,
)
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from csd_core.denoisers.language import LANGUAGE_FILE
from csd_core.mini_editor.edits import INSTRUCTIONS

NATIVE_SIZE = 128
"""Pixels of the side of an image."""
DOWNSCALE = 4
"""Pixels per latent pixel."""
LATENT_CHANNELS = 8
"""With 4, one of the two directions of an edge is lost (README.md, "What was tried")."""
_PATCH_VALUES = 3 * DOWNSCALE**2
TEXT_WIDTH = 96
TEXT_TOKENS = 16


def build_vae() -> AutoencoderTiny:
    """0.5 M parameters. The encoder has no activations, so that it is linear (`set_encoder`); the decoder has
    neither attention nor norms over the image, so that a tile decodes as it does in the whole image."""
    # a dict: diffusers annotates these tuples as having one element
    config: dict[str, Any] = {
        "encoder_block_out_channels": (_PATCH_VALUES,) * 3,
        "num_encoder_blocks": (0, 0, 0),
        "decoder_block_out_channels": (48,) * 3,
        "num_decoder_blocks": (4, 3, 0),
        "latent_channels": LATENT_CHANNELS,
    }
    return AutoencoderTiny(**config)


def set_encoder(vae: AutoencoderTiny, directions: Tensor, offset: Tensor) -> None:
    """Set the encoder's weights to the linear map `latents = patch @ directions + offset`.

    Two convolutions of stride 2 gather each patch into channels, and the last one mixes them.

    Args:
        vae: from `build_vae`.
        directions: (3 * 4 * 4, C), for patches in the order of `torch.nn.functional.unfold`, in [0, 1].
        offset: (C,).
    """
    first, *gather, last = cast(Iterable[nn.Conv2d], vae.encoder.layers)
    mixing = directions.T.unflatten(1, (3, 2, 2, 2, 2))  # (C, rgb, y halves, y, x halves, x)
    with torch.no_grad():
        for parameter in vae.encoder.parameters():
            parameter.zero_()
        first.weight[:3, :, 1, 1] = torch.eye(3)
        for conv, count in zip(gather, (3, 12), strict=True):
            for k, (dy, dx) in enumerate(product((1, 2), (1, 2))):
                conv.weight[count * k : count * (k + 1), :count, dy, dx] = torch.eye(count)
        last.weight[:, :, 1, 1] = mixing.permute(0, 2, 4, 3, 5, 1).flatten(1)
        last.bias.copy_(offset)  # type: ignore[union-attr]


def build_unet() -> UNet2DConditionModel:
    """5.9 M parameters: noisy latents and the image condition in, velocity out."""
    return UNet2DConditionModel(
        sample_size=NATIVE_SIZE // DOWNSCALE,
        in_channels=2 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
        norm_num_groups=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
    )


def build_scheduler() -> DDIMScheduler:
    """Velocity and zero terminal SNR (arXiv 2305.08891): without them dark edits come out grey."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
END_OF_WORD = "</w>"


def byte_pair_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Merges that make each word one token (arXiv:1508.07909): most frequent pair first, ties by spelling.

    The trainer of the tokenizers package breaks ties at random, so its vocabulary changes from run to run.
    """
    pieces = [[*word[:-1], word[-1] + END_OF_WORD] for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for word in pieces for pair in pairwise(word)):
        first, second = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append((first, second))
        for word in pieces:
            for k in range(len(word) - 2, -1, -1):
                if word[k : k + 2] == [first, second]:
                    word[k : k + 2] = [first + second]
    return merges


def build_tokenizer() -> CLIPTokenizer:
    """CLIP's byte-pair tokenizer on our wordings: a known word is one token, others are several pieces."""
    words = {
        word for i in INSTRUCTIONS.values() for text in (*i.wordings, *i.unseen) for word in text.split()
    }
    merges = byte_pair_merges(words)
    letters = [*LETTERS, *(letter + END_OF_WORD for letter in LETTERS)]
    pieces = dict.fromkeys(
        [*letters, *("".join(pair) for pair in merges), "<|startoftext|>", "<|endoftext|>"]
    )
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merge_file = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary.write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
        merge_file.write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]))
        return CLIPTokenizer(str(vocabulary), str(merge_file), model_max_length=TEXT_TOKENS)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """0.2 M parameters, two layers."""
    special: dict[str, Any] = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_TOKENS,
            **special,
        )
    )


def assemble(
    vae: AutoencoderTiny,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
) -> StableDiffusionInstructPix2PixPipeline:
    """The parts as one pipeline."""
    parts: dict[str, Any] = {
        "vae": vae,
        "unet": unet,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "scheduler": build_scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    return StableDiffusionInstructPix2PixPipeline(**parts)


def save_pipeline(folder: Path, pipeline: StableDiffusionInstructPix2PixPipeline) -> None:
    """Write the diffusers folder, with the UNet in half precision."""
    pipeline.unet.half()
    pipeline.save_pretrained(folder, safe_serialization=True)
    vae_config = folder / "vae" / "config.json"
    settings = json.loads(vae_config.read_text())
    del settings["block_out_channels"]  # diffusers computes it, and warns if it is in the file
    vae_config.write_text(json.dumps(settings, indent=2) + "\n")
    wordings = {name: list(instruction.wordings) for name, instruction in INSTRUCTIONS.items()}
    (folder / LANGUAGE_FILE).write_text(json.dumps(wordings, indent=1) + "\n")
