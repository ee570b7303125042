"""The methods that optimise, by name: CSD, and what is left of it when a part is taken out."""

import math
from dataclasses import replace
from typing import Any, Literal, TypeVar

from csd_core.engine.config import EditConfig, MethodConfig
from csd_core.errors import expect

Method = Literal["csd", "no-svgd", "sds", "dds"]

VARIANTS: dict[Method, dict[str, Any]] = {
    "csd": {},
    "sds": {"baseline": "noise"},
    "dds": {"baseline": "prompt"},
    "no-svgd": {"mixing": False},
}
"""Table 3 leaves out SVGD (no-svgd) or the image baseline (sds)."""

Config = TypeVar("Config", bound=MethodConfig)


def with_method(config: Config, method: str, source_prompt: str = "") -> Config:
    """The settings of a method.

    source_prompt: what the source shows; for dds.

    Raises:
        UserError: an unknown method.
    """
    for name, changes in VARIANTS.items():
        if name == method:
            return replace(config, **changes, source_prompt=source_prompt)
    expect(False, "method", f"one of {', '.join(VARIANTS)}", method)
    return config


def fit_learning_rate(edit: EditConfig, num_particles: int) -> EditConfig:
    """The settings with a learning rate for particles that do not exchange gradients.

    B particles that share gradients under the median bandwidth move by about 2 / (B + 1) of what each of them
    would move independently.
    """
    if edit.mixing:
        return edit
    together = num_particles / math.ceil(num_particles / edit.batch_size)  # particles of a step, in the mean
    return replace(edit, learning_rate=edit.learning_rate * 2 / (together + 1))
