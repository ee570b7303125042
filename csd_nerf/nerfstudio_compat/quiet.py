"""Warnings of other packages that a user cannot act on: deprecated calls between them, numbers of workers."""

import re
import sys
import warnings
from pathlib import Path

_MODULES = (
    "nerfstudio.cameras.camera_utils",
    "nerfstudio.cameras.cameras",
    "nerfstudio.engine.optimizers",
    "nerfstudio.engine.trainer",
    "nerfstudio.field_components.activations",
    "nerfstudio.utils.writer",
    "torch.jit._script",
    "torch.optim.lr_scheduler",
    "torch.utils.data.dataloader",
    "torchmetrics.utilities.prints",
)


def silence_others() -> None:
    """Drop the warnings of these modules in this process. Call it before nerfstudio is imported."""
    for module in _MODULES:
        warnings.filterwarnings("ignore", module=re.escape(module) + r"\Z")


def silence_others_in_nerfstudios_commands() -> None:
    """silence_others, in ns-train, ns-viewer and their like alone.

    Registering the methods calls this. Three warnings come earlier, when nerfstudio imports its own modules
    (torch.jit.script, custom_fwd, custom_bwd are deprecated), and cannot be dropped from here.
    """
    if Path(sys.argv[0] if sys.argv else "").name.startswith("ns-"):
        silence_others()
