"""One whole bilevel step at the paper's search configuration: images/s, peak memory, time until the first step is done.

    python benchmarks/search_step.py [--form clear] [--backend jax] [--order 1 2] [--batch-size 64] [--steps 5] …

16 channels, 8 cells, 4 nodes, the darts primitives as SharpSepConv, batch 64 (§3.3, §4.2), random images. An image
counts once per step, as an epoch of the search counts it. One process, all cores; prints one JSON object.

`--order 1 2` measures both orders of the gradient, step by step in turn, and what the second costs of the first.
`--form clear` is the same supernet with a `MixedOp` on every edge: one Keras layer per convolution and BatchNorm.
"""

import argparse
import json
import os
import resource
import statistics
import time

from sharpkeras.measure.machine import device_name
from sharpkeras.recipes import PRECISIONS
from sharpkeras_cli.options import choose_backend

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--form", default="fast", choices=("fast", "clear"))
parser.add_argument("--backend", default="tensorflow", choices=("tensorflow", "jax"))
parser.add_argument("--primitives", default="darts")
parser.add_argument("--ops", default="sharp")
parser.add_argument("--weighting", default="scalar")
parser.add_argument("--order", type=int, nargs="+", default=[1], choices=(1, 2))
parser.add_argument("--precision", default="float32", choices=PRECISIONS)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--init-channels", type=int, default=16)
parser.add_argument("--num-cells", type=int, default=8)
parser.add_argument("--image-size", type=int, default=32)
parser.add_argument("--steps", type=int, default=5)


def main():
    arguments = parser.parse_args()
    started = time.perf_counter()
    choose_backend(arguments.backend)
    import keras
    import numpy as np

    keras.config.set_dtype_policy(arguments.precision)
    imported = time.perf_counter()
    rng = np.random.default_rng(0)
    shape = (arguments.image_size, arguments.image_size, 3)
    images = rng.normal(size=(arguments.batch_size, *shape)).astype("float32")
    labels = rng.integers(0, 10, arguments.batch_size).astype("int32")

    steps, orders = {}, {}
    for order in arguments.order:
        start = time.perf_counter()
        model = search_model(arguments, order, shape)
        built = time.perf_counter()
        steps[order] = timed(model.compiled_step(), ((images, labels), (images, labels)))
        first = steps[order]()
        orders[order] = {"build_s": built - start, "trace_and_first_step_s": first}
    seconds = [{order: step() for order, step in steps.items()} for _ in range(arguments.steps)]
    for order in steps:
        median = statistics.median(row[order] for row in seconds)
        orders[order] |= {"step_s_median": median, "images_per_s": arguments.batch_size / median}
    report = {
        "configuration": vars(arguments),
        "import_s": imported - started,
        "orders": orders,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "cores": len(os.sched_getaffinity(0)),
        "machine": device_name(),
    }
    if len(steps) == 2:
        report["second_order_over_first"] = statistics.median(row[2] / row[1] for row in seconds)
    print(json.dumps(report, indent=2, default=str))


def search_model(arguments, order, shape):
    from sharpkeras.optimizers import SGD, Adam
    from sharpkeras.primitives import PRIMITIVES
    from sharpkeras.searching.search_model import SearchModel
    from sharpkeras.spaces.cell.space import CellSpace

    space = CellSpace(PRIMITIVES[arguments.primitives], arguments.ops, arguments.weighting)
    supernet = space.supernet(shape, 10, arguments.init_channels, arguments.num_cells)
    if arguments.form == "clear":
        supernet = clear_supernet(space, supernet, shape)
    return SearchModel(space, supernet, SGD(0.025), Adam(), order)


def timed(step, batches):
    """() → the seconds of one step, its loss waited for."""

    def run():
        start = time.perf_counter()
        float(step(batches)["train_loss"])
        return time.perf_counter() - start

    return run


def clear_supernet(space, fast, shape):
    """The supernet as the paper says it: a MixedOp on each edge, from the fast one's stem, preprocessing and head."""
    import keras

    from sharpkeras.spaces.cell import topology
    from sharpkeras.spaces.cell.mixed_op import MixedOp

    images = keras.Input(shape)
    weights = [keras.Input(batch_shape=(space.num_edges, len(space.primitive_names))) for _ in range(2)]
    older = newer = fast.stem[1](fast.stem[0](images))
    for cell in fast.cells:

        def apply(edge, state, cell=cell):
            mixed = MixedOp(space.primitive_names, cell.filters, cell.strides[edge], space.ops)
            return mixed(state, weights[cell.plan.reduction][edge])

        inputs = cell.preprocess0(older), cell.preprocess1(newer)
        older, (newer, _) = newer, topology.run_cell(inputs, cell.nodes, apply, cell.concat)
    return keras.Model([images, weights], fast.classifier(keras.layers.GlobalAveragePooling2D()(newer)))


if __name__ == "__main__":
    main()
