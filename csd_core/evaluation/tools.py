"""What an evaluation measures with: two captions, and the networks that could be loaded."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from csd_core.errors import UserError, expect

if TYPE_CHECKING:
    from csd_core.evaluation.metrics.extractors import ClipExtractor
    from csd_core.evaluation.metrics.perceptual import Inception, Lpips

Network = TypeVar("Network")

LPIPS, FID = "LPIPS", "FID"


@dataclass(frozen=True)
class Captions:
    """What the source shows, and what the edit should show."""

    source: str
    target: str

    def check(self) -> None:
        """Raise a UserError unless there are two, and they differ."""
        for name, caption in (("source", self.source), ("target", self.target)):
            expected = f'a caption of the {name}, such as "a photo of a bear"'
            expect(bool(caption.strip()), f"--{name}-caption", expected, "nothing")
        got = f"{self.source!r} for both; say what the edit should show"
        expect(self.source.strip() != self.target.strip(), "captions", "two that differ", got)


@dataclass
class Tools:
    """The networks; None where one is not wanted or could not be loaded.

    Attributes:
        clip: features of pictures and captions.
        lpips: distances between pictures.
        inception: features for FID.
        missing: a line on each network that could not be loaded, which begins with its measure.
    """

    clip: "ClipExtractor | None" = None
    lpips: "Lpips | None" = None
    inception: "Inception | None" = None
    missing: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """What the numbers of the extractor are called."""
        return self.clip.label if self.clip else "CLIP"

    def reason(self, measure: str) -> str:
        """Why the network of a measure is not there."""
        lines = (line for line in self.missing if line.startswith(f"{measure}: "))
        return next(lines, f"{measure}: no network was given").removeprefix(f"{measure}: ")

    def try_loading(self, measure: str, load: Callable[[], Network]) -> Network | None:
        """What `load` gives; None, and a line more in `missing`, where it raises a UserError."""
        try:
            return load()
        except UserError as error:
            self.missing.append(f"{measure}: {error}")
            return None
