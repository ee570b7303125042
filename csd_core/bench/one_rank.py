"""One of the ranks that ranks.py starts."""

import json
import sys
from dataclasses import asdict, replace

import torch

from csd_core.bench.edits import short_edit
from csd_core.bench.options import BenchConfig, BenchOptions
from csd_core.bench.ranks import RanksResult
from csd_core.bench.timing import Contender, alternate
from csd_core.bench.workloads import default_setup
from csd_core.engine.ranks import Ranks, launched


def be_a_rank(told: str) -> None:
    """What each rank does; rank 0 prints what it found, as JSON."""
    options = json.loads(told)
    torch.set_num_threads(1)
    with launched() as ranks:
        settled = BenchOptions(**options).settled()
        device = torch.device(ranks.device(options["device"]) or "cpu")
        result = time_ranks(replace(settled, device=device), ranks)
        print(json.dumps(asdict(result)), flush=True)


def time_ranks(config: BenchConfig, ranks: Ranks) -> RanksResult:
    """Time the edit alone and shared, in turn."""
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
    timed = alternate(contenders, config.rounds, config.device)
    change = (together - edit.latents).abs().max()
    return RanksResult(
        ranks=ranks.world_size,
        edit=edit.describe(config.rounds),
        setup=str(edit.workload.setup),
        threads=torch.get_num_threads(),
        alone_seconds=timed.median("alone"),
        shared_seconds=timed.median("shared"),
        ratio=timed.ratio("alone", "shared"),
        difference=0.0 if own is None else float((own - together).abs().max() / change),
    )


if __name__ == "__main__":
    be_a_rank(sys.argv[1])
