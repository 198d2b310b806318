"""The final training from the first epoch to the weights."""

from sharpkeras.loop import run_epochs


def train(model, run, epochs, training, drop_path, progress=None):
    """Trains a network; the last epoch's weights are the result, so that nothing is selected on any data.

    Args:
        model: TrainingModel.
        run: RunDirectory.
        epochs: number of passes over the training images.
        training: epoch → iterable of batches.
        drop_path: the rate of drop path at the end; it rises linearly from 0, by the epoch.
        progress: see `loop.Silent`.
    """

    def before_epoch(epoch):
        model.network.drop_path_rate.assign(drop_path * epoch / epochs)

    run_epochs(model, run, epochs, training, before_epoch=before_epoch, progress=progress)
