"""Distances between pictures as networks see them: LPIPS by the lpips package, FID by torchmetrics' network.

Both need weights that no package brings. Nothing is downloaded here: a file is named, or lies where torch hub
keeps it. Pictures are (3, H, W) in [0, 1].
"""

import math
import warnings
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csd_core.errors import UserError, expect

ALEXNET = "alexnet-owt-7be5be79.pth"
"""Trunk of LPIPS, from https://download.pytorch.org/models."""
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
"""Of FID, from https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0."""
LEAST_SIDE = 32
"""Of a picture for LPIPS, in pixels: of less AlexNet leaves nothing."""
_FEATURES = 2048


class Lpips:
    """LPIPS of AlexNet, version 0.1 (arXiv:1801.03924): 0 for equal pictures, about 0.7 for unrelated ones.

    Lower is more alike. Tables 1 to 4 and 9 of the paper, between consecutive frames.
    """

    def __init__(self, network: Any, batch_size: int = 8) -> None:
        self._network, self._batch_size = network, batch_size

    @classmethod
    def from_pretrained(
        cls, *, trunk: Path | None = None, device: str | None = None, batch_size: int = 8
    ) -> "Lpips":
        """The network.

        Args:
            trunk: torchvision's weights of AlexNet. Default: ALEXNET among torch hub's checkpoints.
            device: cpu, cuda. None: CUDA where there is one.
            batch_size: pairs at a time.

        Raises:
            UserError: the weights are missing, or others.
        """
        import lpips

        from csd_core.denoisers.loading import resolve_device

        expect(batch_size >= 1, "batch-size", "at least 1", batch_size)
        where = resolve_device(device)
        path = _weights(trunk, ALEXNET, "--lpips-weights", "https://download.pytorch.org/models")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips calls torchvision the old way
            network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        state = _read(path)
        names = {name: f"features.{name.split('.', 1)[1]}" for name, _ in network.net.named_parameters()}
        try:
            network.net.load_state_dict({name: state[stored] for name, stored in names.items()})
        except (KeyError, RuntimeError) as error:
            raise UserError(f"{path}: expected torchvision's AlexNet, got other weights: {error}") from error
        return cls(network.to(where).requires_grad_(False), batch_size)

    @torch.no_grad()
    def distances(self, a: Tensor, b: Tensor) -> Tensor:
        """Of pairs of pictures, row by row.

        Args:
            a, b: (N, 3, H, W) in [0, 1], H and W at least LEAST_SIDE.

        Returns:
            (N,) float32 on the CPU.

        Raises:
            UserError: shapes that do not fit.
        """
        expect(a.shape == b.shape, "pictures", "pairs of one size", f"{tuple(a.shape)}, {tuple(b.shape)}")
        good = a.ndim == 4 and min(a.shape[2:]) >= LEAST_SIDE
        expect(good, "pictures", f"at least {LEAST_SIDE} x {LEAST_SIDE} pixels for LPIPS", tuple(a.shape))
        device = next(self._network.parameters()).device
        pairs = zip(a.split(self._batch_size), b.split(self._batch_size), strict=True)
        return torch.cat(
            [self._network(x.to(device), y.to(device), normalize=True).flatten().cpu() for x, y in pairs]
        )

    def consecutive(self, frames: Iterable[Tensor]) -> Tensor:
        """Of each frame and the next, of one size: (N - 1,) float32. A batch of frames is held at a time."""
        near = pairwise(frames)
        found = [torch.zeros(0)]
        while batch := list(islice(near, self._batch_size)):
            first, second = zip(*batch, strict=True)
            sizes = {tuple(frame.shape) for frame in (*first, *second)}
            expect(len(sizes) == 1, "frames", "one size", sorted(sizes))
            found.append(self.distances(torch.stack(first), torch.stack(second)))
        return torch.cat(found)


class Inception:
    """FID (arXiv:1706.08500), with torchmetrics' Inception: 0 for equal sets, lower is more alike.

    Pictures are scaled to 299 x 299 with antialiasing, as torchmetrics does; torch-fidelity scales without,
    so values of the two differ.
    """

    def __init__(self, network: Any, batch_size: int = 8) -> None:
        self._network, self._batch_size = network, batch_size

    @classmethod
    def from_pretrained(
        cls, *, weights: Path | None = None, device: str | None = None, batch_size: int = 8
    ) -> "Inception":
        """The network.

        Args:
            weights: torch-fidelity's file. Default: INCEPTION among torch hub's checkpoints.
            device: cpu, cuda. None: CUDA where there is one.
            batch_size: pictures at a time.

        Raises:
            UserError: the weights are missing, or others.
        """
        from csd_core.denoisers.loading import resolve_device

        expect(batch_size >= 1, "batch-size", "at least 1", batch_size)
        where = resolve_device(device)
        source = "https://github.com/toshas/torch-fidelity/releases"
        path = _weights(weights, INCEPTION, "--inception-weights", source)
        _read(path)  # torch-fidelity reads it again, and would unpickle anything
        from torchmetrics.image.fid import NoTrainInceptionV3

        try:
            network = NoTrainInceptionV3("inception-v3-compat", [str(_FEATURES)], str(path))
        except (KeyError, RuntimeError) as error:
            first = str(error).splitlines()[0]
            raise UserError(f"{path}: expected Inception for FID, got other weights: {first}") from error
        return cls(network.to(where), batch_size)

    @torch.no_grad()
    def features(self, images: Iterable[Tensor]) -> Tensor:
        """(N, 2048) of pictures (3, H, W) in [0, 1] of any sizes."""
        device = next(self._network.parameters()).device
        rows = [torch.zeros(0, _FEATURES)]
        for batch in _batches(images, self._batch_size):
            levels = batch.clamp(0, 1).mul(255).round().byte()
            rows.append(self._network(levels.to(device)).float().cpu())
        return torch.cat(rows)

    def fid(self, real: Iterable[Tensor], edited: Iterable[Tensor]) -> float:
        """Frechet distance of the features of two sets of pictures, of two or more each."""
        return frechet_distance(self.features(real), self.features(edited))


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Distance of two sets of features, taken for normal: at least 0, lower is more alike.

        |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))
    with mean m and covariance C of n - 1 degrees of freedom (arXiv:1706.08500, Eq. 6), in float64. With fewer
    pictures than dimensions it is biased, and of a few dozen it says little.

    Args:
        a: (N, D), N at least 2.
        b: (M, D), M at least 2.
    """
    for name, features in (("real", a), ("edited", b)):
        expect(len(features) >= 2, f"{name} pictures", "at least 2 for FID", len(features))
    first, second = a.double(), b.double()
    apart = (first.mean(dim=0) - second.mean(dim=0)).square().sum()
    # of the product of the covariances the roots of the eigenvalues are the singular values of the cross term
    x, y = (f - f.mean(dim=0) for f in (first, second))
    shared = torch.linalg.svdvals(x @ y.T).sum() / math.sqrt((len(x) - 1) * (len(y) - 1))
    spread = x.square().sum() / (len(x) - 1) + y.square().sum() / (len(y) - 1)
    return max(0.0, float(apart + spread - 2 * shared))


def _batches(images: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Batches (n, 3, H, W), of pictures of one size each."""
    waiting: list[Tensor] = []
    for image in images:
        if waiting and (len(waiting) == size or image.shape != waiting[0].shape):
            yield torch.stack(waiting)
            waiting = []
        waiting.append(image)
    if waiting:
        yield torch.stack(waiting)


def _weights(given: Path | None, name: str, flag: str, source: str) -> Path:
    """A file of weights that is there."""
    path = given or Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        raise UserError(
            f"the network's weights are missing: put {name} from {source} at {path}, or name it with {flag}"
        )
    return path


def _read(path: Path) -> dict[str, Tensor]:
    """A state dict, unpickled as tensors alone."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle and zip have many ways to say that it is none
        first = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path}: expected a file of weights, got something else: {first[:120]}") from error
