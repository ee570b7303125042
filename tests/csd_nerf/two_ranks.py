"""Training on two ranks as ns-train would start them, for nerfstudio_compat/test_launch.py.

As a program: `python -m tests.csd_nerf.two_ranks FOLDER` trains by FOLDER/runs and writes
FOLDER/<run>-<rank>.pt.
"""

import faulthandler
import os
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.scripts import train as ns_train

from csd_nerf.nerfstudio_compat.launch import DataParallel, _cpu_worker
from tests.ranks import SECONDS, ended, start

RUNS = "runs"
"""File: the configs, each with whether rank 0's viewer gets requests."""


def started(folder: Path, runs: Sequence[tuple[Any, bool]]) -> list[list[dict[str, Any]]]:
    """Train on two ranks, one config after the other; what each rank had at the end of each.

    With a config: whether rank 0's viewer gets requests.
    """
    (folder / RUNS).write_bytes(pickle.dumps(runs))
    for code, said, err in ended(start(2, ["-m", "tests.csd_nerf.two_ranks", folder])):
        assert code == 0, said + err
    return [[torch.load(folder / f"{run}-{rank}.pt") for rank in range(2)] for run in range(len(runs))]


def train_all(rank: int, world_size: int, folder: Path, global_rank: int) -> None:
    """What each rank does."""
    runs: Sequence[tuple[Any, bool]] = pickle.loads((folder / RUNS).read_bytes())
    for number, (config, requests) in enumerate(runs):
        config.vis = "none"
        config.set_timestamp()
        if rank == 0:
            config.save_config()
        ns_train._set_random_seed(config.machine.seed + global_rank)
        trainer = config.setup(local_rank=rank, world_size=world_size)
        trainer.setup()
        if requests and rank == 0:
            request(trainer)
        trainer.train()
        torch.save(seen(trainer), folder / f"{number}-{rank}.pt")


def request(trainer: Any) -> None:
    """Change the prompt, and ask for a round after step 5."""
    manager = trainer.datamanager
    manager.live.prompt = "night"
    ask = TrainingCallback(
        [TrainingCallbackLocation.AFTER_TRAIN_ITERATION],
        lambda step: manager.request_round() if step == 5 else None,
        update_every_num_iters=1,
    )
    trainer.callbacks.append(ask)


def seen(trainer: Any) -> dict[str, Any]:
    """State of a rank at the end."""
    manager = trainer.datamanager
    return {
        "scene": trainer.model.state_dict(),
        "views": torch.stack([manager._images[place] for _, place in sorted(manager._position.items())]),
        "drawn": torch.rand(4),
        "rounds": manager.rounds_done,
        "wrapped": isinstance(trainer.pipeline._model, DataParallel),
    }


def main() -> None:
    """Join the other rank and train."""
    faulthandler.dump_traceback_later(0.9 * SECONDS, exit=True)  # where it hangs, if it does
    rank = int(os.environ["RANK"])
    url = f"tcp://{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    _cpu_worker(rank, train_all, 2, 2, 0, url, Path(sys.argv[1]), ns_train.DEFAULT_TIMEOUT, "cpu")


if __name__ == "__main__":
    main()
