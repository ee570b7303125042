"""What a checkpoint means: scene, optimisers and schedule. It is written beside its place and renamed."""

import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from csd_core.errors import UserError

STATE = "csd"  # the entry that nerfstudio's own checkpoints lack


def allow_harmless_globals() -> None:
    """Let torch >= 2.6 load nerfstudio's checkpoints, which hold numpy scalars, with weights_only on.

    A pickle names these as numpy.core... or numpy._core..., as the numpy that wrote it did.
    """
    scalar: Any = np.float64(0).__reduce__()[0]
    dtypes = [value for value in vars(np.dtypes).values() if isinstance(value, type)]
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    torch.serialization.add_safe_globals([np.dtype, *dtypes, *((scalar, name) for name in names)])


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
        steps = {int(path.stem.split("-")[1]): path for path in folder.glob("step-*.ckpt")}
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
    allow_harmless_globals()
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each have their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from error
    if not isinstance(loaded, dict) or not {"pipeline", "step"} <= loaded.keys():
        raise UserError(f"{path}: expected a nerfstudio checkpoint, with pipeline and step")
    take_shown_appearance(loaded["pipeline"])
    return loaded


def take_shown_appearance(weights: dict[str, Any]) -> None:
    """Older runs kept what renders of an edited scene show beside nerfacto's appearances: put it in there."""
    name = "field.embedding_appearance."
    for key in [key for key in weights if key.endswith(f"{name}shown")]:
        prefix = key.removesuffix("shown")
        shown, edited = weights.pop(key), weights.pop(f"{prefix}edited")
        if edited.any():
            table = weights[f"{prefix}embedding.weight"]
            weights[f"{prefix}embedding.weight"] = shown.expand_as(table).clone()


def write_checkpoint(content: dict[str, Any], path: Path, *, only_latest: bool) -> None:
    """Put a checkpoint in its place, all or nothing; then remove older ones if only the latest is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # beside the folder, not in it: nerfstudio takes every name in there for a checkpoint
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
    """Keep a checkpoint in another folder, too; at no cost where the file system has hard links."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unfinished-") as beside:
        fresh = Path(beside) / path.name
        try:
            os.link(path, fresh)
        except OSError:
            shutil.copyfile(path, fresh)
        os.replace(fresh, folder / path.name)


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
    """Undo the difference to random_state()."""
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])
