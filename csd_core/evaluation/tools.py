"""The captions of an evaluation and the networks that it measures with."""

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
    """Of the source, and of the intended edit."""

    source: str
    target: str

    def checked(self) -> "Captions":
        """These; a UserError unless there are two, and they differ."""
        for name, caption in (("source", self.source), ("target", self.target)):
            expected = f'a caption of the {name}, such as "a photo of a bear"'
            expect(bool(caption.strip()), f"--{name}-caption", expected, "nothing")
        got = f"{self.source!r} for both; describe the intended edit"
        expect(self.source.strip() != self.target.strip(), "captions", "two that differ", got)
        return self


@dataclass
class Tools:
    """The networks; None where one is not wanted or could not be loaded.

    Attributes:
        clip: features of images and captions.
        lpips: distances between images.
        inception: FID.
        missing: "MEASURE: why", for each network that could not be loaded.
    """

    clip: "ClipExtractor | None" = None
    lpips: "Lpips | None" = None
    inception: "Inception | None" = None
    missing: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The label of the numbers of the extractor."""
        return self.clip.label if self.clip else "CLIP"

    def reason(self, measure: str) -> str:
        """Why the network of a measure is not there."""
        lines = (line for line in self.missing if line.startswith(f"{measure}: "))
        return next(lines, f"{measure}: no network was given").removeprefix(f"{measure}: ")

    def caption_notes(self, captions: Captions) -> list[str]:
        """A line for each caption with words that the scorer was not trained on."""
        words = {text: self.clip.unknown_words(text) for text in vars(captions).values()} if self.clip else {}
        return [
            f"{self.clip.name} was not trained on {', '.join(dict.fromkeys(unknown))} of {text!r}: use other "
            "words, or --clip"
            for text, unknown in words.items()
            if self.clip and unknown
        ]

    def try_loading(self, measure: str, load: Callable[[], Network]) -> Network | None:
        """The network that `load` returns; None, and a line in `missing`, where it raises a UserError."""
        try:
            return load()
        except UserError as error:
            self.missing.append(f"{measure}: {error}")
            return None
