"""Small drawn pictures in files, and a tiny open_clip model with random weights in a folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

SIDE = 64
CAPTIONS = ("a photo", "a photo at night")


def pictures(count: int, seed: int = 0, size: tuple[int, int] = (SIDE, SIDE)) -> list[np.ndarray]:
    """Smooth pictures (H, W, 3) uint8, each the one before moved by 2 pixels to the left."""
    height, width = size
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, (width + 2 * count) // 8 + 2, 3))
    wide = np.asarray(
        Image.fromarray(noise.astype(np.uint8)).resize((noise.shape[1] * 8, noise.shape[0] * 8))
    )
    return [wide[:height, 2 * k : 2 * k + width] for k in range(count)]


def darker(several: Sequence[np.ndarray]) -> list[np.ndarray]:
    """An edit that differs from picture to picture."""
    factors = (np.array([0.4, 0.5, 0.6 + 0.02 * (k % 3)]) for k in range(len(several)))
    return [(picture * factor).astype(np.uint8) for picture, factor in zip(several, factors, strict=True)]


def folder(path: Path, several: Sequence[np.ndarray]) -> Path:
    """Pictures as 0.png, 1.png ..."""
    path.mkdir(parents=True)
    for k, picture in enumerate(several):
        Image.fromarray(picture).save(path / f"{k}.png")
    return path


def image(path: Path, picture: np.ndarray) -> Path:
    Image.fromarray(picture).save(path)
    return path


def tensors(several: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """(3, H, W) in [0, 1] each."""
    return [torch.from_numpy(picture.copy()).permute(2, 0, 1) / 255 for picture in several]


def tiny_clip(path: Path) -> Path:
    """A folder in the layout of open_clip's hub: pictures of 32 x 32, 16 features."""
    import open_clip
    from safetensors.torch import save_file

    config: dict[str, Any] = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = open_clip.CLIP(**config)
        for block in (model.visual.class_embedding, model.visual.proj, model.text_projection):
            block.data.normal_()  # as made, all pictures would be nearly the same to it
    path.mkdir(parents=True)
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()},
        path / "open_clip_model.safetensors",
    )
    preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    (path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    )
    return path
