"""The loop over epochs and steps that a search and a training share, with its metrics and checkpoints."""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sharpkeras.engine import signals
from sharpkeras.engine.checkpointing import CHECKPOINT_S, Checkpointer, model_arrays, record_divergence, restore
from sharpkeras.engine.step_model import StepModel
from sharpkeras.engine.training_state import DivergenceError, TrainingState
from sharpkeras.errors import ResourceError
from sharpkeras.runs import RunDirectory

CHECKPOINTS_ON_DISK = 3  # the last, the one before, and the one that is being written
PROGRESS_S = 0.2  # the least time between two reports of a step; reading a loss waits for the device


class NullProgress:
    """Progress reports that go nowhere, and the base class of others, such as those of the command line."""

    def note(self, text: str) -> None:
        """What was done to the data, a line."""

    def works_on(self, text: str) -> None:
        """Data, backend and device of what begins now, a line."""

    def stage(self, text: str) -> None:
        """What begins now and may take long, such as "tracing"; the next of these calls ends it."""

    def complete(self) -> None:
        """Instead of all else, when the run was finished before."""

    def begin(self, epochs: int, first_epoch: int, first_step: int = 0) -> None:
        """Before the first epoch that runs, and its first step."""

    def first_step(self, seconds: float) -> None:
        """After the first step: the time since `begin`, with building and compiling."""

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Now and then within an epoch."""

    def epoch(self, row: dict) -> None:
        """After each epoch, with its row of metrics."""


def run_epochs(
    model: StepModel,
    run: RunDirectory,
    epochs: int,
    data: Callable[[int, int], Iterable],
    before_epoch: Callable[[int], None] | None = None,
    after_epoch: Callable[[TrainingState], dict] | None = None,
    progress: NullProgress | None = None,
    checkpoint_s: float = CHECKPOINT_S,
    check: Callable | None = None,
    steps_per_call: int = 1,
) -> TrainingState:
    """Train until `epochs` are done, from the run's newest checkpoint on if it has one.

    A checkpoint is written after the first step that ends later than `checkpoint_s` after the one before, when a signal
    stops the run, and at the end. What was written since the one from which a run goes on is computed again.

    Args:
        model: StepModel.
        run: RunDirectory, open for writing.
        epochs: number of epochs in all.
        data: (epoch, step) → iterable of what the model's step takes, from that step of the epoch on.
        before_epoch: epoch → None, to set what changes by the epoch.
        after_epoch: TrainingState → further metrics of the epoch; it may set `extra_arrays` and `extra_facts`.
        progress: see NullProgress.
        checkpoint_s: seconds between two checkpoints; 0 is one after each step.
        check: (compiled step, batch) → None, called before the first step; what it raises ends the run.
        steps_per_call: steps in one call of the compiled step; more than 1 on JAX alone. Checkpoints, signals and
            progress come after a call.

    Returns:
        The TrainingState at the end.

    Raises:
        NumericalError: a metric or a weight is not finite; the checkpoint before stays, and `diverged.json` says where.
        ResourceError: the disk was full several times in a row.
        StoppedError: by a signal, after its checkpoint.
    """
    progress, started = progress or NullProgress(), time.perf_counter()
    state = restore(model, run)
    progress.begin(epochs, state.epoch, state.step)
    model.tell = progress.stage
    step, reported, is_first, evaluated = model.compiled_step(), 0.0, True, False
    checkpointer = Checkpointer(run, model, step, checkpoint_s)
    try:
        with signals.held():
            try:
                while state.epoch < epochs:
                    if before_epoch:
                        before_epoch(state.epoch)
                    state.begin_epoch(model.optimizers[0].learning_rate)
                    for batches in _calls(data(state.epoch, state.step), steps_per_call):
                        if is_first and check:
                            check(step, batches[0])
                        state.add_step(step(batches[0]) if len(batches) == 1 else step.several(batches))
                        if is_first:
                            state.wait_for_steps()
                            progress.first_step(time.perf_counter() - started)
                            is_first = False
                        if time.perf_counter() - reported > PROGRESS_S:
                            state.wait_for_steps()
                            state.refuse_endless_skipping(str(run.path))
                            progress.step(state.epoch, state.step - 1, state.step_metrics[-1]["train_loss"])
                            reported = time.perf_counter()
                        signals.check()
                        if checkpointer.due:
                            checkpointer.save(state)
                    checkpointer.finite_arrays(state)
                    state.refuse_endless_skipping(str(run.path))
                    metrics = state.summary()
                    if after_epoch:
                        if not evaluated:
                            progress.stage("tracing, compiling and running the evaluation")
                            evaluated = True
                        metrics |= after_epoch(state)
                    state.end_epoch(metrics)
                    run.write_metrics(state.epoch_metrics)
                    progress.epoch(metrics)
                    if checkpointer.due:
                        checkpointer.save(state)
                checkpointer.save_at_last(state)
            except signals.StoppedError:
                checkpointer.save(state)
                raise
    except DivergenceError as divergence:
        raise record_divergence(run, state, divergence) from None
    return state


def _calls(batches: Iterable, steps: int) -> Iterator[list]:
    """Lists of `steps` batches; fewer at the end come one by one, so that no other number of steps is compiled."""
    waiting: list[Any] = []
    for batch in batches:
        waiting.append(batch)
        if len(waiting) == steps:
            yield waiting
            waiting = []
    for batch in waiting:
        yield [batch]


def accuracy_on(model: StepModel, batches: Iterable) -> tuple[float, int]:
    """Accuracy in inference mode, and the number of images; a signal can stop the run between two batches.

    Args:
        model: StepModel.
        batches: iterable of (images, labels, valid), as `data.batches.evaluation_batches` yields them; read once.
    """
    labels = []

    def noted() -> Iterator[Any]:
        for batch in batches:
            signals.check()
            labels.append(batch[1][: batch[2]])
            yield batch

    answers = np.argmax(model.logits(noted()), axis=-1)  # (N,)
    right = answers == np.concatenate(labels)
    return float(np.mean(right)), len(right)


def refuse_full_disk(model: StepModel, path: Path) -> None:
    """Raise ResourceError unless the disk of `path` has room for the checkpoints that a run keeps."""
    size, free = sum(array.nbytes for array in model_arrays(model).values()), shutil.disk_usage(path).free
    if free < CHECKPOINTS_ON_DISK * size:
        raise ResourceError(
            "the disk has too little room for checkpoints",
            where=str(path),
            seen=f"{free / 1e6:,.1f} MB free",
            allowed=f"{CHECKPOINTS_ON_DISK} checkpoints of {size / 1e6:,.1f} MB",
            next_step="free some space, name a place on another disk with `out`, or add `check_disk=False`",
        )
