import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from csd_core import machine
from csd_core.denoisers.runtime.memory import PeakMemory
from csd_core.machine import PACKAGES, CpuTimes, FreeCores, describe_machine, versions


def test_the_machine_is_told_in_words() -> None:
    told = describe_machine()
    assert set(told) == {"cpu", "cores", "threads", "gpu", "torch", "python"}
    assert all(isinstance(value, str) and value for value in told.values())
    assert told["python"] == platform.python_version()
    assert told["threads"] == str(torch.get_num_threads())


def test_a_machine_without_cpuinfo_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_file", lambda _: False)
    assert describe_machine()["cpu"]


def test_the_gpu_is_named_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert describe_machine()["gpu"] == "none"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert describe_machine()["gpu"] == "a GPU"


def test_versions_are_those_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(versions()) == set(PACKAGES)
    assert versions()["numpy"] == version("numpy")

    def without_this(package: str) -> str:
        if package == "csd-nerf2nerf":
            raise PackageNotFoundError(package)
        return "1.2"

    monkeypatch.setattr(machine, "version", without_this)
    assert versions()["csd-nerf2nerf"] == "not installed"
    assert versions()["torch"] == "1.2"


def test_memory_of_a_cpu_is_the_highest_that_the_process_had() -> None:
    before = psutil.Process().memory_info().rss / 2**30
    with PeakMemory(torch.device("cpu")) as memory:
        held: Any = torch.ones(2**26)  # 256 MiB
        memory._done.wait(10 * PeakMemory.SECONDS)
        del held
        memory._done.wait(10 * PeakMemory.SECONDS)
    assert before + 0.2 < memory.peak < before + 1
    assert not memory._watcher.is_alive()


def test_memory_is_read_at_least_once() -> None:
    with PeakMemory(torch.device("cpu")) as memory:
        pass
    assert memory.peak > 0


def test_memory_of_cuda_is_that_of_its_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: asked.append(f"reset {device}"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 3 * 2**30)
    with PeakMemory(torch.device("cuda:1")) as memory:
        assert asked == ["reset cuda:1"]
    assert memory.peak == 3


def free_cores(*times: CpuTimes, most: int = 4) -> tuple[FreeCores, list[int]]:
    """One that will see these times, and what it sets."""
    clock, threads = iter(times), list[int]()
    return FreeCores(lambda: next(clock), threads.append, most), threads


@pytest.mark.parametrize(
    ("own", "everybody", "wanted"),
    [
        (4.0, 4.0, []),  # nobody else
        (4.0, 4.4, []),  # a little of somebody
        (3.0, 4.0, [3]),  # a core is taken
        (2.2, 4.0, [2]),
        (0.1, 4.0, [1]),  # one is left in any case
    ],
)
def test_threads_keep_off_the_cores_of_others(
    monkeypatch: pytest.MonkeyPatch, own: float, everybody: float, wanted: list[int]
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    begin = CpuTimes(wall=-100.0, own=50.0, all=900.0, cores=4)
    seen = CpuTimes(wall=-98.0, own=50.0 + 2 * own, all=900.0 + 2 * everybody, cores=4)
    idle = CpuTimes(wall=-96.0, own=seen.own + 2, all=seen.all + 2, cores=4)
    cores, threads = free_cores(begin, seen, idle)
    cores.look()
    assert threads == wanted
    cores.look()  # the others have ended
    assert threads == (wanted and [*wanted, 4])


def test_a_number_of_threads_that_was_asked_for_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    cores, threads = free_cores(CpuTimes(-100.0, 0, 0, 4))
    cores.look()
    assert threads == []


def test_looks_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores, threads = free_cores(CpuTimes(time.monotonic() + 100, 0, 0, 4))
    cores.look()
    assert threads == []


def test_the_clocks_of_the_machine_count_this_process() -> None:
    before = CpuTimes.now()
    while (now := CpuTimes.now()).own < before.own + 0.3:
        pass
    assert now.wall > before.wall
    assert 0 < now.cores <= (psutil.cpu_count() or 1)
    assert now.all - before.all > 0.15  # its clock ticks a hundred times a second
