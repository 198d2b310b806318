"""What a run keeps of itself while it goes on: where it is, and its checkpoints, through faults of disk and numbers."""

import logging
import time
from dataclasses import dataclass, field

import numpy as np

from sharpkeras.errors import NumericalError, ResourceError, RunError
from sharpkeras.runs import EPOCHS_FROM_0, STEPS_FROM_0

CHECKPOINT_S = 60.0  # between two checkpoints
MAX_FAILURES = 3  # in a row, of writing a checkpoint on a full disk
SET_BY_THE_RECIPE = ("learning_rate", "drop_path_rate")  # variables, but never changed by a step
RETRY_S = 1.0  # before each further attempt of a run that has come to its end

logger = logging.getLogger("sharpkeras")


@dataclass
class Kept:
    """What whoever runs the epochs wants in every checkpoint, such as the best weights so far.

    Attributes:
        arrays: NumPy arrays by name.
        facts: JSON values by name.
    """

    arrays: dict = field(default_factory=dict)
    facts: dict = field(default_factory=dict)


@dataclass
class Position:
    """Where a run is: with the variables of its model, everything that it has to go on with.

    Attributes:
        epoch: epochs done.
        steps: the metrics of each step of the epoch that runs.
        rows: the metrics of each epoch that is done.
        learning_rate: at the first step of the epoch that runs.
        seconds: that this epoch has taken, in earlier processes too.
    """

    epoch: int = 0
    steps: list = field(default_factory=list)
    rows: list = field(default_factory=list)
    learning_rate: float | None = None
    seconds: float = 0.0

    def begin_epoch(self, learning_rate):
        """Starts the clock of an epoch, or lets it go on."""
        if self.learning_rate is None:
            self.learning_rate = float(learning_rate)
        self._started = time.perf_counter() - self.seconds

    def stop_clock(self):
        """Brings `seconds` up to date and returns it."""
        self.seconds = time.perf_counter() - self._started
        return self.seconds

    def end_epoch(self, row):
        """Goes on to the next epoch, with the row of metrics of this one."""
        self.rows.append(row)
        self.epoch, self.steps, self.learning_rate, self.seconds = self.epoch + 1, [], None, 0.0


class Diverged(Exception):
    """A number is NaN or infinite.

    Attributes:
        step: of the epoch that runs.
        not_finite: what it was, in words by name.
    """

    def __init__(self, step, not_finite):
        super().__init__(f"{', '.join(not_finite)} in step {step}")
        self.step, self.not_finite = step, not_finite


class Keeper:
    """Writes the checkpoints of a run.

    No checkpoint holds a number that is not finite. A full disk costs a warning, and the run goes on; the checkpoint
    before stays.

    Args:
        run: RunDirectory, open for writing.
        model: StepModel.
        step: its compiled step.
        at: Position, which it brings up to date.
        kept: Kept.
        interval_s: seconds between two checkpoints.
    """

    def __init__(self, run, model, step, at, kept, interval_s):
        self._run, self._model, self._step, self._at, self._kept = run, model, step, at, kept
        self._interval_s, self._saved, self._failures, self._waiting = interval_s, time.perf_counter(), 0, []

    def note(self, logs):
        """Takes the logs of a step, which may not have been computed yet."""
        self._waiting.append(logs)

    def settle(self):
        """Waits for the steps so far and puts their logs, as numbers, into `at.steps`.

        Raises:
            Diverged: one is not finite, in a step that float16 did not skip.
        """
        for logs in self._waiting:
            row = {name: float(value) for name, value in logs.items()}
            bad = {name: str(value) for name, value in row.items() if not np.isfinite(value)}
            if bad and not row.get("skipped"):
                raise Diverged(len(self._at.steps), bad)
            self._at.steps.append(row)
        self._waiting = []

    @property
    def due(self):
        """Whether the last checkpoint is old enough for another one."""
        return time.perf_counter() - self._saved >= self._interval_s

    def finite_state(self):
        """The arrays of the model, all of them finite; raises Diverged for others."""
        self._step.sync()
        self.settle()
        arrays = state(self._model)
        bad = [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
        if bad:
            first = _named(self._model)[bad[0]].path
            what = f"in {len(bad)} of {len(arrays)} arrays, first {first}"
            raise Diverged(max(0, len(self._at.steps) - 1), {"weights": what})
        return arrays

    def save(self):
        """Writes a checkpoint; returns whether the disk took it.

        Raises:
            Diverged: the logs or the variables are not finite.
            ResourceError: the disk was full for the MAX_FAILURES-th time in a row.
        """
        at, arrays = self._at, self.finite_state()
        arrays |= {f"also/{name}": array for name, array in self._kept.arrays.items()}
        metrics = list(at.steps[0]) if at.steps else []
        arrays |= {f"steps/{name}": np.array([row[name] for row in at.steps]) for name in metrics}
        facts = {"epoch": at.epoch, "metrics": metrics, "learning_rate": at.learning_rate, "also": self._kept.facts}
        facts["seconds"] = at.stop_clock() if at.learning_rate is not None else 0.0
        try:
            self._run.flush()
            self._run.checkpoints.save(at.epoch, len(at.steps), arrays, facts, at.rows)
        except ResourceError as error:
            self._failures += 1
            if self._failures >= MAX_FAILURES:
                raise
            logger.warning("no checkpoint (%s): the one before stays, and the run goes on", error.problem)
        else:
            self._failures = 0
        self._saved = time.perf_counter()
        return not self._failures

    def save_at_last(self):
        """`save`, tried again until the disk takes it or has refused MAX_FAILURES times."""
        while not self.save():
            time.sleep(RETRY_S)


def restore(model, run, kept):
    """Puts the run's newest checkpoint into `model` and `kept`; returns the Position, the first without a checkpoint.

    Raises:
        RunError: the checkpoint is of another model, or every checkpoint is damaged.
    """
    loaded = run.checkpoints.load()
    if loaded is None:
        run.write_metrics([])
        return Position()
    arrays, facts, rows = loaded
    steps = [arrays.pop(f"steps/{name}").tolist() for name in facts["metrics"]]
    kept.arrays = {name.removeprefix("also/"): arrays.pop(name) for name in list(arrays) if name.startswith("also/")}
    variables = _named(model)
    other = sorted(set(arrays) ^ set(variables)) or [
        name for name, variable in variables.items() if tuple(variable.shape) != arrays[name].shape
    ]
    if other:
        problem = f"the checkpoint belongs to another model: {len(other)} arrays differ"
        raise RunError(problem, where=str(run.path), seen=other[0], next_step="use `overwrite` to begin anew")
    for name, variable in variables.items():
        variable.assign(arrays[name])
    run.write_metrics(rows)
    kept.facts = facts["also"]
    steps = [dict(zip(facts["metrics"], values)) for values in zip(*steps)]
    return Position(facts["epoch"], steps, rows, facts["learning_rate"], facts["seconds"])


def state(model):
    """Everything that steps change, as arrays under names that tell their group, place and path."""
    return {name: np.asarray(variable) for name, variable in _named(model).items()}


def _named(model):
    """Name → variable. Keras numbers its layers per process, so a path alone is no name; the order of building is."""
    groups = zip(("trainable", "other", "optimizer", "metric"), model.step_variables())
    variables = ((f"{group}/{index:05d}", v) for group, variables in groups for index, v in enumerate(variables))
    return {name: v for name, v in variables if v.name not in SET_BY_THE_RECIPE}


def tell_divergence(run, at, diverged):
    """Leaves `diverged.json` in the run directory; returns the NumericalError to raise."""
    names, checkpoints = ", ".join(diverged.not_finite), run.checkpoints.names()
    facts = {"epoch": at.epoch, "step": diverged.step, **EPOCHS_FROM_0, **STEPS_FROM_0}
    facts |= {"not_finite": diverged.not_finite}
    facts |= {"learning_rate": at.learning_rate, "checkpoint": checkpoints[-1] if checkpoints else None}
    run.write_json("diverged.json", facts)
    return NumericalError(
        f"{names} became NaN or infinite in epoch {at.epoch + 1}, step {diverged.step + 1}",
        where=str(run.path / "diverged.json"),
        next_step="lower `learning_rate`, with `overwrite` or another `out`; the checkpoint before is intact",
    )
