"""One step of final training at the paper's size, beside the same step of PyTorch.

    pip install torch==2.13.0
    python benchmarks/train_step.py --peers torch torch_channels_last [--steps 3] …

SHARPSEPCONV_DARTS with 36 channels, 20 cells and the auxiliary head, batch 64, drop path (§3.3), random images. Each
form has a process of its own with all cores; they step in turn. Prints one JSON object. Peers as in `search_step.py`.

That they compute the same shows in float64, in which only as much is computed as that takes:
`--peers torch --precision float64 --init-channels 8 --batch-size 8 --steps 1`.
"""

import argparse
import importlib.util
import json
import os
import time

from peers import turns

from sharpkeras.recipes import PRECISIONS
from sharpkeras_cli.options import choose_backend

OURS, PEERS = "sharpkeras", ("torch", "torch_channels_last", "torch_autocast", "jax")

JAX = "jax"  # ours on the other backend, beside that of --backend

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--peers", nargs="*", default=[], choices=PEERS)
parser.add_argument("--torch-threads", type=int, default=len(os.sched_getaffinity(0)))
parser.add_argument("--backend", default="tensorflow", choices=("tensorflow", "jax"))
parser.add_argument("--genotype", default="SHARPSEPCONV_DARTS")
parser.add_argument("--precision", default="float32", choices=("float64", *PRECISIONS))
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--init-channels", type=int, default=36)
parser.add_argument("--num-cells", type=int, default=20)
parser.add_argument("--steps", type=int, default=5)


def main() -> None:
    arguments = parser.parse_args()
    if set(arguments.peers) - {JAX} and importlib.util.find_spec("torch") is None:
        parser.error("PyTorch is missing: pip install torch==2.13.0, or measure ours alone, without --peers")
    machine = turns.machine()
    tolerances: dict = {OURS: None}
    for peer in arguments.peers:
        allowed = turns.tolerance(peer, arguments.precision)
        tolerances[peer] = turns.DEEP_FLOAT32 if allowed == turns.FLOAT32 else allowed
    reports = turns.measure(make, list(tolerances), arguments, arguments.steps, arguments.batch_size, tolerances)
    print(json.dumps({"configuration": vars(arguments), **machine, "forms": reports}, indent=2))


def make(form: str, arguments: argparse.Namespace) -> turns.Form:
    """A form of the training step, in its own process."""
    from peers import ours

    data = ours.batch(arguments.batch_size, 32, arguments.precision)
    if form in PEERS and form != JAX:
        from peers.torch_cells import Network as Peer
        from peers.torch_forms import PeerTraining
        from peers.torch_steps import Training, form_of

        from sharpkeras.paper.published import genotype

        imported, sizes = time.perf_counter(), (ours.NUM_CLASSES, arguments.init_channels, arguments.num_cells)
        network = Peer(genotype(arguments.genotype), "sharp", *sizes)
        step = Training(network, ours.LEARNING_RATE, form_of(form, arguments.precision))
        return PeerTraining(step, data, imported, arguments.torch_threads)
    choose_backend(JAX if form == JAX else arguments.backend)
    import keras

    from sharpkeras.paper.published import genotype
    from sharpkeras.spaces.cell.network import CellNetwork

    imported = time.perf_counter()
    keras.config.set_dtype_policy(arguments.precision)
    sizes = {"init_channels": arguments.init_channels, "num_cells": arguments.num_cells}
    network = CellNetwork(genotype(arguments.genotype), **sizes, auxiliary=True)
    return ours.OurTraining(network, data, imported)


if __name__ == "__main__":
    main()
