"""Checkpoints (scene, optimisers, schedule): found, read, written to a temporary file and renamed."""

import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from csd_core.errors import UserError
from csd_core.io.files import written_beside
from csd_nerf.nerfstudio_compat.safe_globals import allow_numpy_scalars

BASE_FOLDER = "base_model"
"""In the run's folder: the scene before the first edit, for --load-dir with other prompts."""
STATE = "csd"  # the entry that nerfstudio's own checkpoints lack


def find_checkpoint(
    load_dir: Path | None, load_step: int | None, load_checkpoint: Path | None
) -> Path | None:
    """The checkpoint that --load-dir, --load-step and --load-checkpoint name; None without any.

    load_dir may also be the folder of the run itself.

    Raises:
        UserError: there is none.
    """
    if load_dir is None:
        if load_checkpoint is None or load_checkpoint.is_file():
            return load_checkpoint
        raise UserError(f"--load-checkpoint {load_checkpoint}: no such file")
    for folder in (load_dir, load_dir / "nerfstudio_models"):
        named = [path for path in folder.glob("step-*.ckpt") if path.stem[5:].isdecimal()]
        steps = {int(path.stem[5:]): path for path in named}
        if load_step is None and steps:
            return steps[max(steps)]
        if load_step in steps:
            return steps[load_step]
    wanted = "step-*.ckpt" if load_step is None else f"step-{load_step:09d}.ckpt"
    raise UserError(f"--load-dir {load_dir}: no {wanted} in it; name the folder nerfstudio_models of a run")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint on the CPU, with weights_only.

    Raises:
        UserError: the file is damaged, or holds something else.
    """
    allow_numpy_scalars()
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each have their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from error
    if not _is_checkpoint(loaded):
        expected = "a nerfstudio checkpoint, with pipeline and step"
        raise UserError(f"{path}: expected {expected}, got something else; name another")
    take_shown_appearance(loaded["pipeline"])
    return loaded


def _is_checkpoint(loaded: Any) -> bool:
    """Whether a run can be checked by it; the rest is looked at when it is loaded."""
    if not isinstance(loaded, dict):
        return False
    weights, step, state = (loaded.get(name) for name in ("pipeline", "step", STATE))
    if not isinstance(weights, dict) or not _is_count(step):
        return False
    named = all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in weights.items())
    if not named or state is None:
        return named
    try:
        return _is_count(state["base_steps"]) and isinstance(state["edit"]["configured"]["prompt"], str)
    except (TypeError, LookupError):
        return False


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def take_shown_appearance(weights: dict[str, Any]) -> None:
    """Convert weights of older runs, which kept the appearance of edited renders outside nerfacto's table."""
    name = "field.embedding_appearance."
    for key in [key for key in weights if key.endswith(f"{name}shown")]:
        prefix = key.removesuffix("shown")
        shown, edited = weights.pop(key), weights.pop(f"{prefix}edited", None)
        table = weights.get(f"{prefix}embedding.weight")
        if edited is not None and table is not None and edited.any():
            weights[f"{prefix}embedding.weight"] = shown.expand_as(table).clone()


def write_checkpoint(content: dict[str, Any], path: Path, *, only_latest: bool) -> None:
    """Write a checkpoint, all or nothing; then remove older ones if only the latest is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # not in the same folder: nerfstudio takes every file there for a checkpoint
    with tempfile.TemporaryDirectory(dir=path.parent.parent, prefix=".unfinished-") as beside:
        fresh = Path(beside) / path.name
        with open(fresh, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    if only_latest:
        for other in path.parent.glob("step-*.ckpt"):
            if other != path:
                other.unlink()


def keep_copy(path: Path, folder: Path) -> None:
    """Keep a checkpoint in another folder as well, as a hard link where the file system has them."""
    with written_beside(folder / path.name) as fresh:
        try:
            os.link(path, fresh)
        except OSError:
            shutil.copyfile(path, fresh)


def random_state() -> dict[str, Any]:
    """The state of every global generator, as tensors and plain data."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore random_state()."""
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])
