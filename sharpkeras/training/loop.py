"""Final training, from the first epoch to the selected weights."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from sharpkeras.engine.epochs import accuracy_on, run_epochs
from sharpkeras.engine.training_state import TrainingState
from sharpkeras.runs import RunDirectory
from sharpkeras.training.training_model import TrainingModel


def train(
    model: TrainingModel,
    run: RunDirectory,
    epochs: int,
    data: Callable[[int, int], Iterable],
    drop_path: float,
    weights: Callable[[], dict[str, np.ndarray]],
    selected_on: Callable[[], Iterable] | None = None,
    selection: str = "last",
    **options: Any,
) -> tuple[dict[str, np.ndarray], dict]:
    """Train a network and select the weights of one epoch.

    Args:
        model: TrainingModel.
        run: RunDirectory.
        epochs: number of passes over the training images.
        data: (epoch, step) → iterable of batches, from that step on.
        drop_path: the rate of drop path at the end; it rises linearly from 0, by the epoch.
        weights: () → the network's arrays by name.
        selected_on: () → iterable of (images, labels, valid), the images that select the epoch; None for the last one.
        selection: what those images are, such as "held_out": names the metrics.
        options: progress, checkpoint_s and check of `epochs.run_epochs`.

    Returns:
        The arrays of the selected epoch (of equally good ones the latest), and how it was selected.
    """

    def before_epoch(epoch: int) -> None:
        if drop_path:
            model.network.drop_path_rate.assign(drop_path * epoch / epochs)

    def after_epoch(state: TrainingState) -> dict:
        """Evaluate the epoch; the best weights so far are extra entries of every checkpoint."""
        if selected_on is None:
            return {}
        with model.averaged_weights():
            accuracy, images = accuracy_on(model, selected_on())
            if accuracy >= state.extra_facts.get("accuracy", 0.0):
                state.extra_arrays = weights()
                state.extra_facts = {
                    "by": selection,
                    "epoch": state.epoch,
                    "epochs": epochs,
                    "accuracy": accuracy,
                    "images": images,
                }
        return {f"{selection}_accuracy": accuracy, f"{selection}_images": images}

    state = run_epochs(model, run, epochs, data, before_epoch, after_epoch, **options)
    if selected_on is not None:
        return state.extra_arrays, state.extra_facts
    with model.averaged_weights():
        return weights(), {"by": "last", "epoch": epochs - 1, "epochs": epochs}
