"""The loop over epochs and steps that a search and a training have in common, with its metrics and checkpoints."""

import math
import shutil
import time

import numpy as np

from sharpkeras.errors import NumericalError, ResourceError, RunError

CHECKPOINT = "checkpoint"
CHECKPOINTS_ON_DISK = 3  # the last, the one before, and the one that is being written
MAX_SKIPPED = 200  # steps in a row that float16 may skip
PROGRESS_S = 0.2  # the least time between two reports of a step; reading a loss waits for the device


class Silent:
    """The progress that says nothing; the command line has one that speaks."""

    def note(self, text):
        """What was done to the data, a line."""

    def complete(self):
        """Instead of all else, when the run was finished before."""

    def begin(self, epochs, first_epoch):
        """Before the first epoch that runs."""

    def first_step(self, seconds):
        """After the first step: the time since `begin`, with building and compiling."""

    def step(self, epoch, step, loss):
        """Now and then within an epoch."""

    def epoch(self, row):
        """After each epoch, with its row of metrics."""


def run_epochs(model, run, epochs, data, before_epoch=None, after_epoch=None, progress=None):
    """Trains until `epochs` are done, from the run's checkpoint on if it has one.

    A row of metrics is written before the checkpoint of its epoch, so that a kill between the two repeats the epoch;
    the rows behind a checkpoint are dropped when a run goes on.

    Args:
        model: StepModel.
        run: RunDirectory, open for writing.
        epochs: number of epochs in all.
        data: epoch → iterable of what the model's step takes.
        before_epoch: epoch → None, to set what changes by the epoch.
        after_epoch: epoch → further metrics, as a dict.
        progress: see Silent.

    Raises:
        NumericalError: when a metric or a weight is not finite; the checkpoint before stays, and `diverged.json` says
            where.
    """
    progress, started = progress or Silent(), time.perf_counter()
    first = restore(model, run)
    progress.begin(epochs, first)
    step, reported = model.compiled_step(), 0.0
    for epoch in range(first, epochs):
        if before_epoch:
            before_epoch(epoch)
        rate, epoch_started, logs = float(model.optimizers[0].learning_rate), time.perf_counter(), []
        for index, batch in enumerate(data(epoch)):
            logs.append(step(batch))
            if epoch == first and index == 0:
                float(logs[0]["train_loss"])  # waits for the device
                progress.first_step(time.perf_counter() - started)
            if time.perf_counter() - reported > PROGRESS_S:
                progress.step(epoch, index, float(logs[-1]["train_loss"]))
                _refuse_endless_skipping(run, epoch, logs[-1])
                reported = time.perf_counter()
        step.sync()
        _refuse_endless_skipping(run, epoch, logs[-1])
        row = {"epoch": epoch, "steps": len(logs), "learning_rate": rate, **_means(logs)}
        arrays = state(model)
        _refuse_divergence(run, row, arrays)
        row |= {"seconds": time.perf_counter() - epoch_started}
        row |= after_epoch(epoch) if after_epoch else {}
        run.append_metrics(row)
        run.save_arrays(CHECKPOINT, arrays, {"epoch": epoch})
        progress.epoch(row)


def _means(logs):
    """The metrics of an epoch: means over its steps, without those that float16 skipped, and how many those were."""
    rows = [{name: float(value) for name, value in log.items() if name != "skipped_in_a_row"} for log in logs]
    counted = [row for row in rows if not row.get("skipped")] or rows
    means = {name: float(np.mean([row[name] for row in counted])) for name in rows[0]}
    if "skipped" in means:
        means |= {"skipped": int(sum(row["skipped"] for row in rows)), "loss_scale": rows[-1]["loss_scale"]}
    return means


def _refuse_endless_skipping(run, epoch, log):
    """Raises NumericalError when float16 has skipped so many steps that its scale will not save it."""
    skipped = int(log.get("skipped_in_a_row", 0))
    if skipped >= MAX_SKIPPED:
        raise NumericalError(
            f"{skipped} steps in a row had a gradient that is not finite, at any loss scale, in epoch {epoch}",
            where=str(run.path),
            seen=f"loss scale {float(log['loss_scale']):g}",
            next_step="--precision mixed_bfloat16 needs no loss scale; or lower --learning-rate",
        )


def accuracy_on(model, batches):
    """The share of right answers in inference mode, and the number of images.

    Args:
        model: StepModel.
        batches: iterable of (images, labels, valid), as `data.streams.evaluation_batches` yields them; read once.
    """
    labels = []

    def noted():
        for batch in batches:
            labels.append(batch[1][: batch[2]])
            yield batch

    answers = np.argmax(model.logits(noted()), axis=-1)  # (N,)
    right = answers == np.concatenate(labels)
    return float(np.mean(right)), len(right)


def state(model):
    """Everything a step reads and writes, as arrays under names that tell their group, place and path."""
    return {name: np.asarray(variable) for name, variable in _named(model).items()}


def restore(model, run):
    """Puts the run's checkpoint into the model; returns the epoch to go on with, 0 without a checkpoint.

    Raises:
        RunError: when the checkpoint is of another model.
    """
    loaded = run.load_arrays(CHECKPOINT)
    if loaded is None:
        run.truncate_metrics(-1)
        return 0
    arrays, meta = loaded
    variables = _named(model)
    other = sorted(set(arrays) ^ set(variables)) or [
        name for name, variable in variables.items() if tuple(variable.shape) != arrays[name].shape
    ]
    if other:
        problem = f"the checkpoint belongs to another model: {len(other)} arrays differ"
        raise RunError(problem, where=str(run.path), seen=other[0], next_step="use --overwrite to begin anew")
    for name, variable in variables.items():
        variable.assign(arrays[name])
    run.truncate_metrics(meta["epoch"])
    return meta["epoch"] + 1


def _named(model):
    """Name → variable. Keras numbers its layers per process, so a path alone is no name; the order of building is."""
    groups = zip(("trainable", "other", "optimizer", "metric"), model.step_variables())
    return {f"{group}/{index:05d}": v for group, variables in groups for index, v in enumerate(variables)}


def refuse_full_disk(model, path):
    """Raises ResourceError unless the disk of `path` has room for the checkpoints that a run keeps."""
    size, free = sum(array.nbytes for array in state(model).values()), shutil.disk_usage(path).free
    if free < CHECKPOINTS_ON_DISK * size:
        raise ResourceError(
            "the disk has too little room for checkpoints",
            where=str(path),
            seen=f"{free / 1e6:,.1f} MB free",
            allowed=f"{CHECKPOINTS_ON_DISK} checkpoints of {size / 1e6:,.1f} MB",
            next_step="free some space, name a place on another disk with --out, or add --ignore-disk-check",
        )


def _refuse_divergence(run, row, arrays):
    """Raises NumericalError; weights can be NaN after a step whose loss was finite."""
    bad = {name: str(value) for name, value in row.items() if not math.isfinite(value)}
    weights = [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if weights:
        bad["weights"] = f"in {len(weights)} of {len(arrays)} arrays"
    if bad:
        run.write_json("diverged.json", {"epoch": row["epoch"], "not_finite": bad})
        raise NumericalError(
            f"{', '.join(bad)} became NaN or infinite in epoch {row['epoch']}",
            where=str(run.path / "diverged.json"),
            next_step="lower --learning-rate, with --overwrite or another --out; the checkpoint before is intact",
        )
