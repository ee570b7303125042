"""One rank against several that share an edit (csd_core/engine/ranks.py), one thread each.

The ranks are started once, by torchrun, and take turns (one_rank.py): within every round rank 0 edits alone
while the others wait, and then all of them together. On GPUs where there are as many, else on the CPU.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch

from csd_core.bench.options import BenchConfig
from csd_core.engine.ranks import without_launch

NUM_RANKS = 2
AT_LEAST = 1.9
"""The target."""
OPTIONS = ("max_batch", "rounds", "particles", "steps")
"""Those of BenchConfig that the ranks are told."""


@dataclass(frozen=True)
class RanksResult:
    """The same short edit, by one rank and by all."""

    ranks: int
    edit: str
    setup: str
    threads: int
    """Of each rank."""
    alone_seconds: float
    """A particle-step."""
    shared_seconds: float
    ratio: float
    """Seconds alone over shared, the median of the rounds' ratios."""
    difference: float
    """The largest between the two edits, over the largest change that the edit made."""


def bench_ranks(config: BenchConfig) -> dict[str, Any]:
    """Measure and print it."""
    print(f"measuring {NUM_RANKS} ranks ...", file=sys.stderr, flush=True)
    result = measure_ranks(config)
    print(format_ranks(result), flush=True)
    return asdict(result)


def measure_ranks(config: BenchConfig) -> RanksResult:
    """Start the ranks and wait for what rank 0 found."""
    device = "cuda" if config.device.type == "cuda" and torch.cuda.device_count() >= NUM_RANKS else "cpu"
    told = {"device": device, **{name: getattr(config, name) for name in OPTIONS}}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, f"--nproc-per-node={NUM_RANKS}", "-m", "csd_core.bench.one_rank", json.dumps(told)]
    environment = {**without_launch(os.environ), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return RanksResult(**json.loads(done.stdout.strip().splitlines()[-1]))


def format_ranks(result: RanksResult) -> str:
    """The figures as a few lines of text."""
    return "\n".join(
        [
            "",
            f"1 rank over {result.ranks}, {result.edit}, {result.threads} thread each",
            f"  seconds      {result.ratio:6.2f}   (target: at least {AT_LEAST}) "
            f"{result.alone_seconds:.4f} s over {result.shared_seconds:.4f} s a particle-step; "
            f"{result.setup}",
            f"  the edits differ by {result.difference:.1e} of their change",
        ]
    )
