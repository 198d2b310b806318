"""The composition root: what each command does, put together from all other modules.

Every function takes plain values and returns plain values; the command line adds words and progress.
"""

from sharpkeras.experiment.architectures import architecture
from sharpkeras.experiment.assembly import count_cost, counted_network
from sharpkeras.experiment.comparison import compare
from sharpkeras.experiment.conduct import Conduct
from sharpkeras.experiment.deployment import export
from sharpkeras.experiment.evaluation import evaluate
from sharpkeras.experiment.extraction import extract
from sharpkeras.experiment.forecast import forecast_search, forecast_training
from sharpkeras.experiment.inheritance import training_recipe
from sharpkeras.experiment.results import is_training, sizes_of_run, table, trained_network
from sharpkeras.experiment.running import degenerate, search, train, what_was_not_learned
from sharpkeras.experiment.sampling import sample

__all__ = [
    "Conduct",
    "architecture",
    "compare",
    "count_cost",
    "counted_network",
    "degenerate",
    "evaluate",
    "export",
    "extract",
    "forecast_search",
    "forecast_training",
    "is_training",
    "sample",
    "search",
    "sizes_of_run",
    "table",
    "train",
    "trained_network",
    "training_recipe",
    "what_was_not_learned",
]
