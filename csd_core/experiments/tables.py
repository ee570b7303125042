"""Figures of all cells as the paper's table: ours beside theirs, mean and standard error."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from csd_core.experiments.experiment import Column, Experiment
from csd_core.experiments.figures import Figures, mean_and_error
from csd_core.experiments.options import Entry
from csd_core.experiments.paper import Printed
from csd_core.mini_editor.training.report import number

ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}


@dataclass(frozen=True)
class Outcome:
    """A cell that is done, and its figures."""

    entry: Entry
    record: Mapping[str, Any]
    """Of cell.json."""
    figures: Figures


@dataclass(frozen=True)
class Value:
    """A field of the table."""

    mean: float | None
    error: float | None
    """Standard error; None with fewer than two cells."""
    n: int
    """Cells that have the figure: each counts as one value."""
    values: tuple[float, ...]
    """Of these cells, in the order of the grid."""

    def text(self, places: int) -> str:
        """Mean ± error."""
        if self.mean is None or self.error is None:
            return number(self.mean, places)
        return f"{number(self.mean, places)} ± {number(self.error, places)}"


@dataclass(frozen=True)
class Row:
    """One variant, of all instructions or of one."""

    name: str
    """Of the variant; what the paper prints is found by it."""
    method: str
    setting: str
    cells: int
    """Cells that are done."""
    values: Mapping[str, Value]
    """By the key of a column."""


def rows_of(outcomes: Sequence[Outcome], columns: Sequence[Column]) -> list[Row]:
    """A row for each variant, in the order in which they come."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.entry.variant.name, []).append(outcome)
    return [
        Row(
            name,
            group[0].entry.variant.method,
            group[0].entry.variant.setting,
            len(group),
            {column.key: _value(column.key, group) for column in columns},
        )
        for name, group in groups.items()
    ]


def _value(key: str, outcomes: Sequence[Outcome]) -> Value:
    values = [value for value in (cell_value(key, outcome) for outcome in outcomes) if value is not None]
    return Value(*mean_and_error(values), tuple(values))


def cell_value(key: str, outcome: Outcome) -> float | None:
    """A cell's value for a column: a figure, or what was noted of the edit."""
    if key in outcome.figures:
        return outcome.figures[key].mean
    if key == "iterations":
        steps, seconds = outcome.record.get("steps"), outcome.record.get("seconds")
        return steps / seconds if steps and seconds else None
    given = outcome.record.get(key)
    return float(given) if isinstance(given, int | float) else None


def shown_columns(experiment: Experiment, rows: Sequence[Row]) -> list[Column]:
    """Those of which there is a number, ours or the paper's."""
    printed = {key for row in experiment.published.values() for key in row}
    return [
        column
        for column in experiment.columns
        if column.key in printed or any(row.values[column.key].n for row in rows)
    ]


def table(experiment: Experiment, rows: Sequence[Row], clip: str) -> str:
    """The whole table as Markdown; (paper) stands over the paper's numbers.

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
    return markdown(header, lines)


def heading(column: Column, clip: str) -> str:
    """Title and arrow of a column."""
    return column.title.format(clip=clip) + ARROWS[column.better]


def prompt_tables(experiment: Experiment, outcomes: Sequence[Outcome], clip: str) -> str:
    """A table for each instruction, ours alone; "" where there is only one."""
    names = list(dict.fromkeys(outcome.entry.prompt.name for outcome in outcomes))
    if len(names) < 2:
        return ""
    parts = []
    for name in names:
        rows = rows_of([o for o in outcomes if o.entry.prompt.name == name], experiment.columns)
        columns = [c for c in experiment.columns if any(row.values[c.key].n for row in rows)]
        lines = [
            [row.name, str(row.cells), *(row.values[c.key].text(c.places) for c in columns)] for row in rows
        ]
        header = ["method", "cells", *(heading(c, clip) for c in columns)]
        parts.append(f"### {name}\n\n{markdown(header, lines)}")
    return "\n".join(parts)


def orders(experiment: Experiment, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each column that the paper has: its order of methods, best first, and ours of the same methods."""
    found, told = {row.name: row for row in rows}, []
    for column in experiment.columns:
        ours, theirs = {}, {}
        for name, printed in experiment.published.items():
            value = found[name].values[column.key].mean if name in found else None
            if value is not None and column.key in printed:
                ours[name], theirs[name] = value, printed[column.key].value
        if len(ours) > 1:
            sign = 1 if column.better == "lower" else -1
            mine, paper = (sorted(side, key=lambda n, s=side: sign * s[n]) for side in (ours, theirs))
            told.append({"column": column.key, "ours": mine, "paper": paper, "agrees": mine == paper})
    return told


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def as_data(experiment: Experiment, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as JSON values, the paper's numbers beside ours."""
    found = {row.name: row for row in rows}
    data = []
    for name in dict.fromkeys([*experiment.published, *found]):
        printed: Mapping[str, Printed] = experiment.published.get(name, {})
        own = asdict(found[name]) if name in found else {"name": name, "cells": 0, "values": {}}
        data.append({**own, "paper": {key: asdict(value) for key, value in printed.items()}})
    return data


def first_cells(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """For each variant the first cell: of the first input, instruction and seed."""
    seen: dict[str, Outcome] = {}
    for outcome in outcomes:
        seen.setdefault(outcome.entry.variant.name, outcome)
    return list(seen.values())
