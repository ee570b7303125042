"""The content of an evaluation's report: as JSON, as a table on the terminal, and the check of its folder."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from csd_core.errors import expect
from csd_core.evaluation.measures import Measured
from csd_core.evaluation.tools import Captions, Tools
from csd_core.io.files import check_output
from csd_core.machine import describe_machine, versions

NOT_MEASURED = "not measured"
PACKAGES = ("open_clip_torch", "lpips", "torchmetrics", "torch-fidelity", "opencv-python-headless")
BEFORE_AFTER = "before_after.png"
_OURS = {"report.json", "report.html", "frames", BEFORE_AFTER}


class Section(NamedTuple):
    """A further table of a report, with an image."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str
    picture: Path


@dataclass
class Report:
    """The content of a report.

    Attributes:
        command: such as "csd-evaluate video".
        options: of the command, as JSON values.
        captions: of the source, and of the intended edit.
        tools: the networks.
        inputs: path -> SHA-256.
        names: of the items.
        positions: of the items; neighbours are those that are 1 apart.
        measures: the results.
        broken: an error message for each file that could not be read.
        seconds: that the evaluation took.
        settings: what else the numbers depend on, as JSON values.
        section: a further table of the HTML page.
    """

    command: str
    options: dict[str, Any]
    captions: Captions
    tools: Tools
    inputs: dict[str, str]
    names: Sequence[str]
    positions: Sequence[int]
    measures: Sequence[Measured]
    broken: Sequence[str] = ()
    seconds: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    section: Section | None = None

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Numbers of the items of each pair of neighbours."""
        numbered = pairwise(enumerate(self.positions))
        return [(a, b) for (a, here), (b, there) in numbered if there - here == 1]

    def as_json(self) -> dict[str, Any]:
        """The content of report.json; None where a number is not defined."""
        clip = self.tools.clip
        extractor = {name: getattr(clip, name) for name in ("name", "label", "identity")} if clip else None
        return {
            "command": self.command,
            "options": self.options,
            "captions": asdict(self.captions),
            "extractor": extractor,
            "inputs": self.inputs,
            **self.settings,
            "items": list(self.names),
            "pairs": [[self.names[a], self.names[b]] for a, b in self.pairs],
            "measures": [_as_json(measure) for measure in self.measures],
            "broken": list(self.broken),
            "missing": self.tools.missing,
            "notes": self.tools.caption_notes(self.captions),
            "seconds": round(self.seconds, 2),
            "machine": describe_machine(),
            "versions": versions(*PACKAGES),
        }


def check_report_folder(output: Path, *inputs: Path) -> None:
    """Check that a report can be written to a folder: a new one, an empty one, or an older report.

    Args:
        output: the folder.
        inputs: files and folders that are read, which must not be replaced.

    Raises:
        UserError: it holds anything else, or an input, or lies in a folder that is read.
    """
    place = output.resolve()
    for given in inputs:
        check_output(output, given, folder_allowed=True)
        read = given.resolve()
        inside = place in (read, *read.parents) or (read.is_dir() and read in place.parents)
        got = f"one inside or around {given}; choose another output"
        expect(not inside, str(output), "a folder apart from what is read", got)
    expect(not output.exists() or output.is_dir(), str(output), "a folder", "a file; choose another output")
    if output.is_dir() and any(output.iterdir()):
        got = "a folder with other files; choose another output"
        expect(_is_report(output), str(output), "a new folder, or an older report to replace", got)


def _is_report(folder: Path) -> bool:
    try:
        content = json.loads((folder / "report.json").read_text())
    except (OSError, ValueError):
        return False
    is_ours = isinstance(content, dict) and str(content.get("command", "")).startswith("csd-evaluate")
    return is_ours and {path.name for path in folder.iterdir()} <= _OURS


def print_report(report: Report) -> None:
    """Print the measures as a table; in a file as wide as it needs."""
    console = Console()
    if not console.is_terminal:
        console.width = 120
    table = Table("measure", "mean ± standard error", "n", "better", title=heading(report))
    table.title_justify = "left"
    for measure in report.measures:
        table.add_row(measure.title, amount(measure), str(measure.n), measure.better)
    console.print(table)


def heading(report: Report) -> str:
    """The model of the features."""
    clip = report.tools.clip
    return f"features of images and captions by {clip.name}" if clip else "no extractor of features"


def amount(measure: Measured) -> str:
    """Mean and error with their unit."""
    if measure.missing:
        return NOT_MEASURED
    if not measure.n:
        return "not defined"
    unit = f" {measure.unit}" if measure.unit else ""
    error = "" if math.isnan(measure.error) else f" ± {measure.error:.2g}"
    return f"{measure.mean:.4g}{error}{unit}"


def _as_json(measure: Measured) -> dict[str, Any]:
    """The fields of a measure with None for NaN."""
    numbers = {name: _or_none(getattr(measure, name)) for name in ("mean", "error")}
    return asdict(measure) | numbers | {"values": [_or_none(value) for value in measure.values]}


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
