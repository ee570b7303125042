"""An experiment from options to tables: edits first, then their measures."""

import json
import sys
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
from csd_core.engine.ranks import current
from csd_core.errors import UserError
from csd_core.experiments.experiment import Experiment
from csd_core.experiments.grid import raise_failures, run_grid
from csd_core.experiments.measures import Measures
from csd_core.experiments.options import ExperimentOptions, Prepare, PreparedExperiment
from csd_core.experiments.plots import write_plot, write_sheet
from csd_core.experiments.tables import MeasuredCell, rows_of, table

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

    Raises:
        UserError: an option out of range, an input that cannot be read, cells that failed.
    """
    options.check()
    ranks = current()
    device = ranks.all_or_raise(lambda: str(resolve_device(ranks.device(options.device))))
    options = replace(options, device=device)
    folder = options.output / "cells"
    if options.dry_run:
        if ranks.is_main:
            with TemporaryDirectory() as scratch:  # nothing that is rendered is kept
                prepared = prepare(experiment, replace(options, output=Path(scratch)))
            print(describe(experiment, prepared, folder))
        return
    # first what fails quickly
    wants_tools = options.measure and experiment.measured and ranks.is_main
    tools = ranks.all_or_raise(lambda: load_tools(options, experiment) if wants_tools else None)
    prepared = ranks.main_first(lambda: prepare(experiment, options))
    cells = prepared.cells
    todo = ranks.broadcast(lambda: [cell for cell in cells if not cell.is_done(folder)])
    if len(todo) < len(cells) and ranks.is_main:
        print(f"{len(cells) - len(todo)} of {len(cells)} cells are there already", file=sys.stderr)
    failures = run_grid(todo, prepared.work, folder, device, progress=ranks.is_main)
    if not ranks.is_main:  # rank 0 waits for the rest, measures and reports
        return
    if options.measure:
        measured, unmeasured = measure_edits(prepared, folder, tools)
        listed = {"command": command, "model": options.model, "seeds": list(options.seeds)}
        listed |= facts(prepared, measured, tools, unmeasured)
        write_results(options.output / experiment.name, experiment, prepared, measured, tools, listed)
    raise_failures(failures)


def describe(experiment: Experiment, prepared: PreparedExperiment, folder: Path) -> str:
    """Which edits a run would make."""
    todo = Counter(cell.variant.name for cell in prepared.cells if not cell.is_done(folder))
    lines = [
        f"{experiment.name}: {experiment.title} ({experiment.paper})",
        f"cells  {len(prepared.cells)}, {todo.total()} of them to do",
    ]
    return "\n".join([*lines, *(f"  {name}: {count}" for name, count in todo.items())])


def load_tools(options: ExperimentOptions, experiment: Experiment) -> "Tools":
    """The extractors that the columns need; what is missing is printed, here and in the tables.

    Raises:
        UserError: the extractor named by --clip is missing.
    """
    from csd_core.evaluation.metrics.extractors import DEFAULT_CLIP, ClipExtractor
    from csd_core.evaluation.metrics.perceptual import Lpips
    from csd_core.evaluation.tools import LPIPS, Tools

    device, tools = options.device, Tools()
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
    prepared: PreparedExperiment, folder: Path, tools: "Tools | None"
) -> tuple[list[MeasuredCell], list[str]]:
    """The finished cells with their measures; and a line for each that could not be measured."""
    from csd_core.evaluation import Captions

    captions = {Captions(cell.prompt.source, cell.prompt.target) for cell in prepared.cells}
    for note in sorted({note for pair in captions for note in (tools.caption_notes(pair) if tools else ())}):
        print(f"note: {note}", file=sys.stderr)
    done = [cell for cell in prepared.cells if cell.is_done(folder)]
    measured, failed = [], []
    for cell in tqdm(done, "measuring", unit="edit", disable=None):
        measures: Measures = {}
        try:
            if tools:
                measures = prepared.work.measure(cell, folder, tools)
        except UserError as error:
            failed.append(f"{cell.name}: {error}")
        measured.append(MeasuredCell(cell, cell.record(folder), measures))
    return measured, failed


# Results ------------------------------------------------------------------------------------------


def facts(
    prepared: PreparedExperiment,
    measured: Sequence[MeasuredCell],
    tools: "Tools | None",
    unmeasured: Sequence[str],
) -> dict[str, Any]:
    """What the tables list besides the numbers."""
    seconds = sum(cell.record["seconds"] for cell in measured)
    by = "nothing: the edits were only timed"
    if tools:
        by = f"{tools.clip.name}, {tools.clip.identity}" if tools.clip else "pixels alone"
    prompts = [cell.prompt for cell in prepared.cells]
    machines = {f"on {cell.record['device']}, {_plain(cell.record['machine'])}" for cell in measured}
    return {
        "prompts": {prompt.name: [prompt.text, prompt.source, prompt.target] for prompt in prompts},
        "cells": f"{len(measured)} of {len(prepared.cells)}",
        "time": f"{duration(seconds)} for these edits, one after the other",
        "machine": sorted(machines),
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
    """Write table.json, table.md, plot.png and sheet.png, and print the table."""
    if not measured:
        print("no cell is done: no table", file=sys.stderr)
        return
    rows, clip = rows_of(measured, experiment), tools.label if tools else "CLIP"
    data = {
        "experiment": experiment.name,
        "paper": experiment.paper,
        **listed,
        "note": experiment.note,
        "rows": [row.data() for row in rows],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.json").write_text(json.dumps(data, indent=1, allow_nan=False) + "\n")
    (folder / "table.md").write_text(report(experiment, measured, clip, listed))
    made = [row for row in rows if row.cells]
    write_plot(folder / "plot.png", experiment, made, clip)
    pairs = [prepared.work.frames(row.cells[0].cell, folder.parent / "cells") for row in made]
    sheet = [pairs[0][0], *(edited for _, edited in pairs)]
    write_sheet(folder / "sheet.png", sheet, ["source", *(row.name for row in made)])
    whole = table(rows, experiment.columns, clip)
    print(f"# {experiment.title} ({experiment.paper})\n\n{whole}")
    print(f"written to {folder}", file=sys.stderr)


def report(
    experiment: Experiment, measured: Sequence[MeasuredCell], clip: str, listed: Mapping[str, Any]
) -> str:
    """The contents of table.md: the whole table, and one for each instruction where there are several."""
    parts = [
        f"# {experiment.title} ({experiment.paper})",
        table(rows_of(measured, experiment), experiment.columns, clip),
        "Mean ± standard error; each edit (input, instruction, seed) is one value.",
        experiment.note,
    ]
    ours, names = replace(experiment, published={}), dict.fromkeys(cell.cell.prompt.name for cell in measured)
    for name in names if len(names) > 1 else ():
        rows = rows_of([cell for cell in measured if cell.cell.prompt.name == name], ours)
        parts += [f"### {name}", table(rows, experiment.columns, clip)]
    parts.append("\n".join(f"- {name}: {_plain(value)}" for name, value in listed.items() if value))
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_plain(part)}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
