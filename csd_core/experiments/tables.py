"""Measures of all cells as the paper's table: ours beside theirs, mean and standard error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from csd_core.experiments.experiment import Column, Experiment
from csd_core.experiments.grid import Cell
from csd_core.experiments.measures import Measures, finite

ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}


@dataclass(frozen=True)
class MeasuredCell:
    """A finished cell and its measures."""

    cell: Cell
    record: Mapping[str, Any]
    """Contents of cell.json."""
    measures: Measures

    def value(self, key: str) -> float | None:
        """Its value for a column: a measure, or a number of cell.json."""
        if key == "iterations":
            steps, seconds = self.record.get("steps"), self.record.get("seconds")
            return steps / seconds if steps and seconds else None
        return self.measures.get(key, self.record.get(key))


@dataclass(frozen=True)
class TableValue:
    """A field of the table."""

    mean: float | None
    error: float | None
    """Standard error; None with fewer than two cells."""
    values: tuple[float, ...]
    """Of the cells that have the measure, in the order of the grid: each counts as one value."""

    @classmethod
    def of(cls, key: str, cells: Sequence[MeasuredCell]) -> "TableValue":
        """The mean of a column over cells."""
        from csd_core.evaluation.metrics.clip import mean_and_error

        values = tuple(value for value in (cell.value(key) for cell in cells) if value is not None)
        mean, error, _ = mean_and_error(torch.tensor(values, dtype=torch.float64))
        return cls(finite(mean), finite(error), values)

    def text(self, places: int) -> str:
        """Mean ± error, or a dash."""
        if self.mean is None:
            return "–"
        mean = f"{self.mean:.{places}f}"
        return mean if self.error is None else f"{mean} ± {self.error:.{places}f}"


@dataclass(frozen=True)
class TableRow:
    """One variant, ours and the paper's."""

    name: str
    """Of the variant."""
    cells: Sequence[MeasuredCell]
    """Finished cells; none where only the paper has numbers."""
    values: Mapping[str, TableValue]
    """By the key of a column."""
    paper: Mapping[str, str]
    """The paper's numbers."""

    def data(self) -> dict[str, Any]:
        """JSON values."""
        values = {key: vars(value) for key, value in self.values.items()}
        return {"name": self.name, "cells": len(self.cells), "values": values, "paper": self.paper}


def rows_of(cells: Sequence[MeasuredCell], experiment: Experiment) -> list[TableRow]:
    """A row for each variant: those of the paper first, the others in the order of the cells."""
    groups: dict[str, list[MeasuredCell]] = {name: [] for name in experiment.published}
    for cell in cells:
        groups.setdefault(cell.cell.variant.name, []).append(cell)
    return [
        TableRow(
            name,
            group,
            {column.key: TableValue.of(column.key, group) for column in experiment.columns},
            experiment.published.get(name, {}),
        )
        for name, group in groups.items()
    ]


def table(rows: Sequence[TableRow], columns: Sequence[Column], clip: str) -> str:
    """Markdown; (paper) marks the paper's numbers, and columns without any number are left out.

    clip: "CLIP", or what the numbers of another extractor are called.
    """
    printed = {key for row in rows for key in row.paper}
    header, lines = ["method", "cells"], [[row.name, str(len(row.cells))] for row in rows]
    for column in columns:
        ours = [row.values[column.key] for row in rows]
        if any(value.values for value in ours) or column.key in printed:
            header.append(heading(column, clip))
            for line, value in zip(lines, ours, strict=True):
                line.append(value.text(column.places))
        if column.key in printed:
            header.append(f"{column.title.format(clip='CLIP')} (paper)")
            for line, row in zip(lines, rows, strict=True):
                line.append(row.paper.get(column.key, "–"))
    whole = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in whole) + "\n"


def heading(column: Column, clip: str) -> str:
    """Title and arrow of a column."""
    return column.title.format(clip=clip) + ARROWS[column.better]
