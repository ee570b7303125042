"""An experiment from options to tables: edits first, measures second, so that these can be repeated alone."""

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from csd_core.denoisers.families import MINI
from csd_core.denoisers.runtime.device import resolve_device
from csd_core.engine.progress import duration
from csd_core.engine.ranks import Ranks, current
from csd_core.errors import UserError, expect
from csd_core.experiments.experiment import Experiment
from csd_core.experiments.grid import CellOutcome, raise_failures, run_grid
from csd_core.experiments.measures import CellMeasures, kept_measures
from csd_core.experiments.options import ExperimentOptions, Prepare, PreparedExperiment
from csd_core.experiments.plots import write_plots, write_sheet
from csd_core.experiments.tables import (
    MeasuredCell,
    TableRow,
    as_data,
    prompt_tables,
    rows_of,
    table,
)
from csd_core.io.files import written_beside
from csd_core.machine import describe_machine, versions

if TYPE_CHECKING:
    from csd_core.evaluation import Tools


def run_experiment(
    experiment: Experiment, prepare: Prepare, options: ExperimentOptions, command: str
) -> None:
    """Run an experiment on its grid of inputs, instructions, methods, settings and seeds.

    Args:
        experiment: what is compared.
        prepare: finds inputs and model, and builds the grid.
        options: of the command.
        command: how it was called, for the tables.
    """
    options.check(experiment)
    ranks = current()
    options = replace(options, device=ranks.all_or_raise(lambda: devices_of(options, ranks)))
    cells = options.output / "cells"
    if options.dry_run:
        if ranks.is_main:
            with TemporaryDirectory() as scratch:  # inputs are rendered or read, but not kept
                prepared = prepare(experiment, replace(options, output=Path(scratch)))
                print(describe(experiment, prepared, cells))
        return
    # first what fails quickly
    wants_tools = options.measure and experiment.measured and ranks.is_main
    tools = ranks.all_or_raise(lambda: load_tools(options, experiment) if wants_tools else None)
    prepared = ranks.main_first(lambda: prepare(experiment, options))
    outcomes = make_edits(prepared, cells, options, ranks)
    if not ranks.is_main:  # rank 0 waits for the rest, measures and reports
        return
    if options.measure:
        measured, unmeasured = measure_edits(prepared, cells, tools)
        listed = {"command": command, "model": options.model, "seeds": list(options.seeds)}
        listed |= facts(prepared, measured, tools, unmeasured)
        write_results(options.output / experiment.name, experiment, prepared, measured, tools, listed)
    raise_failures(outcomes)


def describe(experiment: Experiment, prepared: PreparedExperiment, cells: Path) -> str:
    """Which edits a run would make."""
    todo = Counter(entry.variant.name for entry in prepared.entries if not entry.cell.is_done(cells))
    lines = [
        f"{experiment.name}: {experiment.title} ({experiment.paper})",
        f"cells  {len(prepared.entries)}, {todo.total()} of them to do",
    ]
    return "\n".join([*lines, *(f"  {name}: {count}" for name, count in todo.items())])


def make_edits(
    prepared: PreparedExperiment, cells: Path, options: ExperimentOptions, ranks: Ranks
) -> list[CellOutcome]:
    """Make the missing edits; each rank takes a cell at a time until all are done."""
    todo, began = ranks.broadcast(
        lambda: ([entry.cell for entry in prepared.entries if not entry.cell.is_done(cells)], time.time())
    )
    finished = len(prepared.entries) - len(todo)
    if finished and ranks.is_main:
        print(f"{finished} of {len(prepared.entries)} cells are there already", file=sys.stderr)
    since = None if ranks.is_alone else began
    return run_grid(todo, prepared.work, cells, options.device, progress=ranks.is_main, since=since)


def devices_of(options: ExperimentOptions, ranks: Ranks) -> tuple[str, ...]:
    """The devices of this process: under torchrun one of its own.

    Raises:
        UserError: an unknown device, or several for each of several ranks.
    """
    if ranks.is_alone:
        return tuple(str(resolve_device(name)) for name in options.device or (None,))
    given = ", ".join(options.device)
    expect(len(options.device) <= 1, "device", "cuda, cpu or none, each process takes its own", given)
    return (str(resolve_device(ranks.device(options.device[0] if options.device else None))),)


def load_tools(options: ExperimentOptions, experiment: Experiment) -> "Tools":
    """The extractors that the columns need; what is missing is printed, here and in the tables.

    Raises:
        UserError: the extractor named by --clip is missing.
    """
    from csd_core.evaluation.metrics.extractors import DEFAULT_CLIP, ClipExtractor
    from csd_core.evaluation.metrics.perceptual import Lpips
    from csd_core.evaluation.tools import LPIPS, Tools

    device, tools = options.device[0], Tools()
    load = partial(
        ClipExtractor.from_pretrained,
        weights=options.clip_weights,
        device=device,
        cache=options.output / "features",
        local_files_only=options.local_files_only,
    )
    if options.clip is not None:
        tools.clip = load(options.clip)
    else:
        usual = MINI if options.model == MINI else DEFAULT_CLIP
        tools.clip = tools.try_loading("CLIP", lambda: load(usual))
    if any(column.key == "lpips" for column in experiment.columns):
        tools.lpips = tools.try_loading(LPIPS, lambda: Lpips.from_pretrained(device=device))
    for line in tools.missing:
        print(f"note: not measured: {line}", file=sys.stderr)
    return tools


def measure_edits(
    prepared: PreparedExperiment, cells: Path, tools: "Tools | None"
) -> tuple[list[MeasuredCell], list[str]]:
    """The finished cells with their measures; and a line for each that could not be measured."""
    if tools:
        note_unknown_words(prepared, tools)
    done = [entry for entry in prepared.entries if entry.cell.is_done(cells)]
    measured, failed = [], []
    for entry in tqdm(done, "measuring", unit="edit", disable=None):
        measures: CellMeasures = {}
        try:
            if tools:
                measure = partial(prepared.measure, entry, cells, tools)
                measures = kept_measures(entry.cell, cells, entry.prompt, tools, measure)
        except UserError as error:
            failed.append(f"{entry.cell.name}: {error}")
        measured.append(MeasuredCell(entry, entry.cell.record(cells), measures))
    return measured, failed


def note_unknown_words(prepared: PreparedExperiment, tools: "Tools") -> None:
    """Print which words of the captions a small scorer was not trained on."""
    captions = {text for entry in prepared.entries for text in (entry.prompt.source, entry.prompt.target)}
    unknown = {word for text in captions if tools.clip for word in tools.clip.unknown_words(text)}
    if unknown:
        print(f"note: the scorer was not trained on {', '.join(sorted(unknown))}", file=sys.stderr)


# Results ------------------------------------------------------------------------------------------


def facts(
    prepared: PreparedExperiment,
    measured: Sequence[MeasuredCell],
    tools: "Tools | None",
    unmeasured: Sequence[str],
) -> dict[str, Any]:
    """What the tables list besides the numbers."""
    seconds = sum(cell.record.get("seconds") or 0 for cell in measured)
    by = "nothing: the edits were only timed"
    if tools:
        by = f"{tools.clip.name}, {tools.clip.identity}" if tools.clip else "pixels alone"
    prompts = [entry.prompt for entry in prepared.entries]
    return {
        "prompts": {prompt.name: [prompt.text, prompt.source, prompt.target] for prompt in prompts},
        "cells": f"{len(measured)} of {len(prepared.entries)}",
        "time": f"{duration(seconds)} for these edits, one after the other",
        "machine": machines(measured),
        "measured by": by,
        **prepared.settings,
        "not measured": [*(tools.missing if tools else []), *unmeasured],
    }


def write_results(
    folder: Path,
    experiment: Experiment,
    prepared: PreparedExperiment,
    measured: Sequence[MeasuredCell],
    tools: "Tools | None",
    listed: Mapping[str, Any],
) -> None:
    """Write table.json, table.md, plot.png, plot.svg and sheet.png, and print the table."""
    if not measured:
        print("no cell is done: no table", file=sys.stderr)
        return
    rows, clip = rows_of(measured, experiment.columns), tools.label if tools else "CLIP"
    data = {
        "experiment": experiment.name,
        "paper": experiment.paper,
        **listed,
        "note": experiment.note,
        "rows": as_data(experiment, rows),
        "measuring machine": describe_machine(),
        "versions": versions(),
    }
    _write(folder / "table.json", json.dumps(data, indent=1, allow_nan=False) + "\n")
    _write(folder / "table.md", report(experiment, rows, measured, clip, listed))
    write_plots(folder, experiment, rows, clip)
    first = {cell.entry.variant.name: cell.entry.cell for cell in reversed(measured)}
    pairs = [prepared.frames(first[row.name], folder.parent / "cells") for row in rows]
    sheet = [pairs[0][0], *(edited for _, edited in pairs)]
    write_sheet(folder / "sheet.png", sheet, ["source", *(row.name for row in rows)])
    print(f"# {experiment.title} ({experiment.paper})\n\n{table(experiment, rows, clip)}")
    print(f"written to {folder}", file=sys.stderr)


def report(
    experiment: Experiment,
    rows: Sequence[TableRow],
    measured: Sequence[MeasuredCell],
    clip: str,
    listed: Mapping[str, Any],
) -> str:
    """The contents of table.md."""
    parts = [
        f"# {experiment.title} ({experiment.paper})",
        table(experiment, rows, clip),
        "Mean ± standard error; each edit (input, instruction, seed) is one value.",
        experiment.note,
        prompt_tables(experiment, measured, clip),
        "\n".join(f"- {name}: {_plain(value)}" for name, value in listed.items() if value),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def machines(measured: Sequence[MeasuredCell]) -> list[str]:
    """What the edits were made on."""
    fields = ("cpu", "threads", "gpu", "torch")
    lines = []
    for cell in measured:
        machine = cell.record["machine"]
        known = (f"{field} {machine[field]}" for field in fields if field in machine)
        lines.append(", ".join([f"on {cell.record['device']}", *known]))
    return list(dict.fromkeys(lines))


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_plain(part)}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _write(path: Path, text: str) -> None:
    with written_beside(path) as beside:
        beside.write_text(text)
