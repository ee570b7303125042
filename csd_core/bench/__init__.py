"""What an edit costs, measured as ratios of contenders that are timed in turn; the command is csd-bench.

config.py      how much to measure
timing.py      contenders in turn within every round; the median over rounds counts
models.py      the models, and how they compute: precision, memory format, compiled or not
edits.py       every edit that is timed, and the network alone on the same inputs
steps.py       whole edits, computed from a few timed steps

panoramas.py, videos.py, short.py, ranks.py, chip.py: the parts
"""
