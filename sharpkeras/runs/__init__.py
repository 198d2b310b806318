"""Run directories: what a search or a training leaves, so that it can be resumed, evaluated and trusted."""

from sharpkeras.runs.directory import EPOCHS_FROM_0, STEPS_FROM_0, RunDirectory, differences

__all__ = ["EPOCHS_FROM_0", "STEPS_FROM_0", "RunDirectory", "differences"]
