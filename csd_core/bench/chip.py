"""What share of a GPU's arithmetic the network reaches at Stable Diffusion's size.

peak        a large product of matrices in the network's precision, FLOP a second
rate        evaluations a second of the network, in the batches of the engine
share       rate times the FLOP of an evaluation over the peak
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from csd_core.bench.config import BenchConfig
from csd_core.bench.edits import ShortEdit, short_edit
from csd_core.bench.models import default_setup, no_compiler, seeded
from csd_core.bench.steps import StepCost, time_steps
from csd_core.bench.timing import Contender, alternate
from csd_core.engine.progress import duration

FRAMES, STEPS = 24, 200
"""The edit whose time is computed: all frames in every step."""
SIDE = 8192
"""Of the matrices: large enough to be bound by arithmetic on today's chips."""
PRODUCTS = 10
"""In a round: launching them does not count then."""


def bench_chip(config: BenchConfig) -> dict[str, Any]:
    """Measure and print it, where there is a GPU."""
    if config.device.type != "cuda":
        print("\nchip: needs a GPU; a UNet of Stable Diffusion's size takes a CPU seconds an evaluation")
        return {"needs": "a GPU"}
    default = default_setup(config.device)
    setups = {"eager": default}
    if not config.quick and not no_compiler(config.device):
        setups["compiled"] = replace(default, compile=True)
    config = replace(config, particles=FRAMES, steps=STEPS)
    return measure_chip({name: short_edit(config, "sd15", each) for name, each in setups.items()}, config)


def measure_chip(edits: Mapping[str, ShortEdit], config: BenchConfig, side: int = SIDE) -> dict[str, Any]:
    """Time the product and the network of each edit in turn, then some steps of the first edit.

    Args:
        edits: the same edit, eager first.
        config: rounds, timed_steps.
        side: of the matrices.
    """
    edit = next(iter(edits.values()))
    contenders = {"matmul": matmul(side, edit.model.setup.dtype, config.device)}
    for name, each in edits.items():
        each.warm_up()
        contenders[name] = Contender(each.recorder.replay, each.recorder.evaluations)
    flops = count_flops(edit.recorder.replay) / edit.recorder.evaluations
    contenders["matmul"].run()
    timings = alternate(contenders, config.rounds)
    step = StepCost.of(time_steps(edit.model.unet, edit.run, config.timed_steps))
    whole = step.seconds_of(edit.config.num_steps, edit.evaluations)
    print(
        f"\nshare of the chip, {edit}, median of {config.rounds} rounds\n"
        f"  product of matrices  {1e-12 / timings.median('matmul'):8.1f} TFLOP a second\n"
        f"  an evaluation        {flops / 1e9:8.1f} GFLOP, counted"
    )
    speeds = {}
    for name, each in edits.items():
        rate, share = 1 / timings.median(name), flops * timings.ratio("matmul", name)
        print(f"  {name:<20} {rate:8.2f} evaluations a second, {100 * share:.1f} %; {each.model.setup}")
        speeds[name] = {"evaluations_per_second": rate, "share_of_peak": share}
    print(
        f"  engine               {step.seconds:8.4f} s a step, {duration(whole)} the edit, computed",
        flush=True,
    )
    return {
        "edit": str(edit),
        "flops": flops,
        "peak_flops": 1 / timings.median("matmul"),
        "speeds": speeds,
        "seconds_step": step.seconds,
        "seconds_edit": whole,
    }


def count_flops(run: Callable[[], object]) -> int:
    """FLOP of some work: two a multiplication."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def matmul(side: int, dtype: torch.dtype, device: torch.device) -> Contender:
    """Products of two square matrices; the unit is a FLOP."""
    a, b = (seeded(k, (side, side), device).to(dtype) for k in range(2))
    product = torch.empty_like(a)

    def multiply() -> None:
        for _ in range(PRODUCTS):
            torch.matmul(a, b, out=product)

    return Contender(multiply, PRODUCTS * 2 * side**3)
