"""Find a model, tell its family by the _class_name of its model_index.json, check it, load it.

A new family is a file that fulfils base.Denoiser and a line in FAMILIES.
"""

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch

from csd_core import presets
from csd_core.choices import DEFAULT_MODEL
from csd_core.denoisers.base import Denoiser
from csd_core.denoisers.language import read_language, unknown_prompt_message
from csd_core.denoisers.runtime.device import default_dtype, resolve_device
from csd_core.denoisers.runtime.hub import fetch_from_hub
from csd_core.denoisers.runtime.loading import (
    WAY_OUT,
    Components,
    building,
    check_weights,
    read_json,
    weight_patterns,
)
from csd_core.denoisers.runtime.trial import check_runs
from csd_core.errors import UserError

MINI = "mini"
"""Name of the small editor that ships with this package."""
MINI_FOLDER = Path(__file__).resolve().parent.parent / "mini_editor" / "weights"
FAMILIES = {
    "StableDiffusionInstructPix2PixPipeline": "csd_core.denoisers.instruct_pix2pix",
}
"""_class_name of model_index.json -> the module of the family."""

_INDEX = "model_index.json"


class Family(Protocol):
    """What the module of a family has to offer."""

    COMPONENTS: Components

    @staticmethod
    def check_configs(folder: Path, name: str) -> None:
        """Read the config files alone; raise a UserError where they are not those of the family."""
        ...

    @staticmethod
    def load(
        folder: Path, *, dtype: torch.dtype, device: torch.device, variant: str | None, **how: Any
    ) -> Denoiser:
        """The model of a checked folder. how: compile, offload, presets, prompt_note."""
        ...


class Located(NamedTuple):
    """A model on disk."""

    folder: Path
    family: Family


def locate(
    id_or_path: str,
    *,
    variant: str | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
) -> Located:
    """The checked folder of a model and its family; downloads a hub id, configs before weights.

    Raises:
        UserError: unknown or out of reach, of an unknown family, or without safetensors weights.
    """
    if id_or_path == MINI or Path(id_or_path).expanduser().is_dir():
        folder = MINI_FOLDER if id_or_path == MINI else Path(id_or_path).expanduser()
        if id_or_path == MINI and not (folder / _INDEX).is_file():
            raise UserError(f'model "{MINI}": this installation lacks its weights; reinstall the package')
        family = read_family(folder, id_or_path)
    else:
        fetch = partial(
            fetch_from_hub,
            id_or_path,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        family = read_family(fetch([_INDEX]), id_or_path)
        folder = fetch([_INDEX, *(f"{name}/*.json" for name in family.COMPONENTS), "tokenizer*/*.txt"])
        family.check_configs(folder, id_or_path)
        folder = fetch(weight_patterns(family.COMPONENTS, variant))
    family.check_configs(folder, id_or_path)
    check_weights(folder, id_or_path, family.COMPONENTS, variant)
    return Located(folder, family)


def read_family(folder: Path, name: str) -> Family:
    """The family of a model in a folder.

    Raises:
        UserError: the folder is not diffusers', or of a family that is not known here.
    """
    if not (folder / _INDEX).is_file():
        raise UserError(
            f"model {name!r}: expected a diffusers folder with {_INDEX}, found none; "
            f"check the name, or {WAY_OUT}"
        )
    kind = str(read_json(folder / _INDEX, name).get("_class_name"))
    if kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError(f"model {name!r}: expected one of {known}, got {kind}; choose another, or {WAY_OUT}")
    family: Any = import_module(FAMILIES[kind])
    return family


def load_denoiser(
    id_or_path: str = DEFAULT_MODEL,
    *,
    torch_dtype: torch.dtype | Literal["auto"] = "auto",
    device: str | torch.device | None = None,
    compile: bool = False,
    offload: bool = False,
    variant: str | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
) -> Denoiser:
    """Load a model. Reads safetensors only and runs no code from the model's repository.

    Args:
        id_or_path: a hub id, a local diffusers folder, or "mini" for the small editor in this package.
        torch_dtype: of the network that is evaluated and of the text encoder; "auto": what suits the device,
            see default_dtype. The VAE stays in float32.
        device: None: CUDA where there is one, else the CPU.
        compile: compile the network: its first evaluation of a shape takes minutes, all others are faster.
        offload: keep the networks in the memory of the host, except the one at work: for small devices.
        variant: "fp16" reads the half-precision files of a repository.
        revision: branch, tag or commit of a hub id.
        cache_dir: where downloads are kept.
        local_files_only: never touch the network.

    Raises:
        UserError: the model is unknown, out of reach, damaged or of an unknown family; CUDA is absent;
            nothing can be compiled here.
    """
    from csd_core.denoisers.runtime.compiling import check_compiler

    target = resolve_device(device)
    if compile:
        check_compiler(target)
    folder, family = locate(
        id_or_path,
        variant=variant,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )
    small: dict[str, Any] = {}
    if language := read_language(folder):
        small = {"presets": presets.MINI, "prompt_note": partial(unknown_prompt_message, language=language)}
    dtype = default_dtype(target) if torch_dtype == "auto" else torch_dtype
    with building("the model", folder):
        denoiser = family.load(
            folder, dtype=dtype, device=target, variant=variant, compile=compile, offload=offload, **small
        )
        check_runs(denoiser, str(folder))
    return denoiser
