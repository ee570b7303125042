"""An unfinished edit on disk: its canvas, the number of steps done, and its settings."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csd_core.errors import UserError
from csd_core.io.files import written_beside


class Checkpoint:
    """One safetensors file, replaced as a whole, so that a kill at any moment leaves a whole one.

    Args:
        path: the file.
        settings: all that the result depends on, as JSON values.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._settings = json.loads(json.dumps(settings))  # as it will be read back: tuples are lists

    def save(self, steps_done: int, canvas: Tensor) -> None:
        """Keep the canvas after so many steps."""
        from safetensors.torch import save_file

        metadata = {"settings": json.dumps(self._settings), "steps_done": str(steps_done)}
        with written_beside(self.path) as fresh:
            save_file({"canvas": canvas.detach().contiguous().cpu()}, fresh, metadata)

    def load(self) -> tuple[int, Tensor] | None:
        """Steps done and canvas (on the CPU); None where there is no such file.

        Raises:
            UserError: the file is damaged, or was started with other settings.
        """
        from safetensors import SafetensorError, safe_open

        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata()
                steps_done, settings = int(metadata["steps_done"]), json.loads(metadata["settings"])
                canvas = file.get_tensor("canvas")
            if not isinstance(settings, dict):
                raise TypeError("no settings")
            if steps_done not in range(settings.get("num_steps", steps_done) + 1):
                raise ValueError(f"{steps_done} steps done")
            if canvas.dtype != torch.float32 or not bool(canvas.isfinite().all()):
                raise ValueError("its latents are no finite float32")
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._damaged(error) from error
        self._compare(settings)
        return steps_done, canvas

    def check_shape(self, canvas: Tensor, shape: Sequence[int]) -> None:
        """Raise a UserError unless the canvas that was loaded has the shape of the edit's."""
        if canvas.shape != torch.Size(shape):
            raise self._damaged(f"latents of shape {tuple(canvas.shape)}, not {tuple(shape)}")

    def remove(self) -> None:
        """Forget it."""
        self.path.unlink(missing_ok=True)

    def _damaged(self, reason: object) -> UserError:
        return UserError(f"resume: {self.path} is damaged ({reason}); delete it to start again")

    def _compare(self, started_with: Mapping[str, Any]) -> None:
        keys = [*started_with, *(key for key in self._settings if key not in started_with)]
        for key in keys:
            before, now = started_with.get(key), self._settings.get(key)
            if before != now:
                raise UserError(
                    f"resume: {self.path} was started with {key} {before!r}, not {now!r}; "
                    "give the same settings, or leave out --resume"
                )
