"""What test_several_steps reads, run in its own process on JAX: `python several_steps.py out.npz`."""

import sys

import keras
import numpy as np

from sharpkeras.optimizers import SGD
from sharpkeras.training.training_model import TrainingModel

STEPS = 3


def numbers(policy):
    """Name → array: all variables and logs after single steps, after one call, and after a call with a NaN within."""
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(0)
    model, rng = training_model(), np.random.default_rng(1)
    data = [
        (rng.normal(size=(8, 4, 4, 3)).astype("float32"), rng.integers(0, 5, 8).astype("int32")) for _ in range(STEPS)
    ]
    keras_variables = [variable for group in model.step_variables() for variable in group]
    begin, step, results = [v.numpy() for v in keras_variables], model.compiled_step(), {}

    def run(name, call):
        for variable, value in zip(keras_variables, begin):
            variable.assign(value)
        logs = call()
        step.sync()
        results.update({f"{name}/variable/{i}": v.numpy() for i, v in enumerate(keras_variables)})
        results.update({f"{name}/log/{key}": np.asarray(value, "float32") for key, value in logs.items()})

    def single():
        rows = [step(batch) for batch in data]
        return {key: np.stack([np.asarray(row[key], "float32") for row in rows]) for key in rows[0]}

    run("single", single)
    run("several", lambda: step.several(data))
    data[1] = (data[1][0] * np.float32("nan"), data[1][1])
    run("nan", lambda: step.several(data))
    return results | {f"begin/variable/{i}": value for i, value in enumerate(begin)}


def training_model():
    """A network that compiles in a moment, with BatchNorm and dropout, whose state a step changes too."""
    images = keras.Input((4, 4, 3), dtype="float32")
    features = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(images))
    features = keras.layers.Dropout(0.2, seed=1)(keras.layers.Flatten()(features))
    return TrainingModel(keras.Model(images, {"logits": keras.layers.Dense(5)(features)}), SGD(0.025))


if __name__ == "__main__":
    np.savez(sys.argv[1], **{f"{p}/{k}": v for p in ("float32", "mixed_bfloat16") for k, v in numbers(p).items()})
