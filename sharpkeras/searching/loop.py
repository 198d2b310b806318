"""Architecture search, from the first epoch to the architecture found."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from sharpkeras.engine.epochs import accuracy_on, run_epochs
from sharpkeras.engine.training_state import TrainingState
from sharpkeras.io import atomic_writes, kinds
from sharpkeras.runs import EPOCHS_FROM_0, RunDirectory, files
from sharpkeras.searching import collapse
from sharpkeras.searching.search_model import SearchModel

logger = logging.getLogger("sharpkeras")


def search(
    model: SearchModel,
    run: RunDirectory,
    epochs: int,
    data: Callable[[int, int], Iterable],
    held_out: Callable[[], Iterable],
    extract: Callable[[list[np.ndarray]], Any],
    describe: Callable[[Any, list[np.ndarray]], dict],
    **options: Any,
) -> Any:
    """Run the bilevel search; the run directory gets alphas and architecture of every epoch.

    Args:
        model: SearchModel.
        run: RunDirectory.
        epochs: number of passes over the training half.
        data: (epoch, step) → iterable of a batch for the weights and one for the alphas, from that step on.
        held_out: () → iterable of (images, labels, valid) over the validation half, in inference mode.
        extract: alphas → the architecture found.
        describe: (architecture, alphas) → further metrics, such as the cost.
        options: progress, checkpoint_s and check of `epochs.run_epochs`.

    Returns:
        The architecture found.
    """
    was_collapsed = False

    def after_epoch(state: TrainingState) -> dict:
        nonlocal was_collapsed
        alphas = [np.asarray(a) for a in model.alphas]
        architecture, decisions = extract(alphas), model.space.decisions(alphas)
        content = {"epoch": state.epoch, **EPOCHS_FROM_0, "alphas": [a.tolist() for a in alphas]}
        content = kinds.of_kind(kinds.EPOCH, {**content, architecture.kind: architecture.as_dict()})
        run.write_soon(files.epoch(state.epoch), atomic_writes.dump_file(content, "alphas"))
        row = collapse.watch(decisions)
        warning = collapse.warning(row, decisions)
        if warning and not was_collapsed:
            logger.warning("epoch %d: %s", state.epoch + 1, warning)
        was_collapsed = bool(warning)
        accuracy, images = accuracy_on(model, held_out())
        return {"held_out_accuracy": accuracy, "held_out_images": images, **row, **describe(architecture, alphas)}

    run_epochs(model, run, epochs, data, after_epoch=after_epoch, **options)
    return extract([np.asarray(a) for a in model.alphas])
