"""What a figure was measured on, and the memory it took."""

import platform
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

PACKAGES = ("csd-nerf2nerf", "torch", "diffusers", "transformers", "safetensors", "numpy", "pillow")


def describe_machine() -> dict[str, str]:
    """What the figures were taken on."""
    cpuinfo = Path("/proc/cpuinfo")
    names = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    model = next((line.split(":")[1].strip() for line in names if line.startswith("model name")), "")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "cores": str(psutil.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "gpu": gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def versions(*more: str) -> dict[str, str]:
    """Package -> version, of those that a result hangs on, and of more."""
    found = {}
    for package in (*PACKAGES, *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a folder that was never installed
            found[package] = "not installed"
    return found


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
            self.peak = max(self.peak, self._process.memory_info().rss / 2**30)
            if self._done.wait(self.SECONDS):
                return
