"""What describes an experiment: its rows, columns and plot, at two scales."""

from dataclasses import dataclass, field
from typing import Literal

from csd_core.experiments.paper import PaperTable
from csd_core.experiments.settings import DomainName, Prompt, Variant


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    key: str
    """Of a figure of csd-evaluate or figures.py, or of what cell.json says: seconds, evaluations."""
    title: str
    """Heading. {clip} stands for CLIP, or for what stands in for it."""
    better: Literal["higher", "lower", ""] = ""
    """Which is better, where one is."""
    places: int = 3
    """Decimals."""


@dataclass(frozen=True)
class Plot:
    """What is plotted: two columns against each other, a line for each method; or bars, a panel each."""

    columns: tuple[str, ...]
    """Keys: two for a trade-off, x and y; any number for bars."""
    kind: Literal["tradeoff", "bars"] = "bars"


@dataclass(frozen=True)
class Scale:
    """An experiment at one size."""

    variants: tuple[Variant, ...]
    """The rows."""
    prompts: tuple[Prompt, ...]
    """Instructions."""
    num_inputs: int | None = None
    """Inputs that are taken of a folder, and that are drawn without one. None: all; 1 is drawn."""
    drawn_size: tuple[int, int] = (1920, 512)
    """Width and height of what is drawn, in pixels; clips are square, of that height."""
    short_side: int | None = None
    """What is read from a folder is resized to it. None: left as it is."""
    num_frames: int = 24
    """Of a clip."""
    num_steps: int | None = None
    """Of optimisation. None: what suits the editor."""
    stride: int | None = None
    """Latent pixels from window to window. None: what suits the editor."""


@dataclass(frozen=True)
class Experiment:
    """A table or figure of the paper, to be made again."""

    name: str
    """As the command takes it."""
    title: str
    """One line."""
    paper: str
    """Where it is in the paper."""
    domain: DomainName
    """What is edited."""
    full: Scale
    """As in the paper."""
    mini: Scale
    """For the editor that ships with the package."""
    columns: tuple[Column, ...]
    """Of the table."""
    plot: Plot
    """Beside it."""
    published: PaperTable = field(default_factory=dict)
    """The paper's numbers: name of a variant -> key of a column."""
    note: str = ""
    """To be read with the table."""
    measured: bool = True
    """Whether edits are measured, or only timed."""
