"""Check and load the components of a diffusers folder: small config files first, weights last."""

import json
import string
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from csd_core.errors import UserError
from csd_core.method.schedule import VariancePreserving

Components = Mapping[str, str | None]
"""Component -> stem of its weights file, None where it has no weights."""

_CONFIGS = {"tokenizer": "tokenizer_config.json", "scheduler": "scheduler_config.json"}
WAY_OUT = 'use the editor that ships with this package, "mini"'
FETCH_AGAIN = "fetch the model again"

# weights that a text encoder has beside its own where it was saved as a part of CLIP
_OF_WHOLE_CLIP = ("vision_model.", "visual_projection.", "text_projection.", "logit_scale")


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
        UserError: it is not a JSON object.
    """
    file = path.name if path.name == "model_index.json" else f"{path.parent.name}/{path.name}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"model {name!r}: {file} is not valid JSON ({_reason(error)}); {FETCH_AGAIN}"
        ) from None
    if not isinstance(content, dict):
        raise UserError(
            f"model {name!r}: {file}: expected a JSON object, got {type(content).__name__}; {FETCH_AGAIN}"
        )
    return content


def check_number(config: Mapping[str, Any], key: str, default: float | None, most: float, where: str) -> None:
    """Raise a UserError unless config has a number above 0 and up to most, whole if most is an int.

    default: what counts where there is no such key. where: names the file.
    """
    value = config.get(key, default)
    is_whole = isinstance(most, int)
    right = isinstance(value, int if is_whole else int | float) and not isinstance(value, bool)
    if not right or not 0 < value <= most:  # NaN is neither
        kind = "whole number" if is_whole else "number"
        raise UserError(
            f"{where}: expected {key} as a {kind} above 0, at most {most:g}, got {value!r}; {FETCH_AGAIN}"
        )


@contextmanager
def building(component: str, folder: Path) -> Iterator[None]:
    """Around a library that builds a component; torch's default dtype stays what it was.

    Raises:
        UserError: in place of whatever the library raises: the files are damaged.
    """
    dtype = torch.get_default_dtype()  # what transformers sets, and leaves where it fails
    try:
        with _quiet():
            yield
    except (UserError, PermissionError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the libraries raise many kinds for one fact
        raise _damaged(f"cannot read {component} ({_reason(error)})", folder) from error
    finally:
        torch.set_default_dtype(dtype)


def load_network(kind: Any, folder: Path, component: str, variant: str | None, **dtype: torch.dtype) -> Any:
    """One network of a checked folder, by its class's from_pretrained, from safetensors.

    Raises:
        UserError: its weights are damaged or do not belong to its config.
    """
    with building(component, folder):
        model, info = kind.from_pretrained(
            str(folder / component),
            use_safetensors=True,
            variant=variant,
            local_files_only=True,
            output_loading_info=True,
            **dtype,
        )
    extra = [key for key in info["unexpected_keys"] if not key.startswith(_OF_WHOLE_CLIP)]
    for keys, which in ((info["missing_keys"], "has"), (extra, "lacks")):
        if keys:
            some = ", ".join(sorted(keys)[:3])
            raise _damaged(f"the weights of {component} do not fit its config, which {which} {some}", folder)
    return model


def load_tokenizer(
    kind: Any, folder: Path, *, vocabulary: int, length: int, component: str = "tokenizer"
) -> Any:
    """A tokenizer that knows the alphabet and fits the text encoder it belongs to.

    Without its vocabulary a tokenizer loads without a word, and every prompt is the same unknown token.

    Args:
        kind: its class.
        folder: of the model.
        vocabulary: the number of tokens that the text encoder knows.
        length: the number of tokens that it reads; the tokenizer's own limit counts where it is smaller.
        component: its folder.

    Raises:
        UserError: it cannot be read, has no vocabulary or that of another model.
    """
    with building(component, folder):
        tokenizer = kind.from_pretrained(str(folder / component), local_files_only=True)
        tokens = tokenizer.get_vocab()
        letters = tokenizer(list(string.ascii_lowercase), add_special_tokens=False)["input_ids"]
        known = {tuple(of) for of in letters if of and tokenizer.unk_token_id not in of}
        tokenizer.model_max_length = length = min(tokenizer.model_max_length, length)
    if length < 3:  # start, a word and end
        raise _damaged(f"{component}: expected model_max_length of at least 3 tokens, got {length!r}", folder)
    fits = 0.9 * vocabulary <= len(tokens) and max(tokens.values()) < vocabulary
    if not fits or len(known) < len(letters):
        expected = f"expected the {vocabulary} tokens of the text encoder, among them every letter"
        got = f"{len(tokens)} tokens and {len(known)} letters"
        raise _damaged(f"{component}: {expected}, got {got}", folder)
    return tokenizer


def load_scheduler(folder: Path) -> Any:
    """The scheduler of a folder; one with alphas_cumprod.

    Raises:
        UserError: it has none, or its config is damaged.
    """
    from diffusers import schedulers

    config, where = read_config(folder, "scheduler", str(folder)), f"scheduler/{_CONFIGS['scheduler']}"
    name = config.get("_class_name")
    kind: Any = getattr(schedulers, str(name), None)
    if kind is None:
        raise _damaged(
            f"expected _class_name in {where} to be a scheduler of diffusers, got {name!r}", folder
        )
    check_number(config, "num_train_timesteps", 1000, 100_000, f"model {str(folder)!r}: {where}")
    with building("scheduler", folder):
        scheduler = kind.from_config(config)
        alphas = getattr(scheduler, "alphas_cumprod", None)
        if alphas is None:
            raise UserError(f"{folder}: expected a scheduler with alphas_cumprod, got {kind.__name__}")
        scheduler.set_timesteps(min(10, len(alphas) - 1))  # reads the rest of its config
        VariancePreserving(alphas)  # checks them
    return scheduler


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' bars and reports from coming between our lines."""
    import diffusers.utils.logging
    import transformers.utils.logging

    libraries: tuple[Any, ...] = (diffusers.utils.logging, transformers.utils.logging)
    bars = transformers.utils.logging.is_progress_bar_enabled()
    levels = [library.get_verbosity() for library in libraries]
    transformers.utils.logging.disable_progress_bar()
    try:
        for library in libraries:
            library.set_verbosity_error()
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()


def _reason(error: Exception) -> str:
    return textwrap.shorten(str(error) or type(error).__name__, 160, placeholder=" ...")


def _damaged(what: str, folder: Path) -> UserError:
    return UserError(
        f"model {str(folder)!r}: {what}: its files are damaged or do not belong together; {FETCH_AGAIN}"
    )
