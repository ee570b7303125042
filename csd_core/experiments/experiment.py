"""What describes an experiment: its rows, columns and plot, at two scales."""

from dataclasses import dataclass, field
from typing import Literal

from csd_core.experiments.paper import PaperTable
from csd_core.experiments.settings import DomainName, Prompt, Variant


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    key: str
    """Of a measure (csd-evaluate's or measures.py's), or of a field of cell.json: seconds, evaluations."""
    title: str
    """Heading. {clip} stands for the name of the extractor: CLIP or scorer."""
    better: Literal["higher", "lower", ""] = ""
    """Which is better; "" where neither is."""
    places: int = 3
    """Decimals."""


@dataclass(frozen=True)
class Scale:
    """An experiment at one size."""

    variants: tuple[Variant, ...]
    """The rows."""
    prompts: tuple[Prompt, ...]
    """Instructions."""
    num_inputs: int | None = None
    """Inputs taken from a folder, or rendered without one. None: all of the folder; one is rendered."""
    rendered_size: tuple[int, int] = (1920, 512)
    """Width and height of rendered inputs, in pixels; clips are squares of that height."""
    short_side: int | None = None
    """Inputs from a folder are resized to it, in pixels. None: their own size."""
    num_frames: int = 24
    """Frames of a clip."""
    num_steps: int | None = None
    """Optimisation steps. None: the model's preset."""
    stride: int | None = None
    """Latent pixels from window to window. None: the model's preset."""


@dataclass(frozen=True)
class Experiment:
    """A table or figure, reproduced."""

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
    plot: tuple[str, ...]
    """Keys of the columns that are plotted, in a panel each."""
    tradeoff: bool = False
    """Plot two columns against each other, a line for each method."""
    published: PaperTable = field(default_factory=dict)
    """The paper's numbers: name of a variant -> key of a column -> number."""
    note: str = ""
    """Printed below the table."""
    measured: bool = True
    """Whether edits are measured, or only timed."""
