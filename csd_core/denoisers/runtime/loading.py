"""Check and load the components of a diffusers folder: small config files first, weights last."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from csd_core.errors import UserError

Components = Mapping[str, str | None]
"""Component -> stem of its weights file, None where it has no weights."""

_CONFIGS = {"tokenizer": "tokenizer_config.json", "scheduler": "scheduler_config.json"}
WAY_OUT = 'use the editor that ships with this package, "mini"'


def weight_patterns(components: Components, variant: str | None) -> list[str]:
    """The files of a repository that hold the weights of one variant, sharded or not."""
    dot = f".{variant}" if variant else ""
    stems = [f"{name}/{stem}" for name, stem in components.items() if stem]
    endings = (f"{dot}.safetensors", f"{dot}-0*.safetensors", f".safetensors.index{dot}.json")
    return [stem + ending for stem in stems for ending in endings]


def check_weights(folder: Path, name: str, components: Components, variant: str | None) -> None:
    """Look for the weight files, without reading them.

    Raises:
        UserError: weights are missing, or exist only in pickled form.
    """
    dot = f".{variant}" if variant else ""
    for component, stem in components.items():
        if stem is None:
            continue
        accepted = [f"{stem}{dot}.safetensors", f"{stem}.safetensors.index{dot}.json"]
        if any((folder / component / file).is_file() for file in accepted):
            continue
        if any(path.suffix in (".bin", ".ckpt", ".pt") for path in (folder / component).iterdir()):
            raise UserError(
                f"model {name!r}: {component} has pickled weights only, which are never read; "
                "save it again with save_pretrained(..., safe_serialization=True)"
            )
        raise UserError(
            f"model {name!r}: expected {component}/{accepted[0]}, found none; check folder and variant"
        )


def read_config(folder: Path, component: str, name: str) -> dict[str, Any]:
    """The config file of a component.

    Raises:
        UserError: there is none, or it is not JSON.
    """
    path = folder / component / _CONFIGS.get(component, "config.json")
    if not path.is_file():
        raise UserError(
            f"model {name!r}: expected a diffusers folder with {component}/{path.name}, found none; "
            f"check the name, or {WAY_OUT}"
        )
    return read_json(path, name)


def read_json(path: Path, name: str) -> dict[str, Any]:
    """A JSON file of the model called name.

    Raises:
        UserError: it is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except ValueError:
        file = path.name if path.name == "model_index.json" else f"{path.parent.name}/{path.name}"
        raise UserError(f"model {name!r}: {file} is not valid JSON; fetch the model again") from None


def load_network(kind: Any, folder: Path, component: str, variant: str | None, **dtype: torch.dtype) -> Any:
    """One network of a checked folder, by its class's from_pretrained, from safetensors.

    Raises:
        UserError: its weights are damaged or do not belong to its config.
    """
    try:
        with _without_progress_bars():
            model, info = kind.from_pretrained(
                str(folder / component),
                use_safetensors=True,
                variant=variant,
                local_files_only=True,
                output_loading_info=True,
                **dtype,
            )
    except Exception as error:  # the libraries raise many kinds for one fact: the files are damaged
        raise UserError(f"{folder}: cannot read {component}: {_first_line(error)}") from error
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise UserError(f"{folder}: the weights of {component} do not fit its config, which has {missing}")
    return model


def load_scheduler(folder: Path) -> Any:
    """The scheduler of a folder; one with alphas_cumprod.

    Raises:
        UserError: it has none.
    """
    from diffusers import schedulers
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    config = read_config(folder, "scheduler", str(folder))
    kind = getattr(schedulers, str(config.get("_class_name")), DDPMScheduler)
    scheduler = kind.from_config(config)
    if not hasattr(scheduler, "alphas_cumprod"):
        raise UserError(f"{folder}: expected a scheduler with alphas_cumprod, got {kind.__name__}")
    return scheduler


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Local files are read in a moment; transformers' bars would come between our lines."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
