import pytest
import torch

from csd_core.denoisers.runtime import device
from csd_core.denoisers.runtime.device import (
    as_dtype,
    default_dtype,
    dtype_name,
    has_native_bfloat16,
    resolve_device,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda:1")


def cpu_with(monkeypatch: pytest.MonkeyPatch, *features: str) -> None:
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name in features)


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_tile"])
def test_a_cpu_computes_in_bfloat16_where_that_is_native_and_switched_on(
    monkeypatch: pytest.MonkeyPatch, feature: str
) -> None:
    cpu_with(monkeypatch, feature)
    assert has_native_bfloat16()
    monkeypatch.setattr(device, "BFLOAT16_ON_CPU", True)
    assert default_dtype(CPU) == torch.bfloat16
    monkeypatch.setattr(device, "BFLOAT16_ON_CPU", False)
    assert default_dtype(CPU) == torch.float32


def test_other_cpus_compute_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "BFLOAT16_ON_CPU", True)
    cpu_with(monkeypatch)
    assert default_dtype(CPU) == torch.float32
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")  # a torch that cannot say
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert default_dtype(CPU) == torch.float32


def test_cuda_computes_in_float16_and_what_nobody_measured_in_float32() -> None:
    assert default_dtype(CUDA) == torch.float16
    assert default_dtype(torch.device("mps")) == torch.float32


def test_names() -> None:
    assert as_dtype("auto", CUDA) == as_dtype(None, CUDA) == torch.float16
    assert as_dtype("bfloat16", CUDA) == torch.bfloat16
    assert dtype_name(torch.bfloat16) == "bfloat16"


def test_cuda_is_named_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert resolve_device("cuda") == resolve_device(None) == torch.device("cuda", 1)
    assert resolve_device("cuda:0") == torch.device("cuda", 0)
    assert resolve_device("cpu") == CPU
