"""What test_backends compares, run once in its own process on each backend: `python backend_numbers.py out.npz`."""

import sys

import keras
import numpy as np
from keras import ops

from sharpkeras import primitives
from sharpkeras.data.autoaugment import NUM_DRAWS, POLICIES, AutoAugment
from sharpkeras.optimizers import SGD, Adam
from sharpkeras.searching.search_model import SearchModel
from sharpkeras.spaces.cell.space import CellSpace
from support.gradients import gradient

CHANNELS = 4


def numbers():
    """Name → array, the same on every backend but for rounding: weights and inputs come from NumPy alone."""
    rng = np.random.default_rng(0)
    results = {}
    for table, rows in primitives.OPS.items():
        for name in rows:
            for strides in (1, 2):
                results |= primitive_numbers(table, name, strides, rng)
    return results | step_numbers(rng) | fit_numbers(rng) | autoaugment_numbers(rng)


def primitive_numbers(table, name, strides, rng):
    layer = primitives.build(name, table, CHANNELS, strides)
    x = normal(rng, (3, 8, 7, CHANNELS))
    layer.build(x.shape)
    draw(layer, rng)
    target = normal(rng, layer.compute_output_shape(x.shape))

    def loss(argument):
        with keras.StatelessScope():  # what a pass writes into the moving statistics is left there
            outputs = layer(argument[0], training=True)
        return ops.sum(outputs * target), outputs

    _, outputs, (slope,) = gradient(loss, [x])
    prefix = f"primitive/{table}/{name}/{strides}"
    return {f"{prefix}/outputs": outputs, f"{prefix}/gradient": slope}


def step_numbers(rng):
    """Alphas and losses of three first-order steps."""
    model, results = search_model(rng), {}
    step = model.compiled_step()
    for index in range(3):
        logs = step(batches(rng))
        results |= {f"step/{index}/{name}": np.asarray(value) for name, value in logs.items() if name.endswith("loss")}
        step.sync()
        results |= {f"step/{index}/alphas_{kind}": v.numpy() for kind, v in enumerate(model.alphas)}
    return results


def fit_numbers(rng):
    """How far two steps of `fit` move the alphas."""
    model = search_model(rng)
    before = [v.numpy() for v in model.alphas]
    model.compile()
    data = [batches(rng) for _ in range(2)]
    history = model.fit((pair for pair in data), steps_per_epoch=2, epochs=1, verbose=0)
    moved = [np.abs(v.numpy() - old).max() for v, old in zip(model.alphas, before)]
    return {"fit/moved": np.array(moved), "fit/train_loss": np.array(history.history["train_loss"])}


def autoaugment_numbers(rng):
    """Both policies, compiled."""
    data = [rng.integers(0, 256, (50, 8, 8, 3)).astype("uint8"), rng.random((50, NUM_DRAWS), "float32")]
    inputs = [keras.Input((8, 8, 3), dtype="uint8"), keras.Input((NUM_DRAWS,))]
    models = {policy: keras.Model(inputs, AutoAugment(policy)(*inputs)) for policy in POLICIES}
    return {f"autoaugment/{policy}": model.predict_on_batch(data) for policy, model in models.items()}


def search_model(rng):
    names = ("none", "max_pool_3x3", "skip_connect", "dil_conv_3x3")
    space = CellSpace(names, "darts", num_nodes=2, num_concatenated=2)
    supernet = space.supernet((8, 8, 3), 5, init_channels=2, num_cells=3)
    draw(supernet, rng)
    return SearchModel(space, supernet, SGD(0.025), Adam(), order=1, seed=0)


def batches(rng):
    return tuple((normal(rng, (8, 8, 8, 3)), rng.integers(0, 5, 8).astype("int32")) for _ in range(2))


def draw(model, rng):
    """New weights for everything that is trained; BatchNorm's averages stay."""
    for variable in model.trainable_variables:
        variable.assign(rng.uniform(-0.5, 0.5, variable.shape) + (variable.name == "gamma"))


def normal(rng, shape):
    return rng.normal(size=shape).astype("float32")


if __name__ == "__main__":
    np.savez(sys.argv[1], **numbers())
    assert keras.backend.backend() == "tensorflow" or "tensorflow" not in sys.modules, "tensorflow was imported"
