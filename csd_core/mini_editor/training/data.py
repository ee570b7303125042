"""Batches for the two stages of training. All random choices depend on (seed, step) alone, so that a resumed
run sees the same batches as an uninterrupted one."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor

from csd_core.denoisers.language import FILLER
from csd_core.io.files import written_beside
from csd_core.mini_editor.edits import INSTRUCTIONS, affected_mask, apply_edit
from csd_core.mini_editor.training.sources import random_source

T = TypeVar("T")

NAMES = list(INSTRUCTIONS)
_ATTENTION = {"light": 0.7, "style": 1.2, "local": 1.6, "choice": 1.4}
"""Relative frequency of a kind: hard ones are sampled more often than easy ones."""
_SHARES = np.array([_ATTENTION[instruction.kind] for instruction in INSTRUCTIONS.values()])
_SHARES /= _SHARES.sum()


def rng_for(seed: int, *key: int) -> np.random.Generator:
    """A generator that depends on (seed, *key) alone."""
    return np.random.default_rng(np.random.SeedSequence((seed, *key)))


def map_on_all_cores(make: Callable[[int], T], count: int, chunk: int) -> Iterator[T]:
    """make(0), ... make(count - 1), in this order, `chunk` consecutive ones per task of a process.

    A single chunk is made in this process. `make` is pickled: a function of a module, or a partial of one.
    """
    if count <= chunk:
        yield from map(make, range(count))
        return
    # not forked: a lock that another thread holds at that moment is never released in the copy
    context = multiprocessing.get_context("spawn")
    processes = min(os.cpu_count() or 1, -(-count // chunk))
    with ProcessPoolExecutor(processes, context, torch.set_num_threads, (1,)) as workers:
        yield from workers.map(make, range(count), chunksize=chunk)


def _source(seed: int, size: int, index: int) -> np.ndarray:
    return (random_source(rng_for(seed, 0, index), size) * 255).round().astype(np.uint8)


def source_pool(path: Path, count: int, size: int, seed: int) -> Tensor:
    """`count` source images, (count, 3, size, size) uint8; made once and saved in `path`."""
    if not path.exists():
        images = np.stack(list(map_on_all_cores(partial(_source, seed, size), count, chunk=32)))
        with written_beside(path) as beside, beside.open("wb") as file:
            np.save(file, images)
    return torch.from_numpy(np.load(path)).permute(0, 3, 1, 2)


def random_edit(rng: np.random.Generator, image: Tensor) -> tuple[int, Tensor]:
    """(index into NAMES, edited image); local edits are rarely sampled where no pixel has their colour."""
    while True:
        index = int(rng.choice(len(NAMES), p=_SHARES))
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
    rng = rng_for(seed, 2, index)
    names, images = zip(
        *(random_edit(rng, pool[index].float() / 255) for _ in range(per_source)), strict=True
    )
    return list(names), (torch.stack(images) * 255).round().to(torch.uint8)


def encode(vae: AutoencoderTiny, images: Tensor) -> Tensor:
    """(n, 3, H, W) in [0, 1] -> (n, C, H / 4, W / 4), unscaled."""
    output: Any = vae.encode(images * 2 - 1)
    return output.latents


@torch.no_grad()
def encoded_pairs(path: Path, pool: Tensor, vae: AutoencoderTiny, per_source: int, seed: int) -> Pairs:
    """Edit every source of the pool `per_source` times and encode all; made once and saved in `path`."""
    if not path.exists():

        def code(images: Tensor) -> Tensor:
            return encode(vae, images.to(vae.device).float() / 255).half().cpu()

        names, sources, edits = [], [], []
        made = map_on_all_cores(partial(_edits_of, pool, per_source, seed), len(pool), chunk=16)
        for index, (chosen, edited) in enumerate(made):
            names += chosen
            sources.append(code(pool[index : index + 1]))
            edits.append(code(edited))
        with written_beside(path) as beside:
            torch.save([torch.cat(sources), torch.cat(edits), torch.tensor(names)], beside)
    return Pairs(*torch.load(path, weights_only=True))


def invented_word(rng: np.random.Generator) -> str:
    """A meaningless word of two to four syllables."""
    letters = np.array(["bcdfghjklmnprstvwz", "aeiou"])[np.arange(2 * rng.integers(2, 5)) % 2]
    return "".join(str(rng.choice(list(choices))) for choices in letters)[: rng.integers(3, 9)]


def known_prompt(rng: np.random.Generator, instruction: int) -> str:
    """A wording, sometimes with words shuffled, a filler left out or an unknown word inserted, so that word
    order and unrelated words matter little."""
    words = str(rng.choice(INSTRUCTIONS[NAMES[instruction]].wordings)).split()
    if rng.uniform() < 0.2:
        rng.shuffle(words)
    filler = [k for k, w in enumerate(words) if w in FILLER]
    if filler and rng.uniform() < 0.2:
        words.pop(int(rng.choice(filler)))
    if rng.uniform() < 0.1:
        stray = invented_word(rng) if rng.uniform() < 0.5 else str(rng.choice(sorted(FILLER)))
        words.insert(int(rng.integers(len(words) + 1)), stray)
    return " ".join(words)


_UNKNOWN = (
    *("make it {}", "turn it into a {}", "add {}", "{}", "put a {} on it", "paint it like {}"),
    *("turn {} things green", "turn red things {}", "turn {} things blue", "blue to {}", "turn {} things {}"),
)


def unknown_prompt(rng: np.random.Generator) -> str:
    """A prompt outside the language, phrased like those inside."""
    return str(rng.choice(_UNKNOWN)).format(invented_word(rng), invented_word(rng))


@dataclass
class UNetBatch:
    """One batch of pairs, on the CPU."""

    source: Tensor
    edited: Tensor
    noise: Tensor
    timesteps: Tensor
    prompts: list[str]
    keep_image: Tensor
    """(n,) 0 where the image condition is dropped, otherwise 1."""


def unet_batch(pairs: Pairs, batch: int, crop: int, timesteps: int, seed: int, step: int) -> UNetBatch:
    """Random `crop` x `crop` latents of random pairs.

    Dropped, as InstructPix2Pix was trained (arXiv:2211.09800, section 3.2.1): the text in 5 % of the rows,
    the image in 5 %, both in 5 %. The target is the source in half of the rows that have the image but no
    text, and in 6 % of the rows, whose prompt is unknown.
    """
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
    outside = (drop >= 0.15) & (drop < 0.21)
    unchanged = torch.from_numpy(outside | ((drop >= 0.125) & (drop < 0.15)))
    prompts = [
        unknown_prompt(rng) if out else known_prompt(rng, int(pairs.instruction[r]))
        for r, out in zip(rows, outside, strict=True)
    ]
    return UNetBatch(
        source=source,
        edited=torch.where(unchanged[:, None, None, None], source, edited),
        noise=torch.from_numpy(rng.standard_normal(tuple(edited.shape), dtype=np.float32)),
        timesteps=torch.from_numpy(rng.integers(timesteps, size=batch)),
        prompts=["" if 0.05 <= d < 0.15 else p for p, d in zip(prompts, drop, strict=True)],
        keep_image=torch.from_numpy((drop >= 0.10).astype(np.float32)),
    )
