"""csd-bench: what an edit costs, as ratios of contenders that are timed in turn.

timing.py      the one way to time: contenders alternate within every round, the median over rounds counts
workloads.py   the models, and how they compute: precision, memory format, compiled or not
bare.py        the network alone, asked for exactly what the engine asked it for
edits.py       the short edit that is timed whole
overhead.py, published.py, speedups.py, panoramas.py, overlap.py, videos.py, ranks.py, chip.py: the parts
"""

from csd_core.bench.command import main

__all__ = ["main"]
