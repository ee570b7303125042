"""An edit while it runs: progress with ETA, previews, checkpoints for --resume, and Ctrl-C."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from torch import Tensor

from csd_core.engine.checkpoint import Checkpoint
from csd_core.engine.progress import ProgressBar
from csd_core.engine.ranks import ALONE, Ranks

SAVE_SECONDS = 30.0
"""Time between two checkpoints: a kill loses so much at most."""


class Watch:
    """A callback for engine.edit_latents, to be used inside `watching`.

    Args:
        num_steps: of the edit.
        checkpoint: where the canvas is saved every SAVE_SECONDS, and when the edit is stopped.
        preview: writes a preview of a canvas.
        preview_every: steps between two previews; 0: none.
        ranks: share the edit. Only rank 0 saves, previews and prints.
    """

    def __init__(
        self,
        num_steps: int,
        checkpoint: Checkpoint,
        preview: Callable[[Tensor], None],
        preview_every: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self.stopped = False
        """Whether Ctrl-C was pressed."""
        self.steps_done = 0
        self._num_steps, self._checkpoint = num_steps, checkpoint
        self._preview, self._preview_every = preview, preview_every
        self._saved, self._ranks = time.monotonic(), ranks

    def __call__(self, step: int, canvas: Tensor) -> bool:
        """A step is done. True: stop here."""
        self.steps_done = step + 1
        if self.steps_done < self._num_steps and self._ranks.is_main:
            if self._preview_every and self.steps_done % self._preview_every == 0:
                self._preview(canvas)
            if self.stopped or time.monotonic() - self._saved >= SAVE_SECONDS:
                self._checkpoint.save(self.steps_done, canvas)
                self._saved = time.monotonic()
        return self.stopped and self.steps_done < self._num_steps

    @contextmanager
    def watching(self, start_step: int) -> Iterator[Callable[[int, Tensor], bool | None]]:
        """The callback, with a progress bar. Ctrl-C ends the edit after the current step, twice at once."""
        before = signal.signal(signal.SIGINT, self._stop)
        try:
            with ProgressBar(self._num_steps, self, self._ranks.is_main, start_step) as report:
                yield report
        finally:
            signal.signal(signal.SIGINT, before)

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
        if self._ranks.is_main:
            print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr)
