"""Overlapping windows of one canvas: how a panorama becomes particles (Sec. 3.3, appendix B.1).

    windows   squares of side `window`, `stride` apart, the last one flush with the edge
    c         how many windows cover a pixel of the canvas: fewer near borders, one in a corner

In a step B windows are sampled; a pixel moves by the mean over those that cover it, or not at all. A corner
is sampled c times less often than the middle, which the published code leaves so (artefacts, appendix E).
Here its step is longer by as much: every pixel has the same expected total step. Lengths are latent pixels.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from csd_core.errors import expect


def axis_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side: 0, stride, 2 stride ..., the last flush with the edge.

    Raises:
        UserError: the stride is 0 or leaves gaps, or the side is shorter than a window.
    """
    expect(1 <= stride <= window, "stride", f"1 to {window} latent pixels, the side of a window", stride)
    expect(length >= window, "canvas", f"sides of at least {window} latent pixels, a window", length)
    last = length - window
    return [*range(0, last, stride), last]


def ring_starts(length: int, window: int, stride: int, origin: int = 0) -> list[int]:
    """Where windows begin around a ring, evenly and at most stride apart, counted from origin.

    Raises:
        UserError: as axis_starts.
    """
    axis_starts(length, window, stride)
    count = math.ceil(length / stride)
    return [(origin + round(k * length / count)) % length for k in range(count)]


def split_sizes(num_particles: int, batch_size: int) -> list[int]:
    """Sizes of the batches in which all particles are sampled once; they differ by one at most."""
    batches = math.ceil(num_particles / batch_size)
    return [num_particles // batches + (k < num_particles % batches) for k in range(batches)]


def expected_updates(covering: Tensor, num_particles: int, batch_size: int) -> Tensor:
    """How many batches, of those that draw each particle once, are expected to reach a pixel.

    A batch of b misses a pixel under c of N windows with probability (N - c over b) / (N over b).

    Args:
        covering: (...), integers c.
        num_particles: N.
        batch_size: particles in a batch at most.
    """
    table = torch.zeros(int(covering.max()) + 1)
    for c in range(1, len(table)):
        for size, batches in Counter(split_sizes(num_particles, batch_size)).items():
            missed = math.comb(num_particles - c, size) / math.comb(num_particles, size)
            table[c] += batches * (1 - missed)
    return table[covering]


class Windows:
    """The layout (see layout.py) of windows of one canvas (1, C, height, width).

    Args:
        height, width: of the canvas.
        window: side of a window.
        stride: from one window to the next.
        batch_size: particles sampled in a step, which sets how often a pixel moves.
        wrap: left and right are neighbours.
        origin: wrap: the column where the first window begins.
        moves: (height, width) in [0, 1], by how much each pixel may move; default all fully.
        needed: (height, width); windows in which it is 0 are left out. Default: none is.
        reweight_borders: every pixel has the same expected total step. Off: as in the published code.
        fade: pixels over which a window's step fades out towards its edges, but not at those of the canvas.
            0: not at all, as in the published code.

    Raises:
        UserError: the stride is 0 or leaves gaps, or the canvas is smaller than a window.
    """

    def __init__(
        self,
        height: int,
        width: int,
        window: int,
        stride: int,
        *,
        batch_size: int,
        wrap: bool = False,
        origin: int = 0,
        moves: Tensor | None = None,
        needed: Tensor | None = None,
        reweight_borders: bool = True,
        fade: int = 0,
    ) -> None:
        self.height, self.width, self.window = height, width, window
        self.wrap, self._fade = wrap, fade
        rows = axis_starts(height, window, stride)
        columns = ring_starts(width, window, stride, origin) if wrap else axis_starts(width, window, stride)
        self.corners = [(top, left) for top in rows for left in columns]
        if needed is not None:
            self.corners = [corner for corner in self.corners if self._any(needed, corner)]
        expect(len(self.corners) > 0, "mask", "something that may change", "nothing")
        covering, strength = torch.zeros(height, width, dtype=torch.long), torch.zeros(height, width)
        for corner in self.corners:
            for here, there in self._pieces(corner):
                covering[here] += 1
                strength[here] += self._faded(corner)[there]
        updates = expected_updates(covering, self.num_particles, batch_size)
        self.updates_per_round = float(updates.max())
        """In how many steps of a round (each window once) a pixel in the middle moves, in the mean."""
        self.steps_per_round = len(split_sizes(self.num_particles, batch_size))
        """Steps until every window was sampled once."""
        # which of its windows moves a pixel is a matter of chance: in the mean they fade as the mean of them
        expected = updates * strength / covering.clamp(min=1)
        weight = self.updates_per_round / expected.clamp(min=1e-9) if reweight_borders else 1.0
        self._weight = torch.where(covering > 0, weight, 0.0)
        if moves is not None:
            self._weight = self._weight * moves.cpu()
        self._count = torch.zeros(height, width)

    @property
    def num_particles(self) -> int:
        """N."""
        return len(self.corners)

    def updates(self, num_steps: int) -> float:
        """In how many of the steps a pixel in the middle is expected to move."""
        return num_steps * self.updates_per_round / self.steps_per_round

    def gather(self, canvas: Tensor, particles: Sequence[int]) -> Tensor:
        """See Layout: windows of maps; what belongs to the whole image, for each of them."""
        if canvas.ndim != 4:
            return canvas.expand(len(particles), *canvas.shape[1:])
        return torch.cat([self.view(canvas, particle) for particle in particles])

    def view(self, canvas: Tensor, particle: int) -> Tensor:
        """Window number `particle` of a canvas (..., height k, width k) with k pixels per latent pixel."""
        k = canvas.shape[-1] // self.width
        pieces = [
            canvas[..., rows.start * k : rows.stop * k, columns.start * k : columns.stop * k]
            for (rows, columns), _ in self._pieces(self.corners[particle])
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)

    def descend(self, canvas: Tensor, steps: Tensor, particles: Sequence[int]) -> None:
        """See Layout. The time it takes depends on the windows, not on the size of the canvas."""
        weight, count = self._tables(canvas)
        pieces = [(k, *piece) for k, p in enumerate(particles) for piece in self._pieces(self.corners[p])]
        for _, here, _ in pieces:
            count[here] += 1
        for k, here, there in pieces:
            faded = self._faded(self.corners[particles[k]]).to(steps)
            canvas[0, :, *here] -= steps[k][:, *there] * (faded[there] * weight[here] / count[here])
        for _, here, _ in pieces:
            count[here] = 0

    def _faded(self, corner: tuple[int, int]) -> Tensor:
        """Weights of a window's step, (window, window): 1, except towards edges inside the canvas."""
        top, left = corner
        rows = _trapezoid(self.window, self._fade, top > 0, top + self.window < self.height)
        across = left + self.window < self.width
        columns = _trapezoid(self.window, self._fade, left > 0 or self.wrap, across or self.wrap)
        return rows[:, None] * columns

    def _tables(self, canvas: Tensor) -> tuple[Tensor, Tensor]:
        self._weight, self._count = self._weight.to(canvas.device), self._count.to(canvas.device)
        return self._weight, self._count

    def _any(self, needed: Tensor, corner: tuple[int, int]) -> bool:
        return any(bool(needed[here].any()) for here, _ in self._pieces(corner))

    def _pieces(self, corner: tuple[int, int]) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
        """Slices of the canvas, and of the window: one pair, or two where the window crosses the wrap."""
        top, left = corner
        rows, inside = slice(top, top + self.window), slice(0, self.window)
        first = min(self.window, self.width - left)
        yield (rows, slice(left, left + first)), (inside, slice(0, first))
        if first < self.window:
            yield (rows, slice(0, self.window - first)), (inside, slice(first, self.window))


@cache
def _trapezoid(length: int, fade: int, rises: bool, falls: bool) -> Tensor:
    """(length,): 1, except over the first and last `fade` pixels, where it rises and falls."""
    ramp = ((torch.arange(length) + 0.5) / max(fade, 0.5)).clamp(max=1)
    return (ramp if rises else torch.ones(length)) * (ramp.flip(0) if falls else torch.ones(length))
