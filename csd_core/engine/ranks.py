"""Several processes, each with a device, that share the work of one edit, on torch.distributed.

rank        number of a process; 0 is the main one, which alone reads, writes and prints
world_size  how many there are

torchrun starts them for a command (`launched`), nerfstudio for ns-train (`Ranks.joined`). Every rank holds
the whole canvas and takes every step; the evaluations of a step are split (`Ranks.split_and_gather`). Ranks
exchange messages in two groups: gloo for the host, nccl for tensors on a CUDA device.
"""

import atexit
import logging
import os
import pickle
import re
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from csd_core.denoisers.base import Conditioning
from csd_core.errors import UserError, expect

T = TypeVar("T")
Rows = Tensor | Conditioning

TIMEOUT = "CSD_RANKS_TIMEOUT"
"""Environment variable: seconds that a rank waits for the others. It has to cover what rank 0 does while they
wait: reading and encoding the input, a preview, a checkpoint."""
TIMEOUT_SECONDS = 1800.0
"""Where that is not set. A rank that died is noticed at once; this is for one that hangs."""
PARTING_SECONDS = 10.0
"""How long a rank that failed waits for the message that the others failed as well."""


class LostRankError(UserError):
    """Another rank has ended or does not answer."""

    alone = True  # the other ranks need not have met the same


class TerminatedError(KeyboardInterrupt):
    """SIGTERM, which torchrun sends to the others when one rank has failed."""

    alone = True


class Ranks:
    """The processes that share an edit, seen from one of them.

    Every rank has to call the methods below in the same order, as they exchange messages. Alone
    (world_size 1) they cost nothing.

    Args:
        rank: number of this process.
        world_size: how many there are.
        local_rank: number of this process on its machine.
        control: a gloo group of all ranks; None where there is one only.
        device_group: an nccl group of all ranks, if there is one already.

    Raises:
        LostRankError: from every method that exchanges messages.
    """

    def __init__(
        self,
        rank: int = 0,
        world_size: int = 1,
        local_rank: int = 0,
        control: Any = None,
        device_group: Any = None,
    ) -> None:
        self.rank, self.world_size, self.local_rank = rank, world_size, local_rank
        self._control = control
        self._device_group: Any = device_group
        self._own_device_group = False
        if control is not None:
            atexit.register(self._let_go)

    @classmethod
    def joined(cls) -> "Ranks":
        """The ranks of the group that this process is in already, as in ns-train; alone where it is in none.

        Makes a group, so call it once, on all ranks.
        """
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return ALONE
        rank, on_device = dist.get_rank(), "nccl" in str(dist.get_backend())
        control = dist.new_group(backend="gloo", timeout=timeout()) if on_device else dist.group.WORLD
        local = int(os.environ.get("LOCAL_RANK", torch.cuda.current_device() if on_device else rank))
        return cls(rank, dist.get_world_size(), local, control, dist.group.WORLD if on_device else None)

    @property
    def is_main(self) -> bool:
        """Whether this rank reads, writes and prints."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other."""
        return self.world_size == 1

    def device(self, asked: str | None) -> str | None:
        """This rank's device: where CUDA or nothing is asked for, the one of its number on this machine.

        Raises:
            UserError: one device is asked for by number, or there are fewer than ranks.
        """
        if self.is_alone or asked not in (None, "cuda"):
            single = self.is_alone or not (asked or "").startswith("cuda")
            expect(single, "device", "cuda or none, each process takes its own", asked)
            return asked
        count = torch.cuda.device_count()
        if count == 0:
            return asked
        number = self.local_rank if count > 1 else 0  # one: a scheduler shows each process only its own
        expect(number < count, "nproc-per-node", f"at most {count}, the CUDA devices here", "more")
        torch.cuda.set_device(number)
        return f"cuda:{number}"

    # ---- the work of a step

    def split_and_gather(self, function: Callable[..., Tensor], *tensors: Rows) -> Tensor:
        """function(*tensors), each rank computing a part of the rows, and the whole on all of them.

        Rows are cut into even contiguous shares. Beyond the gathering itself the host waits for nothing.

        Args:
            function: takes n rows of each argument, n at least 1, and returns n rows on the same device.
            tensors: (n, ...) each, or conditionings of n rows, the same on all ranks; a tensor first.

        Returns:
            (n, ...).
        """
        rows = len(tensors[0])
        if self.is_alone or rows == 0:
            return function(*tensors)
        counts = [rows // self.world_size + (r < rows % self.world_size) for r in range(self.world_size)]
        start, count = sum(counts[: self.rank]), counts[self.rank]
        mine = function(*(x[start : start + count] for x in tensors)) if count else None
        if rows < self.world_size:  # those that have no row must know what a row is like
            shape, dtype = self._broadcast(None if mine is None else (mine.shape[1:], mine.dtype))
            like = tensors[0]
            assert isinstance(like, Tensor)
            mine = like.new_empty(0, *shape, dtype=dtype) if mine is None else mine
        assert mine is not None
        return self._gather_rows(mine, counts)

    def _gather_rows(self, mine: Tensor, counts: list[int]) -> Tensor:
        size = counts[0]  # of the largest share: collectives take equal ones
        padded = mine.contiguous()
        if len(mine) < size:
            padded = torch.cat([mine, mine.new_zeros(size - len(mine), *mine.shape[1:])])
        whole = mine.new_empty(size * self.world_size, *mine.shape[1:])
        with self._answering():
            dist.all_gather_into_tensor(whole, padded, group=self._group_of(mine.device))
        if counts[-1] == size:
            return whole
        return torch.cat([part[:count] for part, count in zip(whole.split(size), counts, strict=True)])

    def any(self, wish: bool) -> bool:
        """Whether the wish of any rank is True."""
        return wish if self.is_alone else self._reduce(int(wish), dist.ReduceOp.MAX) > 0

    def total(self, count: int) -> int:
        """The sum over the ranks. Ends the exchange of tensors on devices: what is left to do is rank 0's."""
        if self.is_alone:
            return count
        found = self._reduce(count, dist.ReduceOp.SUM)
        if self._own_device_group:
            dist.destroy_process_group(self._device_group)
            self._device_group, self._own_device_group = None, False
        return found

    # ---- what goes before and after

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.any(False)

    def broadcast(self, make: Callable[[], T], send: Callable[[T], Any] = lambda value: value) -> T:
        """What rank 0 makes, on all ranks, tensors on the CPU preferably; its error, too.

        send: what the others get of it, where that is less.
        """
        if self.is_alone:
            return make()
        made = self.all_or_raise(make if self.is_main else lambda: None)
        if made is not None and self.is_main:
            self._broadcast(send(made))
            return made
        return self._broadcast(None)

    def synchronize(self, x: Tensor) -> None:
        """Overwrite x, in place, with rank 0's: ranks on unlike devices drift apart by their roundings."""
        if not self.is_alone:
            with self._answering():
                dist.broadcast(x, src=0, group=self._group_of(x.device))

    def gather(self, value: T) -> list[T]:
        """What each rank has, in their order, on all of them; tensors on the CPU preferably."""
        if self.is_alone:
            return [value]
        values: list[Any] = [None] * self.world_size
        with self._answering():
            dist.all_gather_object(values, value, group=self._control)
        return values

    def main_first(self, function: Callable[[], T]) -> T:
        """function() on rank 0, then on the others, which find what it left; errors as in all_or_raise."""
        made = self.all_or_raise(function if self.is_main else lambda: None)
        others = self.all_or_raise((lambda: None) if self.is_main else function)
        result: Any = made if self.is_main else others
        return result

    def all_or_raise(self, function: Callable[[], T]) -> T:
        """function() on all ranks; where it fails on one, all raise the error of the first that failed."""
        if self.is_alone:
            return function()
        value: Any = None
        error: Exception | None = None
        try:
            value = function()
        except Exception as caught:  # whatever it is, the others must not wait for this rank
            error = caught
        errors: list[Any] = [None] * self.world_size
        with self._answering():
            dist.all_gather_object(errors, _to_send(error), group=self._control)
        first = next((r for r, one in enumerate(errors) if one is not None), None)
        if first is None:
            return value
        raise error if error is not None and first == self.rank else errors[first]

    def have_all_failed(self) -> bool:
        """Whether the others come here within a few seconds, as they do when all have met the same error."""
        if self.is_alone:
            return True
        try:
            dist.monitored_barrier(self._control, timedelta(seconds=PARTING_SECONDS))
        except RuntimeError:
            return False
        return True

    def _let_go(self) -> None:
        """Forget the groups: one that outlives Python aborts the process, for its threads still run."""
        self._control = self._device_group = None

    def _reduce(self, value: int, operation: Any) -> int:
        reduced = torch.tensor(value)
        with self._answering():
            dist.all_reduce(reduced, operation, group=self._control)
        return int(reduced)

    def _broadcast(self, value: Any) -> Any:
        box = [value]
        with self._answering():
            dist.broadcast_object_list(box, src=0, group=self._control)
        return box[0]

    def _group_of(self, device: torch.device) -> Any:
        if device.type != "cuda":
            return self._control
        if self._device_group is None:
            with self._answering():
                self._device_group = dist.new_group(backend="nccl", timeout=timeout())
            self._own_device_group = True
        return self._device_group

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # gloo raises it plain, nccl a kind of it
            why = (str(error).strip().splitlines() or ["?"])[0]
            raise LostRankError(
                f"rank {self.rank} of {self.world_size}: another rank has ended, or has not answered for "
                f"{timeout().total_seconds():g} s ({TIMEOUT}); start all of them again, edits with --resume "
                f"({why})"
            ) from error


ALONE = Ranks()
"""A single process."""
_current: list[Ranks] = []
_LAUNCH = re.compile(r"((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCHELASTIC_.*")
"""What torchrun sets."""


def current() -> Ranks:
    """The ranks that this command was started as."""
    return _current[-1] if _current else ALONE


@contextmanager
def launched() -> Iterator[Ranks]:
    """The ranks that torchrun, or what sets its environment, started this process as; then `current`.

    The ranks beside rank 0 print nothing but errors inside the block.

    Raises:
        UserError: the environment lacks something, or the others are not there within the timeout.
    """
    ranks = _from_environment()
    _current.append(ranks)
    before = None if ranks.is_alone else signal.signal(signal.SIGTERM, _terminate)
    try:
        with _quiet(not ranks.is_main):
            yield ranks
        if not ranks.is_alone:
            ranks._let_go()
            dist.destroy_process_group()
    finally:
        _current.pop()
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def timeout() -> timedelta:
    """How long a rank waits for the others.

    Raises:
        UserError: the environment holds no such number.
    """
    given = os.environ.get(TIMEOUT, str(TIMEOUT_SECONDS))
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    expect(1 <= seconds <= 1e6, TIMEOUT, "1 second or more", given)
    return timedelta(seconds=seconds)


def without_launch(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a program that this process starts, and that is to be alone."""
    return {name: value for name, value in environment.items() if not _LAUNCH.fullmatch(name)}


def _from_environment() -> Ranks:
    world_size = _number("WORLD_SIZE", 1)
    if world_size == 1:
        return ALONE
    rank = _number("RANK")
    local_rank = _number("LOCAL_RANK", rank)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        expect(name in os.environ, name, "where rank 0 listens, as torchrun sets it", "nothing")
    wait = timeout()
    try:
        dist.init_process_group("gloo", timeout=wait)
    except (RuntimeError, ValueError) as error:
        why = (str(error).strip().splitlines() or ["?"])[0]
        raise UserError(f"rank {rank} of {world_size}: the ranks did not come together ({why})") from error
    return Ranks(rank, world_size, local_rank, dist.group.WORLD)


def _number(name: str, default: int | None = None) -> int:
    given = os.environ.get(name, "" if default is None else str(default))
    expect(given.isdecimal(), name, "a number, as torchrun sets it", given or "nothing")
    return int(given)


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    if not quiet:
        yield
        return
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    ranks = current()
    whose = f"rank {ranks.rank} of {ranks.world_size}"
    raise TerminatedError(f"error: {whose}: ended by SIGTERM, as when another has failed; see --resume")


def _to_send(error: Exception | None) -> Exception | None:
    """An error that can be sent: another one of the same words where it cannot."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # of any kind: an error may hold anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
