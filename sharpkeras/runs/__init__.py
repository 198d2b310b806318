"""Run directories: recipe, metrics, checkpoints and results of a search or a training."""

from sharpkeras.runs.directory import EPOCHS_FROM_0, STEPS_FROM_0, RunDirectory, differences

__all__ = ["EPOCHS_FROM_0", "STEPS_FROM_0", "RunDirectory", "differences"]
