"""Warnings of other packages that tell a person nothing: deprecated calls among themselves, worker counts."""

import re
import warnings

MODULES = (
    "nerfstudio.cameras.cameras",
    "nerfstudio.engine.optimizers",
    "nerfstudio.engine.trainer",
    "nerfstudio.field_components.activations",
    "torch.jit._script",
    "nerfstudio.utils.writer",
    "torch.utils.data.dataloader",
)


def silence_others() -> None:
    """Drop these warnings in this process. Call it before nerfstudio is imported."""
    for module in MODULES:
        warnings.filterwarnings("ignore", module=re.escape(module) + r"\Z")


def quiet_environment(environment: dict[str, str]) -> dict[str, str]:
    """A copy of an environment in which a new Python process drops them too."""
    rules = [environment.get("PYTHONWARNINGS", ""), *(f"ignore:::{module}" for module in MODULES)]
    return {**environment, "PYTHONWARNINGS": ",".join(rule for rule in rules if rule)}
