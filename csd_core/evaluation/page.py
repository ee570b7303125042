"""The files of a report: report.json, and report.html, one file with images and plots inside."""

import base64
import io
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from csd_core.evaluation.measures import Measured
from csd_core.evaluation.report import Report, amount, heading
from csd_core.image_ops import editor_size, resize
from csd_core.io.images import quantise

MAX_ITEMS = 24
"""Items that are shown at most, evenly spaced."""
SIDE = 160
"""Short side of an image in the report, in pixels, if it is larger."""
_TEMPLATE = Path(__file__).with_name("report.html.j2")


def write_report(folder: Path, report: Report, sources: Iterable[Tensor], edited: Iterable[Tensor]) -> None:
    """Write report.json and report.html into an existing folder.

    Args:
        folder: see files.folder_written_beside.
        report: the content.
        sources: the items, (3, H, W) in [0, 1] each, for the images of the page.
        edited: likewise.
    """
    import jinja2

    content = report.as_json()
    (folder / "report.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        content=content,
        heading=heading(report),
        rows=[(measure, amount(measure)) for measure in report.measures],
        section=report.section,
        picture=report.section and _data_uri("png", report.section.picture.read_bytes()),
        shown=_shown(report, sources, edited),
        total=len(report.names),
        plots=[(m, _plot(report, m)) for m in report.measures if m.over != "whole" and m.n > 1],
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def _shown(report: Report, sources: Iterable[Tensor], edited: Iterable[Tensor]) -> list[dict[str, Any]]:
    """Name, images and numbers of evenly spaced items; numbers of a pair are shown at its first item."""
    count = min(len(report.names), MAX_ITEMS)
    chosen = set(np.linspace(0, len(report.names) - 1, count).round().astype(int).tolist())
    return [
        {
            "name": report.names[k],
            "images": [("source", _jpeg(before)), ("edit", _jpeg(after))],
            "numbers": [(m.title, m.over, value) for m in report.measures for value in _at(report, m, k)],
        }
        for k, (before, after) in enumerate(zip(sources, edited, strict=True))
        if k in chosen
    ]


def _at(report: Report, measure: Measured, item: int) -> list[str]:
    """The value of an item, or of the pair that it starts; empty if it has none."""
    found = dict(zip(_places(report, measure), measure.values, strict=False)).get(item, math.nan)
    return [] if math.isnan(found) or measure.over == "whole" else [f"{found:.4g}"]


def _places(report: Report, measure: Measured) -> list[int]:
    """The number of the item of each value, or of the first of its pair."""
    return list(range(len(report.names))) if measure.over == "item" else [a for a, _ in report.pairs]


def _jpeg(image: Tensor) -> str:
    """A small copy of an image as a data URI."""
    from PIL import Image

    size = (image.shape[-2], image.shape[-1])
    small = resize(image, editor_size(*size, SIDE)) if min(size) > SIDE else image
    file = io.BytesIO()
    Image.fromarray(quantise(small, np.uint8)).save(file, "JPEG", quality=88)
    return _data_uri("jpeg", file.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _plot(report: Report, measure: Measured) -> str:
    """The values in order and their mean, an SVG as a data URI; those of pairs between their two items."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": measure.key, "font.size": 8}):
        figure = Figure(figsize=(5, 1.8), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        shift = 0.5 if measure.over == "pair" else 0
        places = [report.positions[k] + shift for k in _places(report, measure)]
        axes.plot(places, measure.values, "o-", markersize=3, linewidth=1, color="#2a6f97")
        axes.axhline(measure.mean, linestyle="--", linewidth=0.8, color="#888888")
        axes.set_xlabel("item" if measure.over == "item" else "between items")
        axes.set_ylabel(measure.unit or "value")
        axes.spines[["top", "right"]].set_visible(False)
        axes.locator_params(axis="x", integer=True)
        figure.savefig(file, format="svg", metadata={"Date": None})
    return _data_uri("svg+xml", file.getvalue().encode())
