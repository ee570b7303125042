"""Train the scorer, a small CLIP of the mini editor's world:
`python -m csd_core.mini_editor.training.scorer_train --output FOLDER`.

It embeds pictures and captions (captions.py) in one space, for the measures of evaluation.metrics.clip
without a download. Each step takes some sources with the edits of all instructions and classifies: the
caption of a picture; the pair of captions of a change of pictures, and the change of a pair, among all edits
of one source; the source of an edit. FOLDER/model is the result, in open_clip's layout; a killed run
continues from its checkpoint.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from csd_core.mini_editor.captions import PLAIN, known_words, states, wordings
from csd_core.mini_editor.edits import INSTRUCTIONS, affected_mask, apply_edit
from csd_core.mini_editor.training.data import NAMES, invented_word, map_on_all_cores, rng_for, source_pool
from csd_core.mini_editor.training.train import Stage, StageConfig

POOL_SIZE = 192
"""Pixels of the side of a source."""
LEAST_AFFECTED = 0.01
"""Local edits of a smaller share of the pixels do not count as visible."""
TEMPERATURE = 0.07

MODEL: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 96, "layers": [1, 1, 1, 1], "width": 24, "head_width": 64},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
"""open_clip's modified ResNet and a small transformer."""
PREPROCESS: dict[str, Any] = {
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],  # pictures stay in [0, 1]; the network starts with a norm
    "interpolation": "bilinear",
    "resize_mode": "squash",
}


@dataclass
class ScorerConfig:
    """How the scorer is trained."""

    output: Path
    """Folder for the pool, checkpoints, curves and the finished model."""
    stage: StageConfig = field(
        default_factory=lambda: StageConfig(steps=1600, batch=6, learning_rate=1.5e-3, ema=0.99)
    )
    """How the network is optimised; batch counts sources."""
    sources: int = 1000
    """Number of source images."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """cpu, cuda."""
    seed: int = 0
    """Seed of all random choices."""


def build_scorer() -> nn.Module:
    """The scorer, untrained. The embeddings of words that are in no caption are and stay zero."""
    import open_clip

    model: Any = open_clip.CLIP(**MODEL)
    known = torch.zeros(MODEL["text_cfg"]["vocab_size"], 1)
    tokens = tokenize([text for several in wordings().values() for text in several])
    known[tokens.flatten().unique()] = 1
    known[0] = 0  # padding
    model.token_embedding.weight.data *= known
    model.token_embedding.weight.register_hook(lambda gradient: gradient * known.to(gradient.device))
    return model


def tokenize(texts: list[str]) -> Tensor:
    """(n, context_length)."""
    import open_clip

    return open_clip.SimpleTokenizer(context_length=MODEL["text_cfg"]["context_length"])(texts)


# Data ---------------------------------------------------------------------------------------------


def _edits(pool: Tensor, seed: int, index: int) -> tuple[np.ndarray, list[str], list[bool]]:
    """All edits (13, 3, H, W) uint8 of a source, their outcomes, and whether they are visible."""
    rng, source = rng_for(seed, 5, index), pool[index].float() / 255
    images, outcomes, visible = [], [], []
    for name, instruction in INSTRUCTIONS.items():
        outcomes.append(str(rng.choice(instruction.outcomes)))
        images.append((apply_edit(name, source, outcomes[-1]) * 255).round().byte().numpy())
        visible.append(float(affected_mask(name, source).float().mean()) >= LEAST_AFFECTED)
    return np.stack(images), outcomes, visible


@dataclass
class EditPool:
    """Sources with the edits of all instructions."""

    sources: Tensor
    """(S, 3, H, W) uint8."""
    edits: np.ndarray
    """(S, 13, 3, H, W) uint8, on disk."""
    outcomes: list[list[str]]
    """(S, 13)."""
    visible: Tensor
    """(S, 13) bool: whether the edit changes enough pixels."""


def edit_pool(folder: Path, count: int, seed: int) -> EditPool:
    """Made once and saved in `folder`."""
    sources = source_pool(folder / "sources.npy", count, POOL_SIZE, seed + 100)
    table, kept = folder / "edits.json", folder / "edits.npy"
    if not table.exists():
        shape = (count, len(NAMES), 3, POOL_SIZE, POOL_SIZE)
        edits = np.lib.format.open_memmap(kept, "w+", np.uint8, shape)
        outcomes, visible = [], []
        made = map_on_all_cores(partial(_edits, sources, seed), count, chunk=16)
        for index, (images, chosen, seen) in enumerate(made):
            edits[index] = images
            outcomes.append(chosen)
            visible.append(seen)
        edits.flush()
        table.write_text(json.dumps({"outcomes": outcomes, "visible": visible}))
    read = json.loads(table.read_text())
    return EditPool(sources, np.load(kept, mmap_mode="r"), read["outcomes"], torch.tensor(read["visible"]))


@dataclass
class ScorerBatch:
    """Sources and all their edits, with the same crop."""

    sources: Tensor
    """(n, 3, h, w) in [0, 1]."""
    edits: Tensor
    """(n, 13, 3, h, w) in [0, 1]."""
    before: list[list[str]]
    """(n, 13) states before."""
    after: list[list[str]]
    """(n, 13) states after."""
    visible: Tensor
    """(n, 13) bool."""
    captions: dict[str, str]
    """State -> its caption in this step."""


def scorer_batch(pool: EditPool, count: int, seed: int, step: int) -> ScorerBatch:
    """Random sources, each with its own crop; edits of random strength, some blurred."""
    rng = rng_for(seed, 6, step)
    picked = rng.choice(len(pool.sources), count, replace=False)
    side = MODEL["vision_cfg"]["image_size"]
    groups = []
    for index in picked:
        whole = torch.cat([pool.sources[index][None], torch.from_numpy(np.array(pool.edits[index]))])
        groups.append(_crop(rng, whole, side))
    images = torch.stack(groups)
    sources, edits = images[:, 0], images[:, 1:]
    strength = torch.from_numpy(rng.uniform(0.6, 1.05, (count, len(NAMES), 1, 1, 1)).astype(np.float32))
    edits = (sources[:, None] + strength * (edits - sources[:, None])).clamp(0, 1)
    blurred = torch.from_numpy(rng.uniform(size=(count, len(NAMES))) < 0.3)
    small = F.avg_pool2d(edits[blurred], 2)
    edits[blurred] = F.interpolate(small, (side, side), mode="bilinear")
    with_outcome = bool(rng.uniform() < 0.5)
    pairs = [
        [states(n, o, with_outcome=with_outcome) for n, o in zip(NAMES, pool.outcomes[index], strict=True)]
        for index in picked
    ]
    return ScorerBatch(
        sources,
        edits,
        [[before for before, _ in row] for row in pairs],
        [[after for _, after in row] for row in pairs],
        pool.visible[picked],
        {state: _caption(rng, several) for state, several in wordings().items()},
    )


def _crop(rng: np.random.Generator, images: Tensor, side: int) -> Tensor:
    """The same crop of all images (n, 3, H, W) uint8, resized to `side` pixels, half of them mirrored."""
    length = int(rng.integers(side * 2 // 3, images.shape[-1] + 1))
    y, x = rng.integers(0, images.shape[-1] - length + 1, 2)
    crop = images[..., y : y + length, x : x + length].float() / 255
    if rng.uniform() < 0.5:
        crop = crop.flip(-1)
    return F.interpolate(crop, (side, side), mode="bilinear", antialias=True)


def _caption(rng: np.random.Generator, several: tuple[str, ...]) -> str:
    """One wording, sometimes with an unknown word, which has no effect."""
    words = str(rng.choice(several)).split()
    if rng.uniform() < 0.25:
        words[int(rng.integers(len(words) + 1)) : 0] = ["of", "a", invented_word(rng)]
    return " ".join(words)


# Loss ---------------------------------------------------------------------------------------------


def scorer_loss(model: Any, batch: ScorerBatch) -> Tensor:
    """Captions, directions and sources; each a cross entropy over cosines at TEMPERATURE."""
    tokens = tokenize(list(batch.captions.values()))
    device = next(model.parameters()).device
    texts = dict(zip(batch.captions, model.encode_text(tokens.to(device), normalize=True), strict=True))
    count, kinds = batch.edits.shape[:2]
    images = torch.cat([batch.sources, batch.edits.flatten(0, 1)]).to(device)
    features = model.encode_image(images, normalize=True)
    sources, edits = features[:count], features[count:].unflatten(0, (count, kinds))
    return (
        _caption_loss(sources, edits, texts, batch)
        + _direction_loss(sources, edits, texts, batch)
        + 0.3 * _source_loss(sources, edits)
    )


def _caption_loss(sources: Tensor, edits: Tensor, texts: Mapping[str, Tensor], batch: ScorerBatch) -> Tensor:
    """Which of the states of this step a picture shows; an edit that is not visible shows the plain one."""
    states_of_edits = [
        after if visible else PLAIN
        for row in zip(batch.after, batch.visible.tolist(), strict=True)
        for after, visible in zip(*row, strict=True)
    ]
    shown = [PLAIN] * len(sources) + states_of_edits
    present = sorted(set(shown))
    logits = torch.cat([sources, edits.flatten(0, 1)]) @ torch.stack([texts[s] for s in present]).T
    right = torch.tensor([present.index(state) for state in shown], device=logits.device)
    return F.cross_entropy(logits / TEMPERATURE, right)


def _direction_loss(
    sources: Tensor, edits: Tensor, texts: Mapping[str, Tensor], batch: ScorerBatch
) -> Tensor:
    """Among all edits of a source: which captions fit a change, and which change fits the captions."""
    visible = batch.visible.to(edits.device)
    changes = F.normalize(edits - sources[:, None], dim=-1, eps=1e-4)
    directions = torch.stack(
        [
            torch.stack([texts[a] - texts[b] for b, a in zip(*row, strict=True)])
            for row in zip(batch.before, batch.after, strict=True)
        ]
    )
    logits = changes @ F.normalize(directions, dim=-1, eps=1e-4).mT / TEMPERATURE  # (n, edit, captions)
    hidden = torch.where(visible, 0.0, -1e4)
    right = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
    captions = F.cross_entropy((logits + hidden[:, None]).mT, right, reduction="none")
    edited = F.cross_entropy((logits + hidden[..., None]), right, reduction="none")
    return (captions[visible].mean() + edited[visible].mean()) / 2


def _source_loss(sources: Tensor, edits: Tensor) -> Tensor:
    """Which source an edit was made of."""
    logits = edits.flatten(0, 1) @ sources.T / TEMPERATURE
    right = torch.arange(len(sources), device=logits.device).repeat_interleave(edits.shape[1])
    return F.cross_entropy(logits, right)


# Training -----------------------------------------------------------------------------------------


def save_scorer(folder: Path, model: nn.Module) -> None:
    """Save in the layout of open_clip's hub folders, in half precision, with the list of known words."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous().cpu() for k, v in state.items()}, folder / "open_clip_model.safetensors")
    config = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "words.json").write_text(json.dumps(known_words()) + "\n")


def main(config: ScorerConfig) -> None:
    """Train, or continue, and save the model."""
    config.output.mkdir(parents=True, exist_ok=True)
    pool = edit_pool(config.output, config.sources, config.seed)
    torch.manual_seed(config.seed)
    stage = Stage("scorer", build_scorer(), config.stage, config)

    def loss_at(step: int) -> Tensor:
        return scorer_loss(stage.module, scorer_batch(pool, config.stage.batch, config.seed, step))

    stage.train(loss_at, lambda step: save_scorer(config.output / "model", stage.average))


if __name__ == "__main__":
    main(tyro.cli(ScorerConfig))
