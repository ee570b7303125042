"""The plot of an experiment and the contact sheet of its edits, as PNGs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from csd_core.experiments.experiment import Column, Experiment
from csd_core.experiments.tables import TableRow, heading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHEET_FRAMES = 6


def write_plot(path: Path, experiment: Experiment, rows: Sequence[TableRow], clip: str) -> None:
    """Write a PNG of what the experiment plots; none where nothing of it was measured."""
    columns = {column.key: column for column in experiment.columns}
    have = [columns[key] for key in experiment.plot if any(row.values[key].values for row in rows)]
    path.unlink(missing_ok=True)
    if not have:
        return
    is_tradeoff = experiment.tradeoff and len(have) == 2
    figure = _tradeoff(rows, have, clip) if is_tradeoff else _bars(rows, have, clip)
    figure.suptitle(experiment.title)
    figure.savefig(path, dpi=150)


def _tradeoff(rows: Sequence[TableRow], columns: Sequence[Column], clip: str) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    lines: dict[str, list[TableRow]] = {}
    for row in rows:
        if all(row.values[column.key].values for column in columns):
            lines.setdefault(row.cells[0].cell.variant.method, []).append(row)
    for method, points in lines.items():
        x, y = ([row.values[column.key].mean or 0.0 for row in points] for column in columns)
        errors = ([row.values[column.key].error or 0.0 for row in points] for column in columns)
        axes.errorbar(x, y, **dict(zip(("xerr", "yerr"), errors, strict=True)), marker="o", label=method)
        for row, *at in zip(points, x, y, strict=True):
            label = row.name.split()[-1] if ", " in row.name else ""  # the value of a setting
            axes.annotate(label, (at[0], at[1]), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.set(xlabel=heading(columns[0], clip), ylabel=heading(columns[1], clip))
    axes.legend()
    return figure


def _bars(rows: Sequence[TableRow], columns: Sequence[Column], clip: str) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 + 2.6 * len(columns), 1.2 + 0.32 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        for row in rows:
            value = row.values[column.key]
            if value.mean is not None:
                axes.errorbar(value.mean, row.name, xerr=value.error or 0, marker="o", capsize=3)
        axes.set_title(heading(column, clip), fontsize=9)
        axes.locator_params(axis="x", nbins=4)
    panels[0].invert_yaxis()
    return figure


def write_sheet(path: Path, rows: Sequence[Sequence[Tensor]], labels: Sequence[str]) -> None:
    """Write a contact sheet.

    Args:
        path: PNG.
        rows: frames (3, H, W) in [0, 1] each; the same SHEET_FRAMES of each row are shown, evenly spread.
        labels: of the rows.
    """
    from matplotlib.figure import Figure

    count = min(SHEET_FRAMES, len(rows[0]))
    some = np.linspace(0, len(rows[0]) - 1, count).round().astype(int)
    height, width = rows[0][0].shape[-2:]
    side = 12 / count
    figure = Figure(figsize=(12 + 2, side * height / width * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), count, squeeze=False)
    for line, frames, label in zip(panels, rows, labels, strict=True):
        for axes, k in zip(line, some, strict=True):
            axes.imshow(frames[k].permute(1, 2, 0).numpy())
            axes.set(xticks=(), yticks=())
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=150)
