"""The search from the first epoch to the genotype."""

import logging

import numpy as np

from sharpkeras.engine.epochs import accuracy_on, run_epochs
from sharpkeras.io import atomic_writes
from sharpkeras.runs import EPOCHS_FROM_0
from sharpkeras.searching import collapse

logger = logging.getLogger("sharpkeras")


def search(model, run, epochs, data, held_out, extract, describe, **options):
    """Runs the bilevel search, keeping alphas and architecture of every epoch in the run directory.

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

    def after_epoch(epoch):
        nonlocal was_collapsed
        alphas = [np.asarray(a) for a in model.alphas]
        found, decisions = extract(alphas), model.space.decisions(alphas)
        state = {"epoch": epoch, **EPOCHS_FROM_0, "alphas": [a.tolist() for a in alphas], found.kind: found.as_dict()}
        run.write_soon(f"epochs/{epoch:04d}.json", atomic_writes.dump_file(state, "alphas"))
        row = collapse.watch(decisions)
        warning = collapse.warning(row, decisions)
        if warning and not was_collapsed:
            logger.warning("epoch %d: %s", epoch + 1, warning)
        was_collapsed = bool(warning)
        accuracy, images = accuracy_on(model, held_out())
        return {"held_out_accuracy": accuracy, "held_out_images": images, **row, **describe(found, alphas)}

    run_epochs(model, run, epochs, data, after_epoch=after_epoch, **options)
    return extract([np.asarray(a) for a in model.alphas])
