import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from csd_core import machine
from csd_core.machine import PACKAGES, PeakMemory, describe_machine, versions


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
