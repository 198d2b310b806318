"""State of a training loop: position, metrics, and what else a checkpoint holds beside the model's variables."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sharpkeras.errors import NumericalError

MAX_SKIPPED = 200  # steps in a row that float16 may skip
OF_THE_LOSS_SCALE = ("skipped", "skipped_in_a_row", "loss_scale")  # step metrics without a mean


class DivergenceError(Exception):
    """A metric or a weight is NaN or infinite.

    Attributes:
        step: of the running epoch, counted from 0.
        not_finite: name → what was found, in words.
    """

    def __init__(self, step: int, not_finite: dict[str, str]) -> None:
        super().__init__(f"{', '.join(not_finite)} in step {step}")
        self.step, self.not_finite = step, not_finite


@dataclass
class TrainingState:
    """Position of a run, its metrics, and extra entries of its checkpoints.

    With the variables of the model it is all that a run needs to continue. The loop (`epochs.run_epochs`) owns it and
    hands it to the checkpointer (`checkpointing.Checkpointer.save`).

    Attributes:
        epoch: number of epochs done.
        step_metrics: the metrics of each finished step of the running epoch.
        epoch_metrics: the metrics of each epoch done.
        learning_rate: at the first step of the running epoch; None between two epochs.
        seconds: that the running epoch has taken, in earlier processes too.
        extra_arrays: name → NumPy array that every checkpoint shall hold, such as the best weights so far.
        extra_facts: name → JSON value, likewise.
    """

    epoch: int = 0
    step_metrics: list[dict[str, float]] = field(default_factory=list)
    epoch_metrics: list[dict[str, Any]] = field(default_factory=list)
    learning_rate: float | None = None
    seconds: float = 0.0
    extra_arrays: dict[str, np.ndarray] = field(default_factory=dict)
    extra_facts: dict[str, Any] = field(default_factory=dict)
    # Logs of steps that the device may still compute.
    _pending: list[Mapping] = field(default_factory=list, init=False, repr=False)

    @property
    def step(self) -> int:
        """Number of finished steps of the running epoch."""
        return len(self.step_metrics)

    def begin_epoch(self, learning_rate: float) -> None:
        """Start the clock of an epoch, or let it continue after a restart within the epoch."""
        if self.learning_rate is None:
            self.learning_rate = float(learning_rate)
        self._started = time.perf_counter() - self.seconds

    def add_step(self, logs: Mapping) -> None:
        """Append the logs of a step, or of N steps in a row, each (N,), without waiting for their computation."""
        self._pending.append(logs)

    def wait_for_steps(self) -> None:
        """Wait for all steps so far and move their logs, as numbers, to `step_metrics`.

        Raises:
            DivergenceError: a metric is not finite, in a step that float16 did not skip.
        """
        for logs in self._pending:
            columns = {name: np.atleast_1d(np.asarray(value)) for name, value in logs.items()}
            for row in ({name: float(value) for name, value in zip(columns, step)} for step in zip(*columns.values())):
                not_finite = {name: str(value) for name, value in row.items() if not np.isfinite(value)}
                if not_finite and not row.get("skipped"):
                    raise DivergenceError(self.step, not_finite)
                self.step_metrics.append(row)
        self._pending = []

    def stop_clock(self) -> float:
        """Bring `seconds` up to date and return it."""
        self.seconds = time.perf_counter() - self._started
        return self.seconds

    def summary(self) -> dict[str, Any]:
        """The metrics of the running epoch: its number, its steps, its learning rate and the means over its steps.

        The means leave out the steps that float16 skipped, and `skipped` counts those. Where it skipped all of them, a
        metric that was never finite has no mean and is left out.
        """
        row = {"epoch": self.epoch, "steps": self.step, "learning_rate": self.learning_rate}
        computed = [metrics for metrics in self.step_metrics if not metrics.get("skipped")] or self.step_metrics
        for name in self.step_metrics[0]:
            finite = [metrics[name] for metrics in computed if math.isfinite(metrics[name])]
            if finite and name not in OF_THE_LOSS_SCALE:
                row[name] = float(np.mean(finite))
        if "skipped" in self.step_metrics[0]:
            row["skipped"] = int(sum(metrics["skipped"] for metrics in self.step_metrics))
            row["loss_scale"] = self.step_metrics[-1]["loss_scale"]
        return row | {"seconds": self.stop_clock()}

    def end_epoch(self, metrics: dict[str, Any]) -> None:
        """Append the metrics of the running epoch and go on to the next one."""
        self.epoch_metrics.append(metrics)
        self.epoch, self.step_metrics, self.learning_rate, self.seconds = self.epoch + 1, [], None, 0.0

    def refuse_endless_skipping(self, where: str) -> None:
        """Raise NumericalError when float16 has skipped so many steps that no loss scale will help.

        Args:
            where: the run, for the message.
        """
        last = self.step_metrics[-1]
        skipped = int(last["skipped_in_a_row"]) if "skipped" in last else 0
        if skipped >= MAX_SKIPPED:
            raise NumericalError(
                f"{skipped} steps in a row had a gradient that is not finite, at any loss scale, in epoch "
                f"{self.epoch + 1}",
                where=where,
                seen=f"loss scale {last['loss_scale']:g}",
                next_step="`precision=mixed_bfloat16` needs no loss scale; or lower `learning_rate`",
            )
