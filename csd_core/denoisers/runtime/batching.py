"""The one place where a batch is split to fit into memory."""

import gc
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from csd_core.denoisers.base import ChunkSize, Conditioning, Denoiser, check_chunk_size
from csd_core.denoisers.runtime.memory import PeakMemory, free_bytes, used_bytes
from csd_core.errors import UserError

Rows = Tensor | Conditioning

USUAL = 16
"""Images at a time where auto would cost more than it gains."""
PROBES = (1, 4)
"""Rows of the two calls by which auto learns what a row takes."""
MARGIN = 0.15
"""Share of the free memory that auto leaves free: allocators leave gaps, and others use the device too."""


def at_a_time(chunk_size: ChunkSize) -> int:
    """How many images pass through memory together."""
    return USUAL if chunk_size == "auto" else min(chunk_size, sys.maxsize)


def in_chunks(function: Callable[..., Tensor], chunk_size: ChunkSize, *tensors: Rows) -> Tensor:
    """function(*tensors) computed in parts, see Chunks; every tensor has the same number of rows."""
    return Chunks(function, at_a_time(chunk_size))(*tensors)


def evaluator(denoiser: Denoiser, chunk_size: ChunkSize, *, fullest: int | None = None) -> "Chunks":
    """denoiser.predict_noise of any number of rows, for one edit: see Chunks.

    fullest: the most rows that the edit will ask for at once. Default: those of the first call.
    """
    return Chunks(
        denoiser.predict_noise,
        chunk_size,
        device=denoiser.device,
        fullest=fullest,
        one_size=denoiser.compiled,  # another size would be compiled again
    )


class Chunks:
    """A function of n independent rows, computed a part at a time. The parts are as even as can be.

    What does not fit is halved, and stays halved for the calls that follow; the result is the same.

    Args:
        function: takes tensors or conditionings of n rows each, a tensor first; returns n rows.
        chunk_size: rows at a time. auto: as many as fit, by the memory that the first PROBES take.
        device: whose memory auto looks at. Default: that of the tensors.
        fullest: the most rows of a call to come. Default: those of the first.
        one_size: function is always called with the same number of rows, an even part of the fullest; where
            there are fewer, the last row is repeated, and its result is dropped.

    Attributes:
        limit: rows at a time at most; None while auto does not know.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        chunk_size: ChunkSize,
        *,
        device: torch.device | None = None,
        fullest: int | None = None,
        one_size: bool = False,
    ) -> None:
        check_chunk_size(chunk_size)
        self._function, self._device, self._one_size = function, device, one_size
        self._fullest = fullest
        self.limit: int | None = None if chunk_size == "auto" else chunk_size
        self._peaks: list[float] = []
        self._too_many: int | None = None

    def __call__(self, *tensors: Rows) -> Tensor:
        """function(*tensors).

        Raises:
            UserError: not even one row fits.
        """
        rows = len(tensors[0])
        if rows == 0:
            return self._function(*tensors)
        self._fullest = self._fullest or rows
        parts: list[Tensor] = []
        start = 0
        while start < rows:
            chunk = [x[start : start + self.size_of(rows - start)] for x in tensors]
            part = self._attempt(chunk)
            if part is not None:
                parts.append(part)
                start += len(part)
        self._say()
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def size_of(self, rows: int) -> int:
        """How many of so many rows come next."""
        if self.limit is None:
            return min(rows, PROBES[len(self._peaks)])
        whole = self._fullest if self._one_size and self._fullest else rows
        return min(rows, _even(whole, self.limit))

    def _attempt(self, chunk: Sequence[Rows]) -> Tensor | None:
        """What function gives; None where memory ran out, and less is to be tried."""
        size, rows = len(chunk[0]), len(chunk[0])
        if self._one_size and self.limit is not None:
            size = _even(self._fullest or rows, self.limit)
            chunk = [_padded(x, size) for x in chunk]
        try:
            return self._probe(chunk) if self.limit is None else self._function(*chunk)[:rows]
        except (RuntimeError, MemoryError) as error:  # CUDA's is a RuntimeError
            if not out_of_memory(error):
                raise
            if size == 1:
                raise UserError(
                    "memory: expected room for one evaluation at a time, got too little; use a smaller size, "
                    f"half precision, offload, or another device ({_first_line(error)})"
                ) from error
        # only now: the error's traceback held what was computed so far
        self._too_many, self.limit = self._too_many or size, size // 2
        _give_back()
        return None

    def _probe(self, chunk: Sequence[Rows]) -> Tensor:
        """function(*chunk), and from the second time on the limit, by what more rows took."""
        first = chunk[0]
        assert isinstance(first, Tensor)
        device = self._device or first.device
        # a compiled network is compiled for the size that comes of this, not for those tried here
        eager = torch.compiler.set_stance("force_eager") if self._one_size else nullcontext()
        with eager, PeakMemory(device) as memory:
            result = self._function(*chunk)
        self._peaks.append(memory.peak * 2**30)
        if len(self._peaks) == len(PROBES):
            self.limit = self._largest(device, row=sum(x[:1].nbytes for x in chunk))
        return result

    def _largest(self, device: torch.device, row: int) -> int:
        """The most rows that fit; row: bytes of one, less than which it cannot take."""
        (few, many), (low, high) = PROBES, self._peaks
        each = max((high - low) / (many - few), row)
        budget = used_bytes(device) + (1 - MARGIN) * free_bytes(device)
        return max(many, few + int((budget - low) / each))

    def _say(self) -> None:
        """Once, that memory ran out."""
        if self._too_many:
            warnings.warn(
                f"memory ran out at {self._too_many} at a time: continuing with {self.limit} "
                "(chunk_size); the result is the same",
                stacklevel=3,
            )
            self._too_many = None


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


# of the CPU's allocator, of oneDNN (std::bad_alloc comes as a RuntimeError), of cuBLAS's workspaces
_SIGNS = (
    "DefaultCPUAllocator",
    "std::bad_alloc",
    "could not create a primitive",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "out of memory",
)


def _even(rows: int, limit: int) -> int:
    """Size of the parts of so many rows, none of them above the limit, as few and as even as can be."""
    return math.ceil(rows / math.ceil(rows / limit))


def _padded(x: Any, rows: int) -> Any:
    """x with its last row repeated up to so many rows."""
    return x if len(x) == rows else x[torch.arange(rows).clamp(max=len(x) - 1)]


def _give_back() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
