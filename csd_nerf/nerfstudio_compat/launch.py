"""The processes of ns-train with --machine.num-devices above 1.

nerfstudio starts them only for CUDA, and prints a traceback when one ends. Here they also run on the CPU,
over gloo, and the last line is the error of the rank that failed.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from nerfstudio.utils import comms
from torch.multiprocessing.spawn import ProcessExitedException
from torch.nn.parallel import DistributedDataParallel

_TRAIN = "nerfstudio.scripts.train"


def take_over_launch() -> None:
    """Wrap nerfstudio's launch. Does nothing in other programs than ns-train."""
    train: Any = sys.modules.get(_TRAIN)
    if train is not None and not isinstance(train.launch, partial):
        train.launch = partial(_launch, train.launch)


def _launch(launch: Callable[..., None], *args: Any, device_type: str, **kwargs: Any) -> None:
    ours = {"_distributed_worker": _cpu_worker} if device_type == "cpu" else {}
    try:
        with mock.patch.dict(vars(sys.modules[_TRAIN]), ours):
            launch(*args, device_type=device_type, **kwargs)
    except ProcessExitedException as ended:
        raise SystemExit(max(ended.exit_code, 1)) from None


def _cpu_worker(
    rank: int,
    main_func: Callable[..., Any],
    world_size: int,
    _per_machine: int,
    _machine: int,
    dist_url: str,
    config: Any,
    timeout: Any,
    _device_type: str,
) -> None:
    """nerfstudio's _distributed_worker for one machine without CUDA."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // world_size))
    dist.init_process_group("gloo", init_method=dist_url, world_size=world_size, rank=rank, timeout=timeout)
    comms.LOCAL_PROCESS_GROUP = dist.new_group(list(range(world_size)))
    main_func(rank, world_size, config, rank)
    comms.synchronize()
    dist.destroy_process_group()


class DataParallel(DistributedDataParallel):
    """nerfstudio's wrapper of a scene, which also accepts one on the CPU."""

    def __init__(self, module: torch.nn.Module, *, device_ids: list[int], **how: Any) -> None:
        on_cpu = all(parameter.device.type == "cpu" for parameter in module.parameters())
        super().__init__(module, device_ids=None if on_cpu else device_ids, **how)


def data_parallel_anywhere() -> Any:
    """A context in which pipelines wrap their scene in DataParallel."""
    return mock.patch("nerfstudio.pipelines.base_pipeline.DDP", DataParallel)


def without_data_parallel(key: str) -> str:
    """A key of the pipeline's weights as in a single process."""
    return key.replace("_model.module.", "_model.", 1)
