"""An experiment from options to tables: edits first, figures second, so that these can be taken anew."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from csd_core.denoisers.loading import MINI, resolve_device
from csd_core.engine.progress import duration
from csd_core.engine.ranks import ALONE, Ranks, current
from csd_core.errors import UserError, expect
from csd_core.experiments.experiment import Experiment
from csd_core.experiments.figures import figures_path, read_figures, tools_identity, write_figures
from csd_core.experiments.grid import GridResult, run_grid
from csd_core.experiments.images import prepare_images
from csd_core.experiments.options import Entry, ExperimentOptions, Prepared
from csd_core.experiments.plots import write_plots, write_sheet
from csd_core.experiments.registry import EXPERIMENTS, find_experiment
from csd_core.experiments.tables import (
    Outcome,
    as_data,
    first_cells,
    orders,
    prompt_tables,
    rows_of,
    table,
)
from csd_core.io.files import written_beside
from csd_core.machine import describe_machine, versions

if TYPE_CHECKING:
    from csd_core.evaluation import Tools

Prepare = Callable[[Experiment, ExperimentOptions], Prepared]
DOMAINS: dict[str, Prepare] = {"panorama": prepare_images, "video": prepare_images}
"""Domain of an experiment -> what makes it ready. csd_nerf adds scenes."""


def run_experiment(options: ExperimentOptions, command: str = "csd-experiment") -> None:
    """Run an experiment of the paper on a grid of inputs, instructions, methods, settings and seeds."""
    experiment = find_experiment(options.name, EXPERIMENTS)
    options.check(experiment)
    ranks = current()
    devices = ranks.together(lambda: devices_of(options, ranks))
    options = replace(options, device=tuple(devices))
    if options.dry_run and not ranks.is_main:
        return
    measures = options.measure and experiment.measured and not options.dry_run
    columns = {column.key for column in experiment.columns}
    cells = options.output / "cells"
    if options.dry_run:
        with TemporaryDirectory() as scratch:  # inputs are drawn or read, but not kept
            prepared = DOMAINS[experiment.domain](experiment, replace(options, output=Path(scratch)))
            print(describe(experiment, prepared, cells))
        return
    # first what is quick to fail
    tools = ranks.together(lambda: load_tools(options, columns) if measures and ranks.is_main else None)
    prepared = ranks.main_first(lambda: DOMAINS[experiment.domain](experiment, options))
    result = do_edits(prepared, cells, options, devices, ranks)
    if not ranks.is_main:  # it has done its share; rank 0 waits for the rest, measures and reports
        return
    if tools:
        note_unknown_words(prepared, tools)
    if options.measure:
        outcomes, unmeasured = measure_edits(prepared, cells, tools)
        write_results(
            options.output / experiment.name, experiment, prepared, outcomes, tools, command, unmeasured
        )
    result.raise_failures()


def describe(experiment: Experiment, prepared: Prepared, cells: Path) -> str:
    """What a run would take."""
    todo = [entry for entry in prepared.entries if not entry.cell.is_done(cells)]
    counts = [prepared.evaluations(entry.cell) for entry in todo]
    known = [count for count in counts if count is not None]
    lines = [
        f"{experiment.name}: {experiment.title} ({experiment.paper})",
        f"cells        {len(prepared.entries)}, {len(todo)} of them to do",
        f"evaluations  {sum(known)}" + ("" if len(known) == len(counts) else ", and others not counted"),
    ]
    by_variant: dict[str, int] = {}
    for entry, count in zip(todo, counts, strict=True):
        by_variant[entry.variant.name] = by_variant.get(entry.variant.name, 0) + (count or 0)
    return "\n".join([*lines, *(f"  {name}: {count}" for name, count in by_variant.items())])


def do_edits(
    prepared: Prepared,
    cells: Path,
    options: ExperimentOptions,
    devices: Sequence[str],
    ranks: Ranks = ALONE,
) -> GridResult:
    """Do what is missing, at most options.max_cells of it; ranks take a cell each until all are done."""
    todo, began = ranks.from_main(
        lambda: ([entry.cell for entry in prepared.entries if not entry.cell.is_done(cells)], time.time())
    )
    there = len(prepared.entries) - len(todo)
    if there and ranks.is_main:
        print(f"{there} of {len(prepared.entries)} cells are there already", file=sys.stderr)
    since = None if ranks.is_alone else began
    some = todo[: options.max_cells]
    return run_grid(some, prepared.work, cells, devices, progress=ranks.is_main, since=since)


def devices_of(options: ExperimentOptions, ranks: Ranks) -> list[str]:
    """What this process works on: under torchrun a device of its own.

    Raises:
        UserError: an unknown device, or several for each of several ranks.
    """
    if ranks.is_alone:
        return [str(resolve_device(name)) for name in options.device or (None,)]
    given = ", ".join(options.device)
    expect(len(options.device) <= 1, "device", "cuda, cpu or none, each process takes its own", given)
    return [str(resolve_device(ranks.device(options.device[0] if options.device else None)))]


def load_tools(options: ExperimentOptions, columns: set[str]) -> "Tools":
    """The extractors that columns need; what is missing is said on the terminal and in the tables.

    Raises:
        UserError: an extractor of features that was asked for is missing.
    """
    from csd_core.evaluation.metrics.extractors import DEFAULT_CLIP, ClipExtractor
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
    if "lpips" in columns:
        from csd_core.evaluation.metrics.perceptual import Lpips

        tools.lpips = tools.try_loading(LPIPS, lambda: Lpips.from_pretrained(device=device))
    for line in tools.missing:
        print(f"not measured: {line}", file=sys.stderr)
    return tools


def note_unknown_words(prepared: Prepared, tools: "Tools") -> None:
    """Say which words of the captions a small scorer was not taught."""
    captions = {text for entry in prepared.entries for text in (entry.prompt.source, entry.prompt.target)}
    unknown = {word for text in captions if tools.clip for word in tools.clip.unknown_words(text)}
    if unknown:
        print(f"note: the scorer was not taught {', '.join(sorted(unknown))}", file=sys.stderr)


def measure_edits(prepared: Prepared, cells: Path, tools: "Tools | None") -> tuple[list[Outcome], list[str]]:
    """The cells that are done, with their figures; and a line for each that could not be measured."""
    from rich.console import Console
    from rich.progress import track

    done = [entry for entry in prepared.entries if entry.cell.is_done(cells)]
    outcomes, failed = [], []
    console = Console(stderr=True)
    watched = track(done, "measuring", console=console, disable=not console.is_terminal)
    for entry in watched:
        record = entry.cell.record(cells)
        try:
            figures = {} if tools is None else figures_of(entry, prepared, cells, tools)
        except UserError as error:
            figures = {}
            failed.append(f"{entry.cell.name}: {error}")
        outcomes.append(Outcome(entry, record, figures))
    return outcomes, failed


def figures_of(entry: Entry, prepared: Prepared, cells: Path, tools: "Tools") -> Any:
    """The figures of a cell by these extractors, from its file or taken now."""
    identity = tools_identity(tools)
    path = figures_path(entry.cell, cells, entry.prompt, identity)
    kept = read_figures(path)
    if kept is None:
        kept = prepared.measure(entry, cells, tools)
        write_figures(path, kept, identity)
    return kept


def write_results(
    folder: Path,
    experiment: Experiment,
    prepared: Prepared,
    outcomes: Sequence[Outcome],
    tools: "Tools | None",
    command: str,
    unmeasured: Sequence[str],
) -> None:
    """table.json, table.md, plot.png, plot.svg, sheet.png."""
    if not outcomes:
        print("no cell is done: no table", file=sys.stderr)
        return
    rows = rows_of(outcomes, experiment.columns)
    clip = tools.label if tools else "CLIP"
    seconds = sum(outcome.record.get("seconds") or 0 for outcome in outcomes)
    told: dict[str, Any] = {
        "command": command,
        "cells": f"{len(outcomes)} of {len(prepared.entries)}",
        "time": f"{duration(seconds)} for these edits, one after the other",
        "machine": machines(outcomes),
        "measured by": _measured_by(tools),
        **prepared.settings,
        "not measured": [*(tools.missing if tools else []), *unmeasured],
    }
    data = {
        "experiment": experiment.name,
        "paper": experiment.paper,
        **told,
        "note": experiment.note,
        "rows": as_data(experiment, rows),
        "orders": orders(experiment, rows),
        "measuring machine": describe_machine(),
        "versions": versions(),
    }
    _write(folder / "table.json", json.dumps(data, indent=1, allow_nan=False) + "\n")
    _write(folder / "table.md", report(experiment, rows, outcomes, clip, told))
    write_plots(folder, experiment, rows, clip)
    _write_sheet(folder, prepared, outcomes)
    print(f"# {experiment.title} ({experiment.paper})\n\n{table(experiment, rows, clip)}")
    print(f"written to {folder}", file=sys.stderr)


def report(
    experiment: Experiment, rows: Any, outcomes: Sequence[Outcome], clip: str, told: Mapping[str, Any]
) -> str:
    """The contents of table.md."""
    parts = [
        f"# {experiment.title} ({experiment.paper})",
        table(experiment, rows, clip),
        "Mean ± standard error; each edit (input, instruction, seed) is one value.",
        experiment.note,
        "\n".join(_order_line(order) for order in orders(experiment, rows)),
        prompt_tables(experiment, outcomes, clip),
        "\n".join(f"- {name}: {_plain(value)}" for name, value in told.items() if value),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def machines(outcomes: Sequence[Outcome]) -> list[str]:
    """What the edits were made on."""
    fields = ("cpu", "threads", "gpu", "torch")
    told = [(o.record.get("machine", {}), o.record.get("device")) for o in outcomes]
    lines = [
        ", ".join([f"on {device}", *(f"{f} {machine[f]}" for f in fields if f in machine)])
        for machine, device in told
    ]
    return list(dict.fromkeys(lines))


def _order_line(order: Mapping[str, Any]) -> str:
    ours, paper = (" > ".join(order[side]) for side in ("ours", "paper"))
    if order["agrees"]:
        return f"- {order['column']}: the paper's order, {paper}"
    return f"- {order['column']}: {ours}; the paper's order is {paper}"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_plain(part)}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _measured_by(tools: "Tools | None") -> str:
    if tools is None:
        return "nothing: the edits were only timed"
    return f"{tools.clip.name}, {tools.clip.identity}" if tools.clip else "pixels alone"


def _write(path: Path, text: str) -> None:
    with written_beside(path) as beside:
        beside.write_text(text)


def _write_sheet(folder: Path, prepared: Prepared, outcomes: Sequence[Outcome]) -> None:
    first = first_cells(outcomes)
    pairs = [prepared.rows(outcome.entry, folder.parent / "cells") for outcome in first]
    rows = [pairs[0][0], *(edited for _, edited in pairs)]
    write_sheet(folder / "sheet.png", rows, ["source", *(o.entry.variant.name for o in first)])
