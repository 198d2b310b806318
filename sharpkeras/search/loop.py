"""The search from the first epoch to the genotype."""

import logging

import numpy as np

from sharpkeras.loop import accuracy_on, run_epochs
from sharpkeras.search import collapse

logger = logging.getLogger("sharpkeras")


def search(model, run, epochs, training, validation, held_out, extract, describe, progress=None):
    """Runs the bilevel search, keeping alphas and architecture of every epoch in the run directory.

    Args:
        model: SearchModel.
        run: RunDirectory.
        epochs: number of passes over the training half.
        training: epoch → iterable of batches for the weights.
        validation: epoch → endless iterator of batches for the alphas.
        held_out: () → iterable of (images, labels, valid) over the validation half, in inference mode.
        extract: alphas → the architecture found.
        describe: (architecture, alphas) → further metrics, such as the cost.
        progress: see `loop.Silent`.

    Returns:
        The architecture found.
    """
    was_collapsed = False

    def data(epoch):
        return zip(training(epoch), validation(epoch))

    def after_epoch(epoch):
        nonlocal was_collapsed
        alphas = [np.asarray(a) for a in model.alphas]
        found, decisions = extract(alphas), model.space.decisions(alphas)
        state = {"alphas": [a.tolist() for a in alphas], found.kind: found.as_dict()}
        run.write_json(f"epochs/{epoch:04d}.json", state)
        row = collapse.watch(decisions)
        warning = collapse.warning(row, decisions)
        if warning and not was_collapsed:
            logger.warning("epoch %d: %s", epoch + 1, warning)
        was_collapsed = bool(warning)
        accuracy, images = accuracy_on(model, held_out())
        return {"held_out_accuracy": accuracy, "held_out_images": images, **row, **describe(found, alphas)}

    run_epochs(model, run, epochs, data, after_epoch=after_epoch, progress=progress)
    alphas = [np.asarray(a) for a in model.alphas]
    if warning := collapse.chance(model.space.decisions(alphas)):
        logger.warning("%s", warning)
    return extract(alphas)
