"""Progress of an edit: a bar, and durations in words."""

from collections.abc import Callable

from torch import Tensor

Callback = Callable[[int, Tensor], bool | None]
"""Called as callback(step, canvas) after every step; True ends the edit."""


def duration(seconds: float) -> str:
    """'45 s', '12 min', '3 h 5 min'."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class ProgressBar:
    """A callback that moves a progress bar with an ETA and then calls another callback."""

    def __init__(
        self,
        num_steps: int,
        callback: Callback | None,
        show: bool,
        start_step: int = 0,
        *,
        desc: str = "edit",
        unit: str = "step",
    ) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=num_steps, initial=start_step, desc=desc, unit=unit, disable=not show)
        self._callback = callback

    def __enter__(self) -> Callback:
        return self._report

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _report(self, step: int, canvas: Tensor) -> bool | None:
        self._bar.update()
        return self._callback(step, canvas) if self._callback is not None else None
