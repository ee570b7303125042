"""Where a network computes, and in which precision unless another is asked for."""

import torch

from csd_core.errors import UserError

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


def resolve_device(device: str | torch.device | None) -> torch.device:
    """None -> CUDA where there is one, else the CPU; "cuda" -> the current one by its number.

    A tensor on "cuda" is on "cuda:0", for example; "cuda" without a number never equals its device.

    Raises:
        UserError: the device is unknown, or CUDA is asked for and absent.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise UserError(f"device: expected cpu, cuda or cuda:0, got {str(device)!r}") from None
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: {device} was asked for, but this machine has no CUDA device; use cpu")
    if resolved.type == "cuda" and resolved.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return resolved
