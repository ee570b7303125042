"""Distances between images by networks: LPIPS by the lpips package, FID by torchmetrics.

Both need weights that no package includes. Nothing is downloaded here: a file is named, or lies where torch
hub keeps it. Images are (3, H, W) in [0, 1].
"""

import warnings
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csd_core.denoisers.runtime.device import resolve_device
from csd_core.errors import UserError, expect

ALEXNET = "alexnet-owt-7be5be79.pth"
"""Trunk of LPIPS, from https://download.pytorch.org/models."""
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
"""Of FID, from https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0."""
LEAST_SIDE = 32
"""Least side of an image for LPIPS, in pixels: AlexNet needs it."""


class Lpips:
    """LPIPS of AlexNet, version 0.1 (arXiv:1801.03924): 0 for equal images, about 0.7 for unrelated ones.

    Lower is more similar. Tables 1 to 4 and 9 of the paper, between consecutive frames.
    """

    def __init__(self, network: Any, batch_size: int = 8) -> None:
        self._network, self._batch_size = network, batch_size

    @classmethod
    def from_pretrained(
        cls, *, trunk: Path | None = None, device: str | None = None, batch_size: int = 8
    ) -> "Lpips":
        """Load the network from `trunk`, torchvision's AlexNet (default: ALEXNET in torch hub's folder).

        Raises:
            UserError: the weights are missing, or of another network.
        """
        import lpips

        path = _weights(trunk, ALEXNET, "--lpips-weights", "https://download.pytorch.org/models")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips uses an old interface of torchvision
            network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        state = _read(path)
        names = {name: f"features.{name.split('.', 1)[1]}" for name, _ in network.net.named_parameters()}
        try:
            network.net.load_state_dict({name: state[stored] for name, stored in names.items()})
        except (KeyError, RuntimeError) as error:
            raise UserError(f"{path}: expected torchvision's AlexNet, got other weights: {error}") from error
        return cls(network.to(resolve_device(device)).requires_grad_(False), batch_size)

    @torch.no_grad()
    def distances(self, a: Tensor, b: Tensor) -> Tensor:
        """LPIPS of pairs of images (N, 3, H, W) in [0, 1], row by row: (N,) float32 on the CPU.

        Raises:
            UserError: H or W is less than LEAST_SIDE.
        """
        large = min(a.shape[2:]) >= LEAST_SIDE
        expect(large, "images", f"at least {LEAST_SIDE} x {LEAST_SIDE} pixels for LPIPS", tuple(a.shape))
        device = next(self._network.parameters()).device
        pairs = zip(a.split(self._batch_size), b.split(self._batch_size), strict=True)
        return torch.cat(
            [self._network(x.to(device), y.to(device), normalize=True).flatten().cpu() for x, y in pairs]
        )

    def consecutive(self, frames: Iterable[Tensor]) -> Tensor:
        """LPIPS of each frame and the next: (N - 1,) float32. A batch of frames is held at a time.

        Raises:
            UserError: the frames are too small, or of several sizes.
        """
        remaining = pairwise(frames)
        found = [torch.zeros(0)]
        while batch := list(islice(remaining, self._batch_size)):
            first, second = zip(*batch, strict=True)
            sizes = {tuple(frame.shape) for frame in (*first, *second)}
            expect(len(sizes) == 1, "frames", "one size", sorted(sizes))
            found.append(self.distances(torch.stack(first), torch.stack(second)))
        return torch.cat(found)


class Inception:
    """FID (arXiv:1706.08500) of torchmetrics: 0 for equal sets, lower is more similar.

    Images are scaled to 299 x 299 with antialiasing; torch-fidelity scales without, so values of the two
    differ. With fewer images than the 2048 features FID is biased: a few dozen images are too few.
    """

    def __init__(self, metric: Any, batch_size: int = 8) -> None:
        self._metric, self._batch_size = metric, batch_size

    @classmethod
    def from_pretrained(
        cls, *, weights: Path | None = None, device: str | None = None, batch_size: int = 8
    ) -> "Inception":
        """Load the network from torch-fidelity's file (default: INCEPTION in torch hub's folder).

        Raises:
            UserError: the weights are missing, or of another network.
        """
        from torchmetrics.image.fid import FrechetInceptionDistance

        source = "https://github.com/toshas/torch-fidelity/releases"
        path = _weights(weights, INCEPTION, "--inception-weights", source)
        _read(path)  # torch-fidelity reads it again, and would unpickle anything
        try:
            metric = FrechetInceptionDistance(feature_extractor_weights_path=str(path))
        except (KeyError, RuntimeError) as error:
            first = str(error).splitlines()[0]
            raise UserError(f"{path}: expected Inception for FID, got other weights: {first}") from error
        return cls(metric.to(resolve_device(device)), batch_size)

    @torch.no_grad()
    def fid(self, real: Iterable[Tensor], edited: Iterable[Tensor]) -> float:
        """FID of two sets of images (3, H, W) of any sizes.

        Raises:
            UserError: a set has fewer than 2 images.
        """
        self._metric.reset()
        for name, images in (("real", real), ("edited", edited)):
            count = 0
            for batch in _batches(images, self._batch_size):
                levels = batch.clamp(0, 1).mul(255).round().byte()
                self._metric.update(levels.to(self._metric.device), real=name == "real")
                count += len(batch)
            expect(count >= 2, f"{name} images", "at least 2 for FID", count)
        return max(0.0, float(self._metric.compute()))


def _batches(images: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Batches (n, 3, H, W), each of images of one size."""
    waiting: list[Tensor] = []
    for image in images:
        if waiting and (len(waiting) == size or image.shape != waiting[0].shape):
            yield torch.stack(waiting)
            waiting = []
        waiting.append(image)
    if waiting:
        yield torch.stack(waiting)


def _weights(given: Path | None, name: str, flag: str, source: str) -> Path:
    """The file of weights, checked to exist."""
    path = given or Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        raise UserError(
            f"the network's weights are missing: put {name} from {source} at {path}, or name it with {flag}"
        )
    return path


def _read(path: Path) -> dict[str, Tensor]:
    """A state dict, read with weights_only."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle and zip raise many types
        first = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path}: expected a file of weights, got something else: {first[:120]}") from error
