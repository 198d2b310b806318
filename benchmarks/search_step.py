"""One whole bilevel step at the paper's search configuration, beside the same step of PyTorch.

    pip install torch==2.13.0
    python benchmarks/search_step.py --peers torch torch_channels_last [--steps 3] …
    python benchmarks/search_step.py [--form clear] [--backend jax] [--order 1 2] [--batch-size 64] [--steps 5] …

16 channels, 8 cells, 4 nodes, the darts primitives as SharpSepConv, batch 64 (§3.3, §4.2), random images. An image
counts once per step, as an epoch of the search counts it. Each form has a process of its own with all cores; they step
in turn, so that ratios say more than seconds, and its peak memory is that of its process. Prints one JSON object.

The peers are `peers/torch_cells.py`: `torch` in the channels-first order of the official code, `torch_channels_last` in
the other, `torch_autocast` with bfloat16 too; `jax` is our own step on JAX. They start from our weights and alphas, and
before anything is timed their first losses and gradients must agree with ours.

`--order 1 2` measures both orders of the gradient. `--form clear` is the same supernet with a `MixedOp` on every edge:
one Keras layer per convolution and BatchNorm.
"""

import argparse
import importlib.util
import json
import os
import time

from peers import turns

from sharpkeras.recipes import PRECISIONS
from sharpkeras_cli.options import choose_backend

OURS = {1: "sharpkeras", 2: "sharpkeras_order_2"}
PEERS = ("torch", "torch_channels_last", "torch_autocast", "jax")

JAX = "jax"  # ours on the other backend, beside that of --backend

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--peers", nargs="*", default=[], choices=PEERS)
parser.add_argument("--torch-threads", type=int, default=len(os.sched_getaffinity(0)))
parser.add_argument("--form", default="fast", choices=("fast", "clear"))
parser.add_argument("--backend", default="tensorflow", choices=("tensorflow", "jax"))
parser.add_argument("--primitives", default="darts")
parser.add_argument("--ops", default="sharp")
parser.add_argument("--weighting", default="scalar", choices=("scalar", "max_w"))
parser.add_argument("--order", type=int, nargs="+", default=[1], choices=(1, 2))
parser.add_argument("--precision", default="float32", choices=("float64", *PRECISIONS))
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--init-channels", type=int, default=16)
parser.add_argument("--num-cells", type=int, default=8)
parser.add_argument("--image-size", type=int, default=32)
parser.add_argument("--steps", type=int, default=5)


def main() -> None:
    arguments = parser.parse_args()
    if set(arguments.peers) - {JAX} and importlib.util.find_spec("torch") is None:
        parser.error("PyTorch is missing: pip install torch==2.13.0, or measure ours alone, without --peers")
    if arguments.peers and arguments.form == "clear":
        parser.error("the clear form has no official names from which a peer could take its weights: leave one of them")
    machine = turns.machine()
    tolerances = {
        OURS[order]: turns.tolerance(OURS[order], arguments.precision) if order == arguments.order[0] else None
        for order in arguments.order
    }
    tolerances |= {peer: turns.tolerance(peer, arguments.precision) for peer in arguments.peers}
    reports = turns.measure(make, list(tolerances), arguments, arguments.steps, arguments.batch_size, tolerances)
    print(json.dumps({"configuration": vars(arguments), **machine, "forms": reports}, indent=2))


def make(form: str, arguments: argparse.Namespace) -> turns.Form:
    """A form of the search step, in its own process."""
    from peers import ours

    data = ours.batch(arguments.batch_size, arguments.image_size, arguments.precision)
    if form in PEERS and form != JAX:
        from peers.torch_cells import Supernet
        from peers.torch_forms import PeerSearch
        from peers.torch_steps import Search, form_of

        from sharpkeras.primitives import PRIMITIVES

        imported = time.perf_counter()
        sizes = (arguments.init_channels, arguments.num_cells)
        names = PRIMITIVES[arguments.primitives]
        model = Supernet(names, arguments.ops, arguments.weighting, ours.NUM_CLASSES, *sizes)
        step = Search(model, ours.LEARNING_RATE, form_of(form, arguments.precision))
        return PeerSearch(step, data, imported, arguments.torch_threads)
    choose_backend(JAX if form == JAX else arguments.backend)
    import keras

    from sharpkeras.primitives import PRIMITIVES
    from sharpkeras.spaces.cell.space import CellSpace

    imported = time.perf_counter()
    order = arguments.order[0] if form == JAX else next(order for order in OURS if OURS[order] == form)
    keras.config.set_dtype_policy(arguments.precision)
    space = CellSpace(PRIMITIVES[arguments.primitives], arguments.ops, arguments.weighting)
    shape = data[0].shape[1:]
    supernet = space.supernet(shape, ours.NUM_CLASSES, arguments.init_channels, arguments.num_cells)
    if arguments.form == "clear":
        supernet = clear_supernet(space, supernet, shape)
    return ours.OurSearch(space, supernet, data, imported, order)


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
