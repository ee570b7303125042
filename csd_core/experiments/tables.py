"""Measures of all cells as the paper's table: ours beside theirs, mean and standard error."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from csd_core.experiments.experiment import Column, Experiment
from csd_core.experiments.measures import CellMeasures, finite
from csd_core.experiments.options import GridEntry
from csd_core.experiments.paper import Printed

ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}


@dataclass(frozen=True)
class MeasuredCell:
    """A finished cell and its measures."""

    entry: GridEntry
    record: Mapping[str, Any]
    """Contents of cell.json."""
    measures: CellMeasures

    def value(self, key: str) -> float | None:
        """Its value for a column: a measure, or a number of cell.json."""
        if key in self.measures:
            return self.measures[key].mean
        if key == "iterations":
            steps, seconds = self.record.get("steps"), self.record.get("seconds")
            return steps / seconds if steps and seconds else None
        recorded = self.record.get(key)
        return float(recorded) if isinstance(recorded, int | float) else None


@dataclass(frozen=True)
class TableValue:
    """A field of the table."""

    mean: float | None
    error: float | None
    """Standard error; None with fewer than two cells."""
    n: int
    """Cells that have the measure: each counts as one value."""
    values: tuple[float, ...]
    """Of these cells, in the order of the grid."""

    def text(self, places: int) -> str:
        """Mean ± error, or a dash."""
        if self.mean is None:
            return "–"
        mean = f"{self.mean:.{places}f}"
        return mean if self.error is None else f"{mean} ± {self.error:.{places}f}"


@dataclass(frozen=True)
class TableRow:
    """One variant, of all instructions or of one."""

    name: str
    """Of the variant; the paper's numbers are found by it."""
    method: str
    setting: str
    cells: int
    """Finished cells."""
    values: Mapping[str, TableValue]
    """By the key of a column."""


def rows_of(cells: Sequence[MeasuredCell], columns: Sequence[Column]) -> list[TableRow]:
    """A row for each variant, in the order of the cells."""
    groups: dict[str, list[MeasuredCell]] = {}
    for cell in cells:
        groups.setdefault(cell.entry.variant.name, []).append(cell)
    return [
        TableRow(
            name,
            group[0].entry.variant.method,
            group[0].entry.variant.setting,
            len(group),
            {column.key: _table_value(column.key, group) for column in columns},
        )
        for name, group in groups.items()
    ]


def _table_value(key: str, cells: Sequence[MeasuredCell]) -> TableValue:
    from csd_core.evaluation.metrics.clip import mean_and_error

    values = [value for value in (cell.value(key) for cell in cells) if value is not None]
    mean, error, n = mean_and_error(torch.tensor(values, dtype=torch.float64))
    return TableValue(finite(mean), finite(error), n, tuple(values))


def shown_columns(experiment: Experiment, rows: Sequence[TableRow]) -> list[Column]:
    """Those that have a number, ours or the paper's."""
    printed = {key for row in experiment.published.values() for key in row}
    return [
        column
        for column in experiment.columns
        if column.key in printed or any(row.values[column.key].n for row in rows)
    ]


def table(experiment: Experiment, rows: Sequence[TableRow], clip: str) -> str:
    """The whole table as Markdown; (paper) marks the paper's numbers.

    clip: "CLIP", or what the numbers of another extractor are called.
    """
    columns, published = shown_columns(experiment, rows), experiment.published
    header, alike = ["method", "cells"], {key for row in published.values() for key in row}
    for column in columns:
        header.append(heading(column, clip))
        if column.key in alike:
            header.append(f"{column.title.format(clip='CLIP')} (paper)")
    lines = []
    found = {row.name: row for row in rows}
    for name in dict.fromkeys([*published, *found]):
        row = found.get(name)
        line = [name, str(row.cells) if row else "–"]
        for column in columns:
            line.append(row.values[column.key].text(column.places) if row else "–")
            if column.key in alike:
                line.append(str(published.get(name, {}).get(column.key, "–")))
        lines.append(line)
    whole = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in whole) + "\n"


def heading(column: Column, clip: str) -> str:
    """Title and arrow of a column."""
    return column.title.format(clip=clip) + ARROWS[column.better]


def prompt_tables(experiment: Experiment, cells: Sequence[MeasuredCell], clip: str) -> str:
    """A table for each instruction, ours alone; "" where there is only one."""
    names = list(dict.fromkeys(cell.entry.prompt.name for cell in cells))
    if len(names) < 2:
        return ""
    ours = replace(experiment, published={})
    tables = []
    for name in names:
        rows = rows_of([cell for cell in cells if cell.entry.prompt.name == name], experiment.columns)
        tables.append(f"### {name}\n\n{table(ours, rows, clip)}")
    return "\n".join(tables)


def as_data(experiment: Experiment, rows: Sequence[TableRow]) -> list[dict[str, Any]]:
    """Rows as JSON values, the paper's numbers beside ours."""
    found = {row.name: row for row in rows}
    data = []
    for name in dict.fromkeys([*experiment.published, *found]):
        printed: Mapping[str, Printed] = experiment.published.get(name, {})
        own = asdict(found[name]) if name in found else {"name": name, "cells": 0, "values": {}}
        data.append({**own, "paper": {key: asdict(value) for key, value in printed.items()}})
    return data
