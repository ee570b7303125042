"""What an experiment is made of: instructions, methods with their settings, and the model."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from csd_core.denoisers.base import SamplingConfig
from csd_core.denoisers.language import read_language
from csd_core.engine.config import EditConfig, MethodConfig
from csd_core.engine.methods import fit_learning_rate, with_method
from csd_core.errors import UserError, expect
from csd_core.io.files import file_hash
from csd_core.presets import INSTRUCT_PIX2PIX, MINI, Preset

DomainName = Literal["panorama", "video", "scene"]


@dataclass(frozen=True)
class Prompt:
    """An instruction, and captions of what there is before and after it."""

    name: str
    """Short."""
    text: str
    """What the editor is asked for."""
    source: str
    """Caption of the source."""
    target: str
    """Caption of the edit."""
    instruction: str = ""
    """Key of mini_editor.edits.INSTRUCTIONS, where the true edit is known; "" for others."""

    @classmethod
    def mini(cls, name: str) -> "Prompt":
        """An instruction of the mini editor.

        Raises:
            UserError: it has none of this name.
        """
        from csd_core.mini_editor.captions import canonical_captions
        from csd_core.mini_editor.edits import INSTRUCTIONS

        expect(name in INSTRUCTIONS, "prompts", f"some of {', '.join(INSTRUCTIONS)}", name)
        return cls(name, INSTRUCTIONS[name].wordings[0], *canonical_captions(name), instruction=name)


def read_prompts(path: Path) -> list[Prompt]:
    """Instructions from a JSON list of {"name", "text", "source", "target"}.

    Raises:
        UserError: it is something else.
    """
    try:
        prompts = [Prompt(**entry) for entry in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError) as error:
        wanted = 'expected a JSON list of {"name", "text", "source", "target"}'
        raise UserError(f"{path}: {wanted}, got {error}") from None
    expect(len(prompts) > 0, str(path), "at least one instruction", "none")
    return prompts


@dataclass(frozen=True)
class Variant:
    """A row of a table: a method and its settings."""

    method: str
    """csd, no-svgd, sds, ip2p-resize, ip2p-overlap or ip2p-frame."""
    setting: str = ""
    """What is set, for tables; "" where nothing is."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """Fields of EditConfig or SamplingConfig; and of OTHER_SETTINGS."""

    @property
    def name(self) -> str:
        """Method and setting."""
        return f"{self.method}, {self.setting}" if self.setting else self.method

    @property
    def config(self) -> dict[str, Any]:
        """The fields of EditConfig or SamplingConfig among what is given."""
        return {name: value for name, value in self.given.items() if name not in OTHER_SETTINGS}


OTHER_SETTINGS = ("size", "num_steps", "lr_factor", "scaled", "dtype", "borders", "detail")
"""size: of the input, (width, height). lr_factor, scaled: see optimised. borders, detail: see canvas."""


@dataclass(frozen=True)
class Model:
    """An editor on disk."""

    spec: str
    """As --model names it."""
    folder: Path
    """Where it is."""

    @classmethod
    def find(cls, spec: str, *, local_files_only: bool = False) -> "Model":
        """The model of this name; see denoisers.families.locate."""
        from csd_core.denoisers.families import locate

        return cls(spec, locate(spec, local_files_only=local_files_only).folder)

    @cached_property
    def is_mini(self) -> bool:
        """Whether it was trained on the mini editor's instructions alone."""
        return bool(read_language(self.folder))

    @cached_property
    def identity(self) -> str:
        """Hash of its weights and configs."""
        files = sorted([*self.folder.glob("*/*.safetensors"), *self.folder.glob("*/*.json")])
        lines = [f"{path.relative_to(self.folder)} {file_hash(path)}\n" for path in files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]

    def preset(self, *, is_video: bool) -> Preset:
        """Its settings for videos or panoramas."""
        return (MINI if self.is_mini else INSTRUCT_PIX2PIX)["video" if is_video else "panorama"]


def optimised(edit: EditConfig, variant: Variant, num_particles: int) -> EditConfig:
    """Settings of a method that optimises, with a learning rate that moves particles as far as csd's.

    Otherwise a comparison of kernels would be one of step sizes. B particles under the median bandwidth move
    by about 2 / (B + 1) of what each would independently; where the bandwidth is f times the median, the
    off-diagonal weights are (B + 1)^(-1 / f) instead of 1 / (B + 1).

    Args:
        edit: of csd, with what the variant sets.
        variant: its method is one of methods.VARIANTS; lr_factor multiplies the learning rate; scaled False
            keeps csd's.
        num_particles: N, frames or windows.
    """
    scaled = bool(variant.given.get("scaled", True))
    varied = with_method(edit, variant.method)
    varied = fit_learning_rate(varied, num_particles) if scaled else varied
    rate = varied.learning_rate * variant.given.get("lr_factor", 1.0)
    if scaled and varied.mixing and varied.bandwidth_factor != 1:
        in_step = num_particles / math.ceil(num_particles / edit.batch_size)
        rate *= kernel_share(in_step, 1.0) / kernel_share(in_step, varied.bandwidth_factor)
    return replace(varied, learning_rate=rate)


def kernel_share(particles: float, factor: float) -> float:
    """Mean weight of the gradients that a particle receives from B: (1 + (B - 1) (B + 1)^(-1/f)) / B."""
    return (1 + (particles - 1) * (particles + 1) ** (-1 / factor)) / particles


def decisive(settings: MethodConfig | SamplingConfig) -> dict[str, Any]:
    """The fields of EditConfig or SamplingConfig that a result depends on, as JSON values."""
    fields = {name: value for name, value in asdict(settings).items() if name != "chunk_size"}
    return json.loads(json.dumps(fields))
