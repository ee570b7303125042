"""Batches for the two stages of training. Everything drawn depends on (seed, step) alone, so a resumed run
sees the batches that an uninterrupted one would have seen."""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from csd_core.mini_editor.edits import INSTRUCTIONS, affected_mask, apply_edit
from csd_core.mini_editor.sources import draw_source

NAMES = list(INSTRUCTIONS)


def rng_for(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence((seed, *key)))


def _draw(seed: int, size: int, index: int) -> np.ndarray:
    return (draw_source(rng_for(seed, 0, index), size) * 255).round().astype(np.uint8)


def source_pool(path: Path, count: int, size: int, seed: int) -> Tensor:
    """`count` source images, (count, 3, size, size) uint8; drawn once and kept in `path`."""
    if not path.exists():
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            images = list(pool.map(partial(_draw, seed, size), range(count), chunksize=32))
        _save_array(path, np.stack(images))
    return torch.from_numpy(np.load(path)).permute(0, 3, 1, 2)


def _save_array(path: Path, array: np.ndarray) -> None:
    unfinished = path.with_suffix(".part.npy")
    np.save(unfinished, array)
    unfinished.replace(path)


def random_edit(rng: np.random.Generator, image: Tensor) -> tuple[int, Tensor]:
    """(index into NAMES, edited image); a local edit is mostly drawn where it has something to do."""
    while True:
        index = int(rng.integers(len(NAMES)))
        instruction = INSTRUCTIONS[NAMES[index]]
        idle = instruction.kind == "local" and affected_mask(instruction.name, image).float().mean() < 0.02
        if not idle or rng.uniform() < 0.15:
            return index, apply_edit(instruction.name, image, str(rng.choice(instruction.outcomes)))


def vae_batch(pool: Tensor, batch: int, crop: int, seed: int, step: int) -> Tensor:
    """Crops of sources and of edited sources, half and half: (batch, 3, crop, crop) in [0, 1]."""
    rng = rng_for(seed, 1, step)
    images = []
    for k in range(batch):
        y, x = rng.integers(0, pool.shape[-1] - crop + 1, 2)
        image = pool[rng.integers(len(pool)), :, y : y + crop, x : x + crop].float() / 255
        images.append(random_edit(rng, image)[1] if k % 2 else image)
    return torch.stack(images)


@dataclass
class Pairs:
    """Encoded training pairs. Latents are half precision and unscaled."""

    source: Tensor
    """(S, C, h, w) latents of the sources."""
    edited: Tensor
    """(S * E, C, h, w) latents of E edits of each source, in order."""
    instruction: Tensor
    """(S * E,) index into NAMES."""


def _edits_of(pool: Tensor, per_source: int, seed: int, index: int) -> tuple[list[int], Tensor]:
    torch.set_num_threads(1)
    rng = rng_for(seed, 2, index)
    names, images = zip(
        *(random_edit(rng, pool[index].float() / 255) for _ in range(per_source)), strict=True
    )
    return list(names), (torch.stack(images) * 255).round().to(torch.uint8)


@torch.no_grad()
def encoded_pairs(path: Path, pool: Tensor, vae: AutoencoderKL, per_source: int, seed: int) -> Pairs:
    """Edit every source of the pool `per_source` times and encode all; kept in `path`."""
    if not path.exists():

        def encode(images: Tensor) -> Tensor:
            pixels = images.to(vae.device).float() / 127.5 - 1
            return vae.encode(pixels).latent_dist.mode().half().cpu()  # type: ignore[union-attr]

        names, sources, edits = [], [], []
        with ProcessPoolExecutor(os.cpu_count()) as workers:
            drawn = workers.map(partial(_edits_of, pool, per_source, seed), range(len(pool)), chunksize=16)
            for index, (chosen, edited) in enumerate(drawn):
                names += chosen
                sources.append(encode(pool[index : index + 1]))
                edits.append(encode(edited))
        unfinished = path.with_suffix(".part")
        torch.save([torch.cat(sources), torch.cat(edits), torch.tensor(names)], unfinished)
        unfinished.replace(path)
    return Pairs(*torch.load(path, weights_only=True))


def word(rng: np.random.Generator, instruction: int) -> str:
    """A wording; now and then with words shuffled or one left out, so that order and filler matter little."""
    words = str(rng.choice(INSTRUCTIONS[NAMES[instruction]].wordings)).split()
    if rng.uniform() < 0.2:
        rng.shuffle(words)
    filler = [
        k for k, w in enumerate(words) if w in {"it", "a", "an", "the", "make", "turn", "into", "as", "in"}
    ]
    if filler and rng.uniform() < 0.2:
        words.pop(int(rng.choice(filler)))
    return " ".join(words)


@dataclass
class UNetBatch:
    """One batch of pairs, all drawn on the CPU."""

    source: Tensor
    edited: Tensor
    noise: Tensor
    timesteps: Tensor
    prompts: list[str]
    keep_image: Tensor
    """(n,) 0 where the image condition is dropped."""


def unet_batch(pairs: Pairs, batch: int, crop: int, timesteps: int, seed: int, step: int) -> UNetBatch:
    """Random `crop` x `crop` latents of random pairs. Dropped, as InstructPix2Pix was trained
    (arXiv:2211.09800, section 3.2.1): the text in 5 % of the rows, the image in 5 %, both in 5 %."""
    rng = rng_for(seed, 3, step)
    per_source = len(pairs.edited) // len(pairs.source)
    rows = rng.integers(len(pairs.edited), size=batch)
    corners = rng.integers(0, pairs.source.shape[-1] - crop + 1, (batch, 2))

    def cut(latents: Tensor, index: int, corner: np.ndarray) -> Tensor:
        y, x = corner
        return latents[index, :, y : y + crop, x : x + crop].float()

    edited = torch.stack([cut(pairs.edited, int(r), c) for r, c in zip(rows, corners, strict=True)])
    source = torch.stack(
        [cut(pairs.source, int(r) // per_source, c) for r, c in zip(rows, corners, strict=True)]
    )
    drop = rng.uniform(size=batch)
    prompts = [word(rng, int(pairs.instruction[r])) for r in rows]
    return UNetBatch(
        source=source,
        edited=edited,
        noise=torch.from_numpy(rng.standard_normal(tuple(edited.shape), dtype=np.float32)),
        timesteps=torch.from_numpy(rng.integers(timesteps, size=batch)),
        prompts=["" if 0.05 <= d < 0.15 else p for p, d in zip(prompts, drop, strict=True)],
        keep_image=torch.from_numpy((drop >= 0.10).astype(np.float32)),
    )
