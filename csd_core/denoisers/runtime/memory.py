"""Memory of a device, or of this process: in use, free, at its peak."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

_STATUS = Path("/proc/self/status")
_CGROUP = Path("/sys/fs/cgroup")


class PeakMemory:
    """Peak memory in GiB from enter to exit: of CUDA's allocator, or of the process (sampled)."""

    SECONDS = 0.01

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self.peak = 0.0

    def __enter__(self) -> "PeakMemory":
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self._device) / 2**30
        else:
            self._done.set()
            self._watcher.join()

    def _watch(self) -> None:
        while True:
            last = self._done.is_set()
            self.peak = max(self.peak, self._process.memory_info().rss / 2**30)
            if last:
                return
            self._done.wait(self.SECONDS)


def used_bytes(device: torch.device) -> int:
    """Memory in use now: what CUDA's allocator gave out, or all that the process has."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def free_bytes(device: torch.device) -> int:
    """Memory that could be used beside used_bytes, of the device or, within its limits, of the process."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return max(0, min(psutil.virtual_memory().available, *_limits()))


def peak_bytes(device: torch.device) -> int:
    """The most memory there ever was: given out by CUDA's allocator, or had by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.is_file():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    memory = psutil.Process().memory_info()
    return getattr(memory, "peak_wset", memory.rss)  # Windows keeps it, too


def _limits() -> Iterator[int]:
    """What is left of the limits that a container or a shell (ulimit -v) sets; very much where none is."""
    yield sys.maxsize
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit.isdigit():
            stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
            # files that were read are counted, but give way
            taken = int((_CGROUP / "memory.current").read_text()) - int(stat.get("inactive_file", 0))
            yield int(limit) - taken
    except OSError:  # no cgroups, or those of another kind
        pass
    if sys.platform != "win32":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            yield limit - psutil.Process().memory_info().vms
