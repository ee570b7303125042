"""One rank against several that share an edit (csd_core/engine/ranks.py), one thread each.

torchrun starts the ranks once. Within every round rank 0 edits alone while the others wait, and then all of
them together. On GPUs where there are as many, else on the CPU.
"""

import json
import os
import subprocess
import sys
from typing import Any

import torch

from csd_core.bench.config import BenchConfig
from csd_core.bench.edits import short_edit
from csd_core.bench.models import default_setup
from csd_core.bench.timing import Contender, alternate
from csd_core.engine.ranks import Ranks, launched, without_launch

NUM_RANKS = 2


def bench_ranks(config: BenchConfig) -> dict[str, Any]:
    """Measure and print it."""
    print(f"measuring {NUM_RANKS} ranks ...", file=sys.stderr, flush=True)
    device = "cuda" if config.device.type == "cuda" and torch.cuda.device_count() >= NUM_RANKS else "cpu"
    amounts = {name: getattr(config, name) for name in ("rounds", "particles", "steps")}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    worker = [f"--nproc-per-node={NUM_RANKS}", "-m", __name__, device, json.dumps(amounts)]
    environment = {**without_launch(os.environ), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, *worker], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    print(
        f"\n1 rank over {figures['ranks']}, {figures['edit']}, {figures['threads']} thread each\n"
        f"  seconds      {figures['ratio']:6.2f}   {figures['alone_seconds']:.4f} s over "
        f"{figures['shared_seconds']:.4f} s a particle-step; {figures['setup']}\n"
        f"  the edits differ by {figures['difference']:.1e} of their change",
        flush=True,
    )
    return figures


def time_ranks(config: BenchConfig, ranks: Ranks) -> dict[str, Any]:
    """Time the edit alone and shared, in turn; every rank calls it. Rank 0's figures count."""
    edit = short_edit(config, "mini", default_setup(config.device))

    def alone() -> torch.Tensor | None:
        edited = edit.run() if ranks.is_main else None
        ranks.barrier()
        return edited

    def shared() -> torch.Tensor:
        return edit.run(ranks=ranks)

    own, together = alone(), shared()  # which warms up as well
    contenders = {
        "alone": Contender(alone, edit.particle_steps),
        "shared": Contender(shared, edit.particle_steps),
    }
    timings = alternate(contenders, config.rounds)
    change = (together - edit.latents).abs().max()
    return {
        "ranks": ranks.world_size,
        "edit": str(edit),
        "setup": str(edit.model.setup),
        "threads": torch.get_num_threads(),
        "alone_seconds": timings.median("alone"),
        "shared_seconds": timings.median("shared"),
        "ratio": timings.ratio("alone", "shared"),
        "difference": 0.0 if own is None else float((own - together).abs().max() / change),
    }


def run_rank(device: str, amounts: str) -> None:
    """One of the ranks; each prints its figures as JSON."""
    torch.set_num_threads(1)
    with launched() as ranks:
        config = BenchConfig(torch.device(ranks.device(device) or "cpu"), **json.loads(amounts))
        figures = time_ranks(config, ranks)
        if ranks.is_main:
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    run_rank(*sys.argv[1:])
