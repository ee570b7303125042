"""Small generated images in files, and a tiny open_clip model with random weights in a folder."""

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


CLIP_CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.4],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}


def tiny_clip(path: Path, seed: int = 0, **model: Any) -> Path:
    """A folder in the layout of open_clip's hub, with random weights. model: changes of the config."""
    import open_clip
    from safetensors.torch import save_file

    config = {**CLIP_CONFIG, "model_cfg": {**CLIP_CONFIG["model_cfg"], **model}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: Any = open_clip.CLIP(**config["model_cfg"])
        for block in (network.visual.class_embedding, network.visual.proj, network.text_projection):
            block.data.normal_()  # with the initial values the features of all images are nearly equal
    path.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), path / "open_clip_model.safetensors")
    (path / "open_clip_config.json").write_text(json.dumps(config))
    return path
