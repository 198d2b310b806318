"""Progress of long work: a line per epoch, and on a terminal a bar for the epoch that runs."""

import os
import sys
import time
from collections.abc import Mapping
from typing import Any, Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sharpkeras.engine.epochs import NullProgress
from sharpkeras_cli import flags
from sharpkeras_cli.heartbeat import Heartbeat, clock

SHORTER = "Fewer --num-cells, --num-nodes or --init-channels make it shorter"
LONG = {  # backend → how long a step takes to be made ready, and what makes that shorter
    "jax": "JAX traces the step, then XLA compiles it as a whole: a minute or two for the digits on two cores, "
    f"many minutes for a search as large as the paper's. {SHORTER}; so does --backend tensorflow",
    "tensorflow": "TensorFlow traces the step operation by operation, without compiling: seconds for the digits, a "
    f"minute for a search as large as the paper's. {SHORTER}",
}


class ConsoleProgress(NullProgress):
    """Tells on stderr how far a search or a training is; see `epochs.NullProgress`.

    Args:
        title: what runs, in a word.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.first_step_s: float | None = None
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._advice: str | None = None
        self._heartbeat = Heartbeat(self._goes_on, self._show_stage)

    def note(self, text: str) -> None:
        self._say(f"note: {flags.rendered(text)}")

    def works_on(self, text: str) -> None:
        self._say(f"{self.title}: {text}")

    def stage(self, text: str) -> None:
        self._heartbeat.begin(text)

    def complete(self) -> None:
        self._heartbeat.end()
        self._say(f"{self.title}: already complete")

    def begin(self, epochs: int, first_epoch: int, first_step: int = 0) -> None:
        self._heartbeat.end()
        self._epochs, self._first, self._started = epochs, first_epoch, time.perf_counter()
        if first_epoch >= epochs:
            return
        if first_epoch or first_step:
            step = f", step {first_step}" if first_step else ""
            self._say(f"{self.title}: goes on after epoch {first_epoch} of {epochs}{step}")
        backend = os.environ.get("KERAS_BACKEND", "tensorflow")
        self._advice = LONG.get(backend)
        self._say(f"{self.title}: {'tracing and compiling' if backend == 'jax' else 'tracing'} the step …")
        if self._console.is_terminal:
            words = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}")]
            self._bar = Progress(*words, TimeElapsedColumn(), console=self._console, transient=True)
            self._task = self._bar.add_task(self.title, total=epochs, completed=first_epoch, note="")
            self._bar.start()

    def first_step(self, seconds: float) -> None:
        self.first_step_s = seconds
        self._heartbeat.end()
        self._say(f"{self.title}: first step done after {seconds:.1f} s")

    def step(self, epoch: int, step: int, loss: float) -> None:
        if self._bar:
            self._bar.update(self._task, note=f"epoch {epoch + 1}, step {step + 1}, loss {loss:.3f}")

    def epoch(self, row: Mapping[str, Any]) -> None:
        self._heartbeat.end()
        done = row["epoch"] + 1
        if self._bar:
            self._bar.update(self._task, completed=done)
        parts = [f"epoch {done:>{len(str(self._epochs))}}/{self._epochs}", f"loss {row['train_loss']:.3f}"]
        parts.append(f"accuracy {row['train_accuracy']:6.1%}")
        if "held_out_accuracy" in row:
            parts.append(f"held out {row['held_out_accuracy']:6.1%}")
        if "test_accuracy" in row:
            parts.append(f"test {row['test_accuracy']:6.1%} TEST-SELECTED")
        shares = {name.removesuffix("_share"): row[name] for name in row if name.endswith("_share")}
        if shares:  # the collapse watch
            parts.append("edges won by " + ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items()))
        per_epoch = (time.perf_counter() - self._started) / (done - self._first)
        parts += [f"{row['seconds']:.1f} s", f"ETA {clock(per_epoch * (self._epochs - done))}"]
        self._say("  ".join(parts))

    def close(self) -> None:
        self._heartbeat.end()
        if self._bar:
            self._bar.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _goes_on(self, stage: str, seconds: float) -> None:
        """A line on a stage that takes long; on a terminal the bar has it, and the first says what can be done."""
        if self._advice:  # None before the step is made ready, and once it was given
            self._say(f"{self.title}: {self._advice}")
            self._advice = None
        if not self._bar:
            self._say(f"{self.title}: {stage}, for {clock(seconds)} already")

    def _show_stage(self, stage: str, seconds: float) -> None:
        if self._bar:
            self._bar.update(self._task, note=f"{stage}, {clock(seconds)}")

    def _say(self, text: str) -> None:
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            click.echo(text, err=True)
            sys.stderr.flush()
