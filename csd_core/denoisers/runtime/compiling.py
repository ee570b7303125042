"""torch.compile of a network, and what has to be there for it."""

import warnings
from typing import Any

import torch

from csd_core.errors import UserError


def check_compiler(device: torch.device) -> None:
    """Look for what torch.compile calls.

    Raises:
        UserError: the compiler of this device is missing.
    """
    problem = _missing_on_cuda(device) if device.type == "cuda" else _missing_on_cpu()
    if problem:
        raise UserError(f"compile: expected {problem}, found none; install it, or leave out compile")


def compile_network(network: Any, device: torch.device) -> None:
    """Compile the forward of a network in place, for each shape that it meets.

    Only forward: hooks around it (those that count or offload) stay outside of what is compiled.

    Raises:
        UserError: see check_compiler.
    """
    check_compiler(device)
    # diffusers asks for torch's version inside of forward, which torch would tell in six lines
    warnings.filterwarnings("ignore", r"Dynamo detected a call to a `functools\.lru_cache`")
    network.forward = torch.compile(network.forward, dynamic=False)


def _missing_on_cpu() -> str | None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError, OSError):
        return "a C++ compiler (g++, clang++ or cl)"
    return None


def _missing_on_cuda(device: torch.device) -> str | None:
    from torch.utils._triton import has_triton_package

    if not has_triton_package():
        return "the package triton"
    if torch.cuda.get_device_capability(device) < (7, 0):
        return "a device of capability 7.0 or more"
    return None
