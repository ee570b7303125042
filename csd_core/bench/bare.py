"""The network alone, asked for exactly what something else asked it for: the same rows in the same chunks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Key = tuple[object, ...]


class Recorder:
    """Remembers how a network is called, and calls it so again with nothing around it.

    Of calls alike in shape, type and memory format the inputs of the first are kept, for all of them.

    Args:
        network: the one to watch.

    Attributes:
        calls: rows of each call of the last recording.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._inputs: dict[Key, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._keys: list[Key] = []
        self.calls: list[int] = []

    @property
    def evaluations(self) -> int:
        """Rows of all calls together."""
        return sum(self.calls)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Remember the calls inside the block, and forget those before it."""
        self.clear()
        hook = self._network.register_forward_pre_hook(self._record, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    def clear(self) -> None:
        """Forget the calls."""
        self._keys.clear()
        self.calls.clear()

    @torch.no_grad()
    def replay(self) -> None:
        """The same calls again, one after the other."""
        for key in tuple(self._keys):  # while recording goes on, these are none of them
            args, kwargs = self._inputs[key]
            self._network(*args, **kwargs)

    def _record(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        key = tuple(_alike(value) for value in (*args, *kwargs.values()))
        self._inputs.setdefault(key, (args, kwargs))
        self._keys.append(key)
        self.calls.append(len(args[0]))


def _alike(value: object) -> object:
    return (value.shape, value.stride(), value.dtype) if isinstance(value, Tensor) else value
