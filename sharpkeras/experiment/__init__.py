"""The composition root: what each command does, put together from all other modules.

Every function takes plain values and returns plain values; the command line adds words and progress.
"""

from sharpkeras.experiment.results import architecture, count_cost, evaluate, export, table, trained_network
from sharpkeras.experiment.running import degenerate, search, train

__all__ = [
    "architecture",
    "count_cost",
    "degenerate",
    "evaluate",
    "export",
    "search",
    "table",
    "train",
    "trained_network",
]
