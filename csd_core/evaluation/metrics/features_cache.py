"""Features of images in a folder, by hash of the image and of the model's identity."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from csd_core.io.files import written_beside


class FeaturesCache:
    """Features of one model; several processes may share the folder."""

    def __init__(self, folder: Path, identity: str) -> None:
        self._folder = folder / hashlib.sha256(identity.encode()).hexdigest()[:16]

    def read(self, picture: np.ndarray) -> Tensor | None:
        """The features (D,) float32 of an image (H, W, 3) uint8; None where there are none."""
        path = self._path(picture)
        return torch.from_numpy(np.load(path, allow_pickle=False)) if path.is_file() else None

    def write(self, picture: np.ndarray, features: Tensor) -> None:
        """Keep the features (D,) of an image."""
        with written_beside(self._path(picture)) as beside:
            np.save(beside, features.numpy())

    def _path(self, picture: np.ndarray) -> Path:
        content = hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).hexdigest()
        return self._folder / f"{content}.npy"
