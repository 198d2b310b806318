"""The search from the first epoch to the genotype."""

import numpy as np

from sharpkeras.loop import run_epochs


def search(model, run, epochs, training, validation, held_out, skip_none=True, progress=None):
    """Runs the bilevel search, keeping alphas and architecture of every epoch in the run directory.

    Args:
        model: SearchModel.
        run: RunDirectory.
        epochs: number of passes over the training half.
        training: epoch → iterable of batches for the weights.
        validation: epoch → endless iterator of batches for the alphas.
        held_out: () → iterable of (images, labels, valid) over the validation half, in inference mode.
        skip_none: see `CellSpace.extract`.
        progress: see `loop.Silent`.

    Returns:
        The architecture found.
    """

    def data(epoch):
        return zip(training(epoch), validation(epoch))

    def after_epoch(epoch):
        alphas = [np.asarray(a) for a in model.alphas]
        genotype = model.space.extract(alphas, skip_none).as_dict()
        run.write_json(f"epochs/{epoch:04d}.json", {"alphas": [a.tolist() for a in alphas], "genotype": genotype})
        labels = np.concatenate([labels[:valid] for _, labels, valid in held_out()])
        right = np.argmax(model.logits(held_out()), axis=-1) == labels
        return {"held_out_accuracy": float(np.mean(right)), "held_out_images": len(labels)}

    run_epochs(model, run, epochs, data, after_epoch=after_epoch, progress=progress)
    return model.space.extract([np.asarray(a) for a in model.alphas], skip_none)
