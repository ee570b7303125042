"""How good the mini editor is.

    python -m csd_core.mini_editor.training.evaluate --output FOLDER --photographs FOLDER ...

Photographs that were never seen in training are edited by diffusers' own
StableDiffusionInstructPix2PixPipeline and compared with the ground truth.

    table       VAE, and every instruction on all photographs; sheet.png
    choice      which of several right answers many draws come nearest to
    language    unseen wordings, capitals, word order, unknown and negative prompts
    csd         CSD-Edit of single images, beside full sampling of the same images
    sizes       other sizes than the native one; cost of the editor

Each section goes to table.json as soon as it is measured, beside those that are there, also from several
processes at a time. table.md is written from all of it.
"""

import fcntl
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from csd_core.command import run_command
from csd_core.mini_editor.training import sections
from csd_core.mini_editor.training.report import markdown_report, print_report
from csd_core.mini_editor.training.sampling import Bench, EvaluateConfig, Section

SECTIONS: dict[Section, Callable[[Bench], dict[str, Any]]] = {
    "table": sections.table,
    "choice": sections.choice,
    "language": sections.language,
    "csd": sections.csd,
    "sizes": sections.sizes,
}


def evaluate(config: EvaluateConfig) -> None:
    """Measure the mini editor: table.json, table.md and sheet.png."""
    config.check()
    bench = Bench.set_up(config)
    config.output.mkdir(parents=True, exist_ok=True)
    whole: Mapping[str, Any] = {}
    for name in config.sections:
        start = time.perf_counter()
        part = SECTIONS[name](bench)
        seconds = time.perf_counter() - start
        whole = merge(config.output, name, {"settings": settings(config), "seconds": seconds, **part})
    print_report(whole)


def settings(config: EvaluateConfig) -> dict[str, float]:
    """All numbers of the configuration."""
    return {name: value for name, value in asdict(config).items() if isinstance(value, int | float)}


def merge(output: Path, name: str, part: Mapping[str, Any]) -> dict[str, Any]:
    """Put a section into table.json, and write table.md anew. Gives all of table.json."""
    path = output / "table.json"
    with _only_one(output):
        whole = json.loads(path.read_text()) if path.exists() else {}
        whole[name] = plain(part)
        _write(path, json.dumps(whole, indent=1, allow_nan=False) + "\n")
        _write(output / "table.md", markdown_report(whole))
    return whole


def plain(value: Any) -> Any:
    """`value` for JSON: floats to four places, None where they are not finite."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Other processes wait here until this one is through."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(path: Path, text: str) -> None:
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(text)
    unfinished.replace(path)


def main() -> int:
    """Entry point of python -m csd_core.mini_editor.training.evaluate."""
    return run_command(EvaluateConfig, evaluate)


if __name__ == "__main__":
    sys.exit(main())
