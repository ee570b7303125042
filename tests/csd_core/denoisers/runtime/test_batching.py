import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import pytest
import torch
from torch import Tensor

from csd_core.choices import ChunkSize
from csd_core.denoisers.base import Conditioning, check_chunk_size
from csd_core.denoisers.runtime import batching
from csd_core.denoisers.runtime.batching import Chunks, in_chunks, out_of_memory
from csd_core.engine.config import EditConfig
from csd_core.engine.loop import edit_latents
from csd_core.errors import UserError
from tests.exact_editor import ExactEditor

CPU = torch.device("cpu")
CPU_MESSAGE = "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"


class Spy:
    """x + 10 y by rows; remembers how many rows came, and has room for so many."""

    def __init__(
        self, room: int = 1000, error: Callable[[], Exception] = lambda: torch.OutOfMemoryError("full")
    ) -> None:
        self.room, self.error = room, error
        self.sizes: list[int] = []

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        self.sizes.append(len(x))
        assert len(y) == len(x)
        if len(x) > self.room:
            raise self.error()
        return x + 10 * y


def rows(n: int) -> tuple[Tensor, Tensor]:
    return torch.arange(n).float(), torch.arange(n).float() / 3


def expected(n: int) -> Tensor:
    x, y = rows(n)
    return x + 10 * y


@pytest.mark.parametrize(
    ("n", "limit", "sizes"),
    [
        (20, 16, [10, 10]),
        (16, 16, [16]),
        (17, 16, [9, 8]),
        (80, 16, [16] * 5),
        (33, 16, [11, 11, 11]),
        (7, 3, [3, 2, 2]),
        (3, 1, [1, 1, 1]),
        (0, 4, [0]),
    ],
)
def test_parts_are_as_few_and_as_even_as_can_be(n: int, limit: int, sizes: list[int]) -> None:
    spy = Spy()
    assert torch.equal(in_chunks(spy, limit, *rows(n)), expected(n))
    assert spy.sizes == sizes


def test_one_size_is_an_even_part_of_the_fullest_whatever_comes() -> None:
    spy = Spy()
    chunks = Chunks(spy, 16, fullest=40, one_size=True)
    for n in (40, 39, 24, 1, 14):
        assert torch.equal(chunks(*rows(n)), expected(n))
    assert spy.sizes == [14] * (3 + 3 + 2 + 1 + 1)


def test_the_first_call_is_the_fullest_where_nobody_says() -> None:
    spy = Spy()
    chunks = Chunks(spy, 16, one_size=True)
    for n in (20, 18, 30):
        assert torch.equal(chunks(*rows(n)), expected(n))
    assert spy.sizes == [10] * (2 + 2 + 3)


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("CUDA out of memory."),
        lambda: RuntimeError(CPU_MESSAGE),
        lambda: MemoryError(),
        lambda: RuntimeError("std::bad_alloc"),
        lambda: RuntimeError("could not create a primitive"),
    ],
)
@pytest.mark.parametrize("one_size", [False, True])
def test_what_does_not_fit_is_halved_and_stays_halved(error: Callable[[], Exception], one_size: bool) -> None:
    spy = Spy(room=5, error=error)
    chunks = Chunks(spy, 16, one_size=one_size)
    with pytest.warns(UserWarning, match="ran out at 14 at a time: continuing with 3 .chunk_size") as said:
        assert torch.equal(chunks(*rows(42)), expected(42))
    assert len(said) == 1
    assert spy.sizes == [14, 7] + [3] * 14
    assert torch.equal(chunks(*rows(6)), expected(6))  # no further warning, which would be an error
    assert spy.sizes[16:] == [3, 3]


def test_rows_before_the_failure_are_not_lost() -> None:
    class Filling(Spy):
        def __call__(self, x: Tensor, y: Tensor) -> Tensor:
            self.room = 10 if len(self.sizes) < 2 else 4  # somebody else takes memory
            return super().__call__(x, y)

    spy = Filling()
    with pytest.warns(UserWarning, match="continuing with 4"):
        assert torch.equal(Chunks(spy, 8)(*rows(24)), expected(24))
    assert spy.sizes == [8, 8, 8, 4, 4]


def test_other_errors_are_not_hidden() -> None:
    spy = Spy(room=0, error=lambda: RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        in_chunks(spy, 4, *rows(4))
    assert spy.sizes == [4]
    assert not out_of_memory(ValueError("out of memory"))


def test_no_room_for_one_row_is_said_in_one_line() -> None:
    with pytest.raises(UserError, match=r"memory: expected room for one evaluation.*\(full\)"):
        Chunks(Spy(room=0), 4)(*rows(4))


class Memory:
    """A device on which a row takes 10 bytes beside 100 fixed ones, and the network itself 1000."""

    def __init__(self, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.size = 0
        monkeypatch.setattr(batching, "PeakMemory", lambda _: self)
        monkeypatch.setattr(batching, "used_bytes", lambda _: 1000)
        monkeypatch.setattr(batching, "free_bytes", lambda _: free)

    def __enter__(self) -> "Memory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    @property
    def peak(self) -> float:
        return (1000 + 100 + 10 * self.size) / 2**30

    def spy(self) -> Spy:
        memory = self

        class Measured(Spy):
            def __call__(self, x: Tensor, y: Tensor) -> Tensor:
                memory.size = len(x)
                return super().__call__(x, y)

        return Measured()


def test_auto_takes_as_many_as_two_sizes_say(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 1000
    memory = Memory(free, monkeypatch)
    spy = memory.spy()
    chunks = Chunks(spy, "auto")
    assert torch.equal(chunks(*rows(200)), expected(200))
    fitting = int(((1 - batching.MARGIN) * free - 100) / 10)
    assert chunks.limit == fitting == 75
    assert spy.sizes == [1, 4, 65, 65, 65]  # the probes are rows of the step: nothing is computed twice
    assert torch.equal(chunks(*rows(200)), expected(200))
    assert spy.sizes[5:] == [67, 67, 66]


@pytest.mark.parametrize(("free", "sizes"), [(10**6, [1, 4, 15, 20]), (0, [1, 4, 4, 4, 4, 3] + [4] * 5)])
def test_auto_never_takes_more_than_there_is_nor_less_than_it_tried(
    monkeypatch: pytest.MonkeyPatch, free: int, sizes: list[int]
) -> None:
    spy = Memory(free, monkeypatch).spy()
    chunks = Chunks(spy, "auto")
    for _ in range(2):
        assert torch.equal(chunks(*rows(20)), expected(20))
    assert spy.sizes == sizes


def test_auto_compiles_for_no_size_but_that_of_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    stances: list[str] = []
    set_stance = torch.compiler.set_stance
    monkeypatch.setattr(torch.compiler, "set_stance", lambda s: (stances.append(s), set_stance(s))[1])
    spy = Memory(1000, monkeypatch).spy()
    chunks = Chunks(spy, "auto", fullest=100, one_size=True)
    for n in (100, 90):
        assert torch.equal(chunks(*rows(n)), expected(n))
    assert spy.sizes == [1, 4] + [50] * (2 + 2)
    assert stances == ["force_eager"] * 2


def test_auto_halves_a_probe_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Memory(1000, monkeypatch).spy()
    spy.room = 3
    with pytest.warns(UserWarning, match="ran out at 4 at a time: continuing with 2"):
        assert torch.equal(Chunks(spy, "auto")(*rows(9)), expected(9))
    assert spy.sizes == [1, 4, 2, 2, 2, 2]


@pytest.mark.parametrize("chunk_size", [0, -1])
def test_what_is_no_number_of_rows_is_refused(chunk_size: int) -> None:
    check_chunk_size("auto")
    check_chunk_size(1)
    with pytest.raises(UserError, match="chunk_size: expected at least 1, or auto, got"):
        check_chunk_size(chunk_size)


class Full(ExactEditor):
    """Has no room for more than three evaluations."""

    def predict_noise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        if len(x_t) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().predict_noise(x_t, t, conditioning)


@pytest.mark.parametrize("chunk_size", [16, "auto"])
def test_an_edit_that_runs_out_of_memory_loses_no_step(chunk_size: ChunkSize) -> None:
    generator = torch.Generator().manual_seed(0)
    modes, source = torch.randn(2, 4, 4, 4, generator=generator), torch.randn(5, 4, 4, 4, generator=generator)
    config, condition = EditConfig(num_steps=4, batch_size=3), Conditioning(5, image=source)
    whole = edit_latents(ExactEditor(modes), source, source, condition, "a", config)
    config.chunk_size = chunk_size
    full = Full(modes)
    with pytest.warns(UserWarning, match="memory ran out"):
        edited = edit_latents(full, source, source, condition, "a", config)
    torch.testing.assert_close(edited, whole, rtol=0, atol=1e-5)
    assert full.evaluations == 4 * 5 * 5 / 2  # batches of 3 and 2 particles, five evaluations each


LIMITED = """
import resource, sys, torch, warnings
from csd_core.denoisers.runtime.batching import Chunks
from csd_core.denoisers.base import Branch, Conditioning
from csd_core.denoisers.families import load_denoiser
model, x = load_denoiser(sys.argv[1], torch_dtype=torch.float32), torch.randn(96, 4, 64, 64)
given = model.conditioning(Branch(True, "red", ()), Conditioning(96, image=torch.zeros_like(x)))
inputs = [x, torch.full((96,), 300.0), given]
few = model.predict_noise(*(x[:2] for x in inputs))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 224 * 2**20,) * 2)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    chunks = Chunks(model.predict_noise, 96)
    whole = chunks(*inputs)
print(len(whole), chunks.limit, (whole[:2] - few).abs().max().item() < 1e-5, [str(w.message) for w in said])
"""


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="limits of memory are Linux's")
def test_memory_that_really_runs_out_on_a_cpu(tiny_epsilon: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tiny_epsilon)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    count, limit, same, said = done.stdout.split(maxsplit=3)
    assert (count, same) == ("96", "True")
    assert int(limit) in (48, 24, 12, 6, 3)
    assert "memory ran out at 96 at a time" in said
