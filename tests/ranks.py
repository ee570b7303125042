"""Several processes as torchrun would start them, and what they do in tests/csd_core/test_distributed.py.

As a program: `python -m tests.ranks NAME FOLDER` runs a function below and writes FOLDER/<rank>.pt.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csd_core.command import run_command
from csd_core.denoisers.base import Conditioning
from csd_core.engine.config import EditConfig
from csd_core.engine.loop import edit_latents
from csd_core.engine.ranks import Ranks, current
from csd_core.errors import UserError
from tests.exact_editor import ExactEditor

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 240
"""That a process may take: far more than any does."""
GUIDED = EditConfig(
    guidance_scale=3, image_guidance_scale=1.5, num_steps=4, batch_size=4, chunk_size=3, noise_pool=0
)
PLAIN = replace(GUIDED, guidance_scale=1, image_guidance_scale=1, baseline="noise")
"""One evaluation a particle."""
EDITS: dict[str, tuple[int, EditConfig, Any]] = {
    "divided by 2": (4, GUIDED, "edit"),
    "divided by neither 2 nor 3": (5, replace(GUIDED, batch_size=5), "edit"),
    "batches": (7, GUIDED, "edit"),
    "a pool of draws": (5, replace(GUIDED, batch_size=3, noise_pool=2), "edit"),
    "fewer rows than ranks": (1, PLAIN, "edit"),
    "regions, branches without some rows": (4, GUIDED, {"one": [1, 0, 0, 0.5], "two": [0, 1, 1, 0.5]}),
}
"""Number of particles, settings and instructions."""


def start(count: int, words: Sequence[object], **more: str) -> "list[subprocess.Popen[str]]":
    """Python with these words, once for each rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", **launch, **more}
    pipe = subprocess.PIPE
    return [
        subprocess.Popen(
            [sys.executable, *map(str, words)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )
        for rank in range(count)
    ]


def ended(processes: "list[subprocess.Popen[str]]") -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each, once all have ended; after SECONDS they are killed."""
    try:
        told = [process.communicate(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *said) for process, said in zip(processes, told, strict=True)]


def edited(name: str, ranks: Ranks) -> tuple[Tensor, int]:
    """The canvas of one of EDITS, and the evaluations of this rank."""
    number, config, prompt = EDITS[name]
    directions, source = (
        torch.randn(number, 4, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)
    )
    editor = ExactEditor(8 * directions / directions.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
    canvas = edit_latents(
        editor, source, source, Conditioning(number, image=source), prompt, config, ranks=ranks
    )
    return canvas, editor.evaluations


def work(ranks: Ranks) -> dict[str, Any]:
    """Everything that ends well."""
    sizes: list[int] = []

    def double(x: Tensor, y: Tensor) -> Tensor:
        sizes.append(len(x))
        return torch.stack([2 * x + y, x], dim=1).double()

    shared = {}
    for rows in (1, 2, 3, 5, 6, 7):
        x = torch.arange(rows, dtype=torch.float32)
        shared[rows] = ranks.split_and_gather(double, x, x + 1)
    seen: list[int] = []

    def stop(step: int, _: Tensor) -> bool:
        seen.append(step)
        return ranks.rank == ranks.world_size - 1 and step == 1

    source = torch.ones(2, 4, 4, 4)
    condition = Conditioning(2, image=source)
    edit_latents(ExactEditor(source), source, source, condition, "edit", GUIDED, callback=stop, ranks=ranks)
    edits = {name: edited(name, ranks) for name in EDITS}
    drifted = torch.tensor([1.0, 2.0]) + ranks.rank
    ranks.synchronize(drifted)
    return {
        "drifted": drifted,
        "edits": {name: canvas for name, (canvas, _) in edits.items()},
        "evaluations": {name: ranks.total(count) for name, (_, count) in edits.items()},
        "mine": {name: count for name, (_, count) in edits.items()},
        "shared": shared,
        "sizes": sizes,
        "seen": seen,
        "from main": ranks.broadcast(lambda: f"of {ranks.rank}", lambda said: f"{said}, sent"),
        "first": ranks.main_first(lambda: ranks.rank),
        "errors": errors(ranks),
        "joined": joined(),
        "devices": [ranks.device(name) for name in ("cpu", None)],
    }


def errors(ranks: Ranks) -> list[str]:
    """What a rank hears of errors of its own and of others."""

    def only(rank: int, error: Exception) -> Any:
        def function() -> None:
            if ranks.rank == rank:
                raise error

        return function

    class LocalError(Exception):
        """Cannot be sent."""

    said = []
    last = ranks.world_size - 1
    for call in (
        lambda: ranks.all_or_raise(only(last, UserError("one of a rank"))),
        lambda: ranks.all_or_raise(only(last, LocalError("of a class that others lack"))),
        lambda: ranks.broadcast(only(0, UserError("one of rank 0"))),
        lambda: ranks.main_first(only(0, OSError(28, "full"))),
        lambda: ranks.device("cuda:1"),
    ):
        try:
            call()
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    return said


def joined() -> dict[str, Any]:
    """In a group that someone else has made, as in ns-train."""
    again = Ranks.joined()
    return {"ranks": [again.rank, again.world_size], "edit": edited("batches", again)[0]}


def lost(ranks: Ranks) -> dict[str, Any]:
    """Rank 1 does not come to the second meeting."""
    ranks.barrier()
    if ranks.rank == 1:
        print("ready", file=sys.stderr, flush=True)
        time.sleep(SECONDS)
    x = torch.zeros(4)
    ranks.split_and_gather(lambda rows: rows, x)
    return {}


def main() -> int:
    """Run a function and keep what it says."""
    name, folder = sys.argv[1:]

    def command(_: EditConfig) -> None:
        """Of no use to anyone else."""
        torch.save(globals()[name](current()), Path(folder) / f"{current().rank}.pt")

    return run_command(EditConfig, command, [], several_ranks=True)


if __name__ == "__main__":
    sys.exit(main())
