"""nerfstudio's checkpoints under torch >= 2.6, which loads tensors and plain data only (weights_only)."""

from typing import Any

import numpy as np
import torch


def allow_numpy_scalars() -> None:
    """Let torch load the numpy scalars in nerfstudio's checkpoints with weights_only on.

    A pickle names them numpy.core... or numpy._core..., depending on the numpy that wrote it.
    """
    scalar: Any = np.float64(0).__reduce__()[0]
    dtypes = [value for value in vars(np.dtypes).values() if isinstance(value, type)]
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    torch.serialization.add_safe_globals([np.dtype, *dtypes, *((scalar, name) for name in names)])
