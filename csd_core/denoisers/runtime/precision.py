"""In which type the network of a device computes, unless someone asks for another."""

from typing import Literal

import torch

DType = Literal["float32", "float16", "bfloat16"]

BFLOAT16_ON_CPU = True
"""Whether a CPU that multiplies bfloat16 natively computes in it by default: faster, and a little coarser."""


def default_dtype(device: torch.device) -> torch.dtype:
    """CUDA: float16. CPU: bfloat16 where it is native and BFLOAT16_ON_CPU, else float32. Others: float32.

    On CUDA float16 and bfloat16 are equally fast, but an edit descends along differences of predictions, and
    float16 has 11 bits for them where bfloat16 has 8. Stable Diffusion's UNets were trained and are shared in
    float16, and cards before capability 8.0 have no bfloat16. Should a UNet leave float16's range, the step
    is refused as not finite.
    """
    if device.type == "cuda":
        return torch.float16
    native = device.type == "cpu" and BFLOAT16_ON_CPU and has_native_bfloat16()
    return torch.bfloat16 if native else torch.float32


def as_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The type of this name; default_dtype for None and "auto"."""
    return default_dtype(device) if name in (None, "auto") else getattr(torch, name)


def dtype_name(dtype: torch.dtype) -> str:
    """As users write it: float32, not torch.float32."""
    return str(dtype).removeprefix("torch.")


def has_native_bfloat16() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 in hardware: AVX512-BF16 or AMX."""
    queries = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # every AMX multiplies bfloat16
    return any(bool(query()) for name in queries if (query := getattr(torch.cpu, name, None)))
