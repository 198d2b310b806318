"""The loop over epochs and steps that a search and a training have in common, with its metrics and checkpoints."""

import math
import shutil
import time

import numpy as np

from sharpkeras.engine import signals
from sharpkeras.engine.checkpointing import CHECKPOINT_S, Diverged, Keeper, Kept, restore, state, tell_divergence
from sharpkeras.errors import NumericalError, ResourceError

CHECKPOINTS_ON_DISK = 3  # the last, the one before, and the one that is being written
MAX_SKIPPED = 200  # steps in a row that float16 may skip
PROGRESS_S = 0.2  # the least time between two reports of a step; reading a loss waits for the device


class Silent:
    """The progress that says nothing; the command line has one that speaks."""

    def note(self, text):
        """What was done to the data, a line."""

    def works_on(self, text):
        """Data, backend and device of what begins now, a line."""

    def stage(self, text):
        """What begins now and may take long, such as "tracing"; the next of these calls ends it."""

    def complete(self):
        """Instead of all else, when the run was finished before."""

    def begin(self, epochs, first_epoch, first_step=0):
        """Before the first epoch that runs, and its first step."""

    def first_step(self, seconds):
        """After the first step: the time since `begin`, with building and compiling."""

    def step(self, epoch, step, loss):
        """Now and then within an epoch."""

    def epoch(self, row):
        """After each epoch, with its row of metrics."""


def run_epochs(
    model,
    run,
    epochs,
    data,
    before_epoch=None,
    after_epoch=None,
    kept=None,
    progress=None,
    checkpoint_s=CHECKPOINT_S,
    check=None,
):
    """Trains until `epochs` are done, from the run's newest checkpoint on if it has one.

    A checkpoint is written after the first step that ends later than `checkpoint_s` after the one before, when a signal
    stops the run, and at the end. What was written since the one from which a run goes on is computed again.

    Args:
        model: StepModel.
        run: RunDirectory, open for writing.
        epochs: number of epochs in all.
        data: (epoch, step) → iterable of what the model's step takes, from that step of the epoch on.
        before_epoch: epoch → None, to set what changes by the epoch.
        after_epoch: epoch → further metrics, as a dict.
        kept: Kept, what else belongs in a checkpoint; a checkpoint's own takes its place before the first epoch.
        progress: see Silent.
        checkpoint_s: seconds between two checkpoints; 0 is one after each step.
        check: (compiled step, batch) → None, called before the first step; what it raises ends the run.

    Raises:
        NumericalError: a metric or a weight is not finite; the checkpoint before stays, and `diverged.json` says where.
        ResourceError: the disk was full several times in a row.
        Stopped: by a signal, after its checkpoint.
    """
    progress, kept, started = progress or Silent(), kept or Kept(), time.perf_counter()
    at = restore(model, run, kept)
    progress.begin(epochs, at.epoch, len(at.steps))
    model.tell = progress.stage
    step, reported, is_first, evaluated = model.compiled_step(), 0.0, True, False
    keeper = Keeper(run, model, step, at, kept, checkpoint_s)
    try:
        with signals.held():
            try:
                while at.epoch < epochs:
                    if before_epoch:
                        before_epoch(at.epoch)
                    at.begin_epoch(model.optimizers[0].learning_rate)
                    for batch in data(at.epoch, len(at.steps)):
                        if is_first and check:
                            check(step, batch)
                        keeper.note(step(batch))
                        if is_first:
                            keeper.settle()  # waits for the device
                            progress.first_step(time.perf_counter() - started)
                            is_first = False
                        if time.perf_counter() - reported > PROGRESS_S:
                            keeper.settle()
                            _refuse_endless_skipping(run, at)
                            progress.step(at.epoch, len(at.steps) - 1, at.steps[-1]["train_loss"])
                            reported = time.perf_counter()
                        signals.check()
                        if keeper.due:
                            keeper.save()
                    keeper.finite_state()
                    _refuse_endless_skipping(run, at)
                    row = {"epoch": at.epoch, "steps": len(at.steps), "learning_rate": at.learning_rate}
                    row |= {**_means(at.steps), "seconds": at.stop_clock()}
                    if after_epoch:
                        if not evaluated:
                            progress.stage("tracing, compiling and running the evaluation")
                            evaluated = True
                        row |= after_epoch(at.epoch)
                    at.end_epoch(row)
                    run.write_metrics(at.rows)
                    progress.epoch(row)
                    if keeper.due:
                        keeper.save()
                keeper.save_at_last()
            except signals.Stopped:
                keeper.save()
                raise
    except Diverged as diverged:
        raise tell_divergence(run, at, diverged) from None


def _means(steps):
    """The metrics of an epoch: means over its steps, without those that float16 skipped, and how many those were.

    Where it skipped all of them, a metric that was never finite has no mean and is left out.
    """
    counted, means = [row for row in steps if not row.get("skipped")] or steps, {}
    for name in steps[0]:
        if name in ("skipped", "skipped_in_a_row", "loss_scale"):
            continue
        values = [row[name] for row in counted if math.isfinite(row[name])]
        means |= {name: float(np.mean(values))} if values else {}
    if "skipped" in steps[0]:
        means |= {"skipped": int(sum(row["skipped"] for row in steps)), "loss_scale": steps[-1]["loss_scale"]}
    return means


def _refuse_endless_skipping(run, at):
    """Raises NumericalError when float16 has skipped so many steps that its scale will not save it."""
    last = at.steps[-1]
    skipped = int(last["skipped_in_a_row"]) if "skipped" in last else 0
    if skipped >= MAX_SKIPPED:
        raise NumericalError(
            f"{skipped} steps in a row had a gradient that is not finite, at any loss scale, in epoch {at.epoch + 1}",
            where=str(run.path),
            seen=f"loss scale {last['loss_scale']:g}",
            next_step="`precision=mixed_bfloat16` needs no loss scale; or lower `learning_rate`",
        )


def accuracy_on(model, batches):
    """The share of right answers in inference mode, and the number of images; a place where a run can be stopped.

    Args:
        model: StepModel.
        batches: iterable of (images, labels, valid), as `data.batches.evaluation_batches` yields them; read once.
    """
    labels = []

    def noted():
        for batch in batches:
            signals.check()
            labels.append(batch[1][: batch[2]])
            yield batch

    answers = np.argmax(model.logits(noted()), axis=-1)  # (N,)
    right = answers == np.concatenate(labels)
    return float(np.mean(right)), len(right)


def refuse_full_disk(model, path):
    """Raises ResourceError unless the disk of `path` has room for the checkpoints that a run keeps."""
    size, free = sum(array.nbytes for array in state(model).values()), shutil.disk_usage(path).free
    if free < CHECKPOINTS_ON_DISK * size:
        raise ResourceError(
            "the disk has too little room for checkpoints",
            where=str(path),
            seen=f"{free / 1e6:,.1f} MB free",
            allowed=f"{CHECKPOINTS_ON_DISK} checkpoints of {size / 1e6:,.1f} MB",
            next_step="free some space, name a place on another disk with `out`, or add `check_disk=False`",
        )
