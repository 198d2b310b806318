"""Checkpoints of a training loop, through full disks and through numbers that are not finite."""

import logging
import time
from typing import Any

import keras
import numpy as np

from sharpkeras.engine.step_model import StepModel
from sharpkeras.engine.training_state import DivergenceError, TrainingState
from sharpkeras.errors import NumericalError, ResourceError, RunError
from sharpkeras.io import kinds
from sharpkeras.runs import EPOCHS_FROM_0, STEPS_FROM_0, RunDirectory, files

CHECKPOINT_S = 60.0  # between two checkpoints
MAX_FAILURES = 3  # in a row, of writing a checkpoint on a full disk
SET_BY_THE_RECIPE = ("learning_rate", "drop_path_rate")  # variables, but never changed by a step
RETRY_S = 1.0  # before each further attempt of a run that has come to its end

logger = logging.getLogger("sharpkeras")


class Checkpointer:
    """Writer and reader of a run's checkpoints: the variables of its model and its TrainingState.

    No checkpoint holds a number that is not finite. On a full disk a warning is logged and the run goes on; the
    previous checkpoint stays.

    Args:
        run: RunDirectory, open for writing.
        model: StepModel.
        compiled_step: its compiled step, whose `sync` brings the model's variables up to date.
        interval_s: seconds between two checkpoints; 0 is one after each step.
    """

    def __init__(
        self, run: RunDirectory, model: StepModel, compiled_step: Any, interval_s: float = CHECKPOINT_S
    ) -> None:
        self._run, self._model, self._compiled_step = run, model, compiled_step
        self._interval_s, self._saved, self._failures = interval_s, time.perf_counter(), 0

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is old enough for another one."""
        return time.perf_counter() - self._saved >= self._interval_s

    def finite_arrays(self, state: TrainingState) -> dict[str, np.ndarray]:
        """The arrays of the model, after all steps so far.

        Raises:
            DivergenceError: a metric or an array is not finite.
        """
        self._compiled_step.sync()
        state.wait_for_steps()
        arrays = model_arrays(self._model)
        bad = [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
        if bad:
            first = _named_variables(self._model)[bad[0]].path
            found = f"in {len(bad)} of {len(arrays)} arrays, first {first}"
            raise DivergenceError(max(0, state.step - 1), {"weights": found})
        return arrays

    def save(self, state: TrainingState) -> bool:
        """Write a checkpoint; return whether the disk had room for it.

        Raises:
            DivergenceError: the metrics or the variables are not finite.
            ResourceError: the disk was full for the MAX_FAILURES-th time in a row.
        """
        arrays = self.finite_arrays(state)
        arrays |= {f"also/{name}": array for name, array in state.extra_arrays.items()}
        metrics = list(state.step_metrics[0]) if state.step_metrics else []
        arrays |= {f"steps/{name}": np.array([row[name] for row in state.step_metrics]) for name in metrics}
        facts = {
            "epoch": state.epoch,
            "metrics": metrics,
            "learning_rate": state.learning_rate,
            "also": state.extra_facts,
            "seconds": state.stop_clock() if state.learning_rate is not None else 0.0,
        }
        try:
            self._run.flush()
            self._run.checkpoints.save(state.epoch, state.step, arrays, facts, state.epoch_metrics)
        except ResourceError as error:
            self._failures += 1
            if self._failures >= MAX_FAILURES:
                raise
            logger.warning("no checkpoint (%s): the one before stays, and the run goes on", error.problem)
        else:
            self._failures = 0
        self._saved = time.perf_counter()
        return not self._failures

    def save_at_last(self, state: TrainingState) -> None:
        """Write the last checkpoint, trying again until the disk takes it or has refused MAX_FAILURES times."""
        while not self.save(state):
            time.sleep(RETRY_S)


def restore(model: StepModel, run: RunDirectory) -> TrainingState:
    """Assign the run's newest checkpoint to `model` and return its TrainingState, a new one without a checkpoint.

    Raises:
        RunError: the checkpoint is of another model, or every checkpoint is damaged.
    """
    loaded = run.checkpoints.load()
    if loaded is None:
        run.write_metrics([])
        return TrainingState()
    arrays, facts, epoch_metrics = loaded
    columns = [arrays.pop(f"steps/{name}").tolist() for name in facts["metrics"]]
    extra = {name.removeprefix("also/"): arrays.pop(name) for name in list(arrays) if name.startswith("also/")}
    variables = _named_variables(model)
    other = sorted(set(arrays) ^ set(variables)) or [
        name for name, variable in variables.items() if tuple(variable.shape) != arrays[name].shape
    ]
    if other:
        problem = f"the checkpoint belongs to another model: {len(other)} arrays differ"
        raise RunError(problem, where=str(run.path), seen=other[0], next_step="use `overwrite` to begin anew")
    for name, variable in variables.items():
        variable.assign(arrays[name])
    run.write_metrics(epoch_metrics)
    return TrainingState(
        epoch=facts["epoch"],
        step_metrics=[dict(zip(facts["metrics"], values)) for values in zip(*columns)],
        epoch_metrics=epoch_metrics,
        learning_rate=facts["learning_rate"],
        seconds=facts["seconds"],
        extra_arrays=extra,
        extra_facts=facts["also"],
    )


def model_arrays(model: StepModel) -> dict[str, np.ndarray]:
    """Everything that steps change, as arrays under names that tell their group and their place in it."""
    return {name: np.asarray(variable) for name, variable in _named_variables(model).items()}


def _named_variables(model: StepModel) -> dict[str, keras.Variable]:
    """Name → variable. Keras numbers its layers per process, so a path alone is no name; the order of building is."""
    groups = zip(("trainable", "other", "optimizer", "metric"), model.step_variables())
    variables = ((f"{group}/{index:05d}", v) for group, variables in groups for index, v in enumerate(variables))
    return {name: v for name, v in variables if v.name not in SET_BY_THE_RECIPE}


def record_divergence(run: RunDirectory, state: TrainingState, divergence: DivergenceError) -> NumericalError:
    """Write `diverged.json` into the run directory; return the NumericalError to raise."""
    names, checkpoints = ", ".join(divergence.not_finite), run.checkpoints.names()
    facts: dict[str, Any] = {"epoch": state.epoch, "step": divergence.step, **EPOCHS_FROM_0, **STEPS_FROM_0}
    facts |= {"not_finite": divergence.not_finite}
    facts |= {"learning_rate": state.learning_rate, "checkpoint": checkpoints[-1] if checkpoints else None}
    run.write_json(files.DIVERGED, kinds.of_kind(kinds.DIVERGENCE, facts))
    return NumericalError(
        f"{names} became NaN or infinite in epoch {state.epoch + 1}, step {divergence.step + 1}",
        where=str(run.path / files.DIVERGED),
        next_step="lower `learning_rate`, with `overwrite` or another `out`; the checkpoint before is intact",
    )
