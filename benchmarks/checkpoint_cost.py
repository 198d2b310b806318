"""What checkpoints and the watch for NaN cost: shares of a search step, at the default interval.

    python benchmarks/checkpoint_cost.py [--batch-size 64] [--init-channels 16] [--num-cells 8] [--steps 5]

The paper's search step as in `search_step.py`, with the norms that find NaN and without them, in turn, step by step. A
checkpoint is written as a run writes it, to the disk of the working directory, flushed. Prints one JSON object.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import search_step

from sharpkeras.measure.machine import device_name
from sharpkeras_cli.options import choose_backend

parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    parents=[search_step.parser],  # the same configuration of the same step
    conflict_handler="resolve",
)


def main():
    arguments = parser.parse_args()
    choose_backend(arguments.backend)
    import numpy as np
    from keras import ops

    from sharpkeras.engine import checkpointing
    from sharpkeras.engine.training_state import TrainingState
    from sharpkeras.runs import RunDirectory
    from sharpkeras.searching import search_model as searches

    shape = (arguments.image_size, arguments.image_size, 3)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(arguments.batch_size, *shape)).astype("float32")
    batch = (images, rng.integers(0, 10, arguments.batch_size).astype("int32"))

    steps, checks = {}, (searches.global_norm, searches.root_mean_square)
    for name in ("checked", "unchecked"):
        if name == "unchecked":
            searches.global_norm = searches.root_mean_square = lambda *_: ops.zeros(())
        model = search_step.search_model(arguments, 1, shape)
        steps[name] = search_step.timed(model.compiled_step(), (batch, batch))
        steps[name]()  # traced here, with or without
        searches.global_norm, searches.root_mean_square = checks
    seconds = [{name: step() for name, step in steps.items()} for _ in range(arguments.steps)]
    checked, saving, size = statistics.median(row["checked"] for row in seconds), [], 0
    with tempfile.TemporaryDirectory(dir=".") as folder, RunDirectory.open(Path(folder) / "run", "search", {}) as run:
        state = TrainingState()
        state.begin_epoch(0.025)
        checkpointer = checkpointing.Checkpointer(run, model, model.compiled_step())
        for _ in range(5):
            state.epoch += 1
            started = time.perf_counter()
            checkpointer.save(state)
            saving.append(time.perf_counter() - started)
        newest = run.checkpoints.path / run.checkpoints.names()[-1]
        size = sum(file.stat().st_size for file in newest.iterdir())
    report = {
        "configuration": vars(arguments),
        "step_s": checked,
        "checks_share_of_a_step": statistics.median(row["checked"] / row["unchecked"] for row in seconds) - 1,
        "checkpoint_s": statistics.median(saving),
        "checkpoint_mb": size / 1e6,
        "interval_s": checkpointing.CHECKPOINT_S,
        "checkpoints_share_of_a_step": statistics.median(saving) / checkpointing.CHECKPOINT_S,
        "machine": device_name(),
    }
    print(json.dumps(report, indent=2, default=str))


if __name__ == "__main__":
    main()
