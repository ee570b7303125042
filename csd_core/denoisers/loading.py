"""Find, check and load the components of an InstructPix2Pix model.

The order matters: small config files first, weights last, so that bad input is reported within seconds.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from csd_core.denoisers.hub import fetch_from_hub
from csd_core.errors import UserError
from csd_core.mini_editor.language import read_language

MINI = "mini"
MINI_FOLDER = Path(__file__).resolve().parent.parent / "mini_editor" / "weights"

# component -> stem of its weights file, None where it has no weights
COMPONENTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "tokenizer": None,
    "scheduler": None,
}
CONFIGS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
_WAY_OUT = f'use the editor that ships with this package, "{MINI}"'


def resolve_device(device: str | torch.device | None) -> torch.device:
    """None -> CUDA where there is one, else the CPU.

    Raises:
        UserError: the device is unknown, or CUDA is asked for and absent.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise UserError(f"device: expected cpu, cuda or cuda:0, got {str(device)!r}") from None
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: {device} was asked for, but this machine has no CUDA device; use cpu")
    return resolved


def locate(
    id_or_path: str,
    *,
    variant: str | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """The local folder of a checked InstructPix2Pix model; downloads a hub id, configs before weights.

    Raises:
        UserError: unknown or out of reach, or not an InstructPix2Pix model with safetensors weights.
    """
    if id_or_path == MINI:
        folder = MINI_FOLDER
        if not (folder / "model_index.json").is_file():
            raise UserError(f'model "{MINI}": this installation lacks its weights; reinstall the package')
    elif Path(id_or_path).expanduser().is_dir():
        folder = Path(id_or_path).expanduser()
    else:
        fetch = partial(
            fetch_from_hub,
            id_or_path,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        folder = fetch([f"{name}/*.json" for name in COMPONENTS] + ["tokenizer/*.txt"])
        check_configs(folder, id_or_path)
        folder = fetch(weight_patterns(variant))
    check_configs(folder, id_or_path)
    check_weights(folder, id_or_path, variant)
    return folder


def weight_patterns(variant: str | None) -> list[str]:
    """The files of a repository that hold the weights of one variant, sharded or not."""
    dot = f".{variant}" if variant else ""
    stems = [f"{name}/{stem}" for name, stem in COMPONENTS.items() if stem]
    endings = (f"{dot}.safetensors", f"{dot}-0*.safetensors", f".safetensors.index{dot}.json")
    return [stem + ending for stem in stems for ending in endings]


def check_configs(folder: Path, name: str) -> None:
    """Read the config files alone.

    Raises:
        UserError: a component is missing, or the components are not those of InstructPix2Pix.
    """
    configs = {component: _read_config(folder, component, name) for component in COMPONENTS}
    latents = configs["vae"].get("latent_channels", 4)
    channels = configs["unet"].get("in_channels", 4)
    if channels != 2 * latents:
        raise UserError(
            f"model {name!r}: expected an InstructPix2Pix model, whose UNet takes {2 * latents} channels "
            f"(noisy latents and image), got one that takes {channels}; choose another, or {_WAY_OUT}"
        )
    kind = configs["scheduler"].get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction"):
        raise UserError(f"model {name!r}: expected prediction_type epsilon or v_prediction, got {kind!r}")


def check_weights(folder: Path, name: str, variant: str | None) -> None:
    """Look for the weight files, without reading them.

    Raises:
        UserError: weights are missing, or exist only in pickled form.
    """
    dot = f".{variant}" if variant else ""
    for component, stem in COMPONENTS.items():
        if stem is None:
            continue
        accepted = [f"{stem}{dot}.safetensors", f"{stem}.safetensors.index{dot}.json"]
        if any((folder / component / file).is_file() for file in accepted):
            continue
        if any(path.suffix in (".bin", ".ckpt", ".pt") for path in (folder / component).iterdir()):
            raise UserError(
                f"model {name!r}: {component} has pickled weights only, which are never read; "
                "save it anew with save_pretrained(..., safe_serialization=True)"
            )
        raise UserError(
            f"model {name!r}: expected {component}/{accepted[0]}, found none; check folder and variant"
        )


def load_components(
    folder: Path, *, torch_dtype: torch.dtype, device: torch.device, variant: str | None = None
) -> dict[str, Any]:
    """unet, vae, text_encoder, tokenizer, scheduler and language of a checked folder, by name.

    Raises:
        UserError: a weight file is damaged or does not belong to its config.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    def load(kind: Any, component: str, **dtype: torch.dtype) -> Any:
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
            raise UserError(
                f"{folder}: the weights of {component} do not fit its config, which has {missing}"
            )
        return model.to(device)

    vae_class = _read_config(folder, "vae", str(folder)).get("_class_name")
    vae = AutoencoderTiny if vae_class == "AutoencoderTiny" else AutoencoderKL

    return {
        "unet": load(UNet2DConditionModel, "unet", torch_dtype=torch_dtype),
        "vae": load(vae, "vae", torch_dtype=torch.float32),
        "text_encoder": load(CLIPTextModel, "text_encoder", dtype=torch_dtype),
        "tokenizer": CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True),
        "scheduler": _load_scheduler(folder),
        "language": read_language(folder),
    }


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Local files are read in a moment: transformers' bars would only come between our lines."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _load_scheduler(folder: Path) -> Any:
    from diffusers import schedulers
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    config = json.loads((folder / "scheduler" / CONFIGS["scheduler"]).read_text())
    kind = getattr(schedulers, str(config.get("_class_name")), DDPMScheduler)
    scheduler = kind.from_config(config)
    if not hasattr(scheduler, "alphas_cumprod"):
        raise UserError(f"{folder}: expected a scheduler with alphas_cumprod, got {kind.__name__}")
    return scheduler


def _read_config(folder: Path, component: str, name: str) -> dict[str, Any]:
    path = folder / component / CONFIGS[component]
    if not path.is_file():
        raise UserError(
            f"model {name!r}: expected a diffusers folder with {component}/{path.name}, found none; "
            f"check the name, or {_WAY_OUT}"
        )
    try:
        return json.loads(path.read_text())
    except ValueError:
        problem = f"{component}/{path.name} is not valid JSON; fetch the model again"
        raise UserError(f"model {name!r}: {problem}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
