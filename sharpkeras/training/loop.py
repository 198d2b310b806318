"""The final training from the first epoch to the weights."""

from sharpkeras.engine.checkpointing import Kept
from sharpkeras.engine.epochs import accuracy_on, run_epochs


def train(model, run, epochs, data, drop_path, weights, selected_on=None, selection="last", **options):
    """Trains a network.

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
    best = Kept()

    def before_epoch(epoch):
        if drop_path:
            model.network.drop_path_rate.assign(drop_path * epoch / epochs)

    def after_epoch(epoch):
        if selected_on is None:
            return {}
        with model.averaged_weights():
            accuracy, images = accuracy_on(model, selected_on())
            if accuracy >= best.facts.get("accuracy", 0.0):
                best.arrays = weights()
                best.facts = {"by": selection, "epoch": epoch, "epochs": epochs, "accuracy": accuracy, "images": images}
        return {f"{selection}_accuracy": accuracy, f"{selection}_images": images}

    run_epochs(model, run, epochs, data, before_epoch, after_epoch, best, **options)
    if selected_on is not None:
        return best.arrays, best.facts
    with model.averaged_weights():
        return weights(), {"by": "last", "epoch": epochs - 1, "epochs": epochs}
