"""The final training from the first epoch to the weights."""

from sharpkeras.loop import accuracy_on, run_epochs

BEST = "best"  # the weights of the best epoch so far


def train(model, run, epochs, training, drop_path, weights, selected_on=None, selection="last", progress=None):
    """Trains a network.

    Args:
        model: TrainingModel.
        run: RunDirectory.
        epochs: number of passes over the training images.
        training: epoch → iterable of batches.
        drop_path: the rate of drop path at the end; it rises linearly from 0, by the epoch.
        weights: () → the network's arrays by name.
        selected_on: () → iterable of (images, labels, valid), the images that select the epoch; None for the last one.
        selection: what those images are, such as "held_out": names the metrics.
        progress: see `loop.Silent`.

    Returns:
        The arrays of the selected epoch (of equally good ones the latest), and how it was selected.
    """
    best = {}

    def before_epoch(epoch):
        if selected_on is not None and not best:
            best.update(_best_before(run, epoch))
        if drop_path:
            model.network.drop_path_rate.assign(drop_path * epoch / epochs)

    def after_epoch(epoch):
        if selected_on is None:
            return {}
        with model.averaged_weights():
            accuracy, images = accuracy_on(model, selected_on())
            if accuracy >= best.get("accuracy", 0.0):
                best.update(by=selection, epoch=epoch, epochs=epochs, accuracy=accuracy, images=images)
                run.save_arrays(BEST, weights(), best)
        return {f"{selection}_accuracy": accuracy, f"{selection}_images": images}

    run_epochs(model, run, epochs, training, before_epoch=before_epoch, after_epoch=after_epoch, progress=progress)
    if selected_on is not None:
        return run.load_arrays(BEST)
    with model.averaged_weights():
        return weights(), {"by": "last", "epoch": epochs - 1, "epochs": epochs}


def _best_before(run, epoch):
    """How the best of the epochs before this one was selected.

    A kill may have come between the best weights and the checkpoint of their epoch, which is then run again.
    """
    saved = run.load_arrays(BEST)
    return saved[1] if saved and saved[1]["epoch"] < epoch else {}
