"""The plots of the experiments, PNG and SVG, and the contact sheet."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from csd_core.experiments.experiment import Column, Experiment
from csd_core.experiments.tables import TableRow, heading
from csd_core.image_ops import resize
from csd_core.io.files import written_beside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#333333"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette, safe for colour-blind readers."""
MARKERS = "osD^vP"
SHEET_FRAMES = 6
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "svg.hashsalt": "csd-experiment",
    "svg.fonttype": "none",
}


def write_plots(folder: Path, experiment: Experiment, rows: Sequence[TableRow], clip: str) -> list[Path]:
    """Write plot.png and plot.svg; neither where nothing that is plotted was measured."""
    import matplotlib

    columns = {column.key: column for column in experiment.columns}
    wanted = [columns[key] for key in experiment.plot.columns]
    have = [column for column in wanted if any(row.values[column.key].n for row in rows)]
    is_tradeoff = experiment.plot.kind == "tradeoff" and len(have) == 2
    paths = [folder / f"plot.{kind}" for kind in ("png", "svg")]
    if not have:
        for path in paths:
            path.unlink(missing_ok=True)
        return []
    with matplotlib.rc_context(STYLE):
        figure = _tradeoff(rows, have, clip) if is_tradeoff else _bars(rows, have, clip)
        figure.suptitle(experiment.title, color=INK)
        for path in paths:
            with written_beside(path) as beside:
                figure.savefig(beside, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def _tradeoff(rows: Sequence[TableRow], columns: Sequence[Column], clip: str) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    x, y = columns
    for k, method in enumerate(dict.fromkeys(row.method for row in rows)):
        points = [row for row in rows if row.method == method and row.values[x.key].n and row.values[y.key].n]
        across, up = ([row.values[c.key] for row in points] for c in columns)
        axes.errorbar(
            *(np.array([value.mean for value in side], dtype=float) for side in (across, up)),
            xerr=[value.error or 0 for value in across],
            yerr=[value.error or 0 for value in up],
            color=COLOURS[k % len(COLOURS)],
            marker=MARKERS[k % len(MARKERS)],
            elinewidth=0.8,
            capsize=2,
            label=method,
        )
        for row, right, top in zip(points, across, up, strict=True):
            if row.setting:
                at: Any = (right.mean, top.mean)
                text, style = row.setting.split()[-1], {"textcoords": "offset points", "fontsize": 7}
                axes.annotate(text, at, xytext=(4, 4), color=INK, **style)
    axes.set_xlabel(heading(x, clip))
    axes.set_ylabel(heading(y, clip))
    axes.legend(frameon=False)
    return figure


def _bars(rows: Sequence[TableRow], columns: Sequence[Column], clip: str) -> "Figure":
    from matplotlib.figure import Figure

    height = 1.2 + 0.32 * len(rows)
    figure = Figure(figsize=(2.2 + 2.6 * len(columns), height), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        for k, row in enumerate(rows):
            value = row.values[column.key]
            if value.mean is not None:
                colour = COLOURS[k % len(COLOURS)]
                axes.errorbar(value.mean, k, xerr=value.error or 0, color=colour, marker="o", capsize=3)
        axes.set_title(heading(column, clip), fontsize=9)
        axes.margins(x=0.15)
        axes.locator_params(axis="x", nbins=4)
    panels[0].set_yticks(range(len(rows)), [row.name for row in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure


def write_sheet(path: Path, rows: Sequence[Sequence[Tensor]], labels: Sequence[str]) -> None:
    """Write a contact sheet.

    Args:
        path: PNG.
        rows: frames (3, H, W) in [0, 1] each; the same SHEET_FRAMES of each row are shown, evenly spread, in
            the size of the first.
        labels: of the rows.
    """
    size = (rows[0][0].shape[-2], rows[0][0].shape[-1])
    some = np.linspace(0, len(rows[0]) - 1, min(SHEET_FRAMES, len(rows[0]))).round().astype(int)
    strips = [torch.cat([resize(row[k], size) for k in some], dim=-1) for row in rows]
    pixels = (torch.cat(strips, dim=-2) * 255).round().byte().permute(1, 2, 0).numpy()
    font = ImageFont.load_default(size=14)
    margin = round(max(font.getlength(label) for label in labels)) + 16
    sheet = Image.new("RGB", (margin + pixels.shape[1], pixels.shape[0]), "white")
    sheet.paste(Image.fromarray(pixels), (margin, 0))
    draw = ImageDraw.Draw(sheet)
    for k, label in enumerate(labels):
        draw.text((8, (k + 0.5) * size[0]), label, fill="black", font=font, anchor="lm")
    with written_beside(path) as beside:
        sheet.save(beside)
