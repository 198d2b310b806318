"""One whole bilevel step of the paper's HyperCuboid, beside the same grid evaluated eagerly by PyTorch.

    pip install torch==2.13.0
    python benchmarks/cuboid_step.py [--num-stages 3] [--peers torch torch_channels_last] [--backend jax] …

MultiChannelNet (§4.1, Fig. 6), first order, float32, random images: ((4×4)×4×4×2), which the official code searches,
or with `--num-stages 3` ((4×4)×3×3×2), which the paper prints. An image counts once per step. Each form has a process
of its own with all cores. All start from the same weights and step in turn; their first losses and gradients must
agree. Prints one JSON object. `--peers` with nothing behind it measures ours alone, without PyTorch.

Other load slows PyTorch's threads, which wait for each other, more than TensorFlow's: where there is some, run it on
one core (`taskset -c 0 python …`) and compare the seconds of the processor.

The peer is `peers/torch_multichannel.py`: `torch` in the channels-first order of the official code,
`torch_channels_last` in the other. Its `loss.backward()` for the alphas computes the gradients of all weights too, as
the official code's does.
"""

import argparse
import importlib.util
import json
import os
import time

from peers import ours, turns

from sharpkeras_cli.options import choose_backend

OURS, PEERS = "sharpkeras", ("torch", "torch_channels_last")
PRIMITIVES = ("ResizablePool", "SharpSepConv")  # in the order of official state dicts

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--peers", nargs="*", default=["torch"], choices=PEERS)
parser.add_argument("--torch-threads", type=int, default=len(os.sched_getaffinity(0)))
parser.add_argument("--backend", default="tensorflow", choices=("tensorflow", "jax"))
parser.add_argument("--filters", type=int, nargs="+", default=[32, 64, 128, 256])
parser.add_argument("--num-stages", type=int, default=4)
parser.add_argument("--final-filters", type=int, default=768)
parser.add_argument("--weighting", default="max_w", choices=("scalar", "max_w"))
parser.add_argument("--batch-size", type=int, default=16)
parser.add_argument("--image-size", type=int, default=32)
parser.add_argument("--steps", type=int, default=5)


def main() -> None:
    arguments = parser.parse_args()
    if arguments.peers and importlib.util.find_spec("torch") is None:
        parser.error("PyTorch is missing: pip install torch==2.13.0, or measure ours alone by an empty --peers")
    machine = turns.machine()
    tolerances = dict.fromkeys([OURS, *arguments.peers], turns.FLOAT32)
    reports = turns.measure(make, list(tolerances), arguments, arguments.steps, arguments.batch_size, tolerances)
    print(json.dumps({"configuration": vars(arguments), **machine, "forms": reports}, indent=2))


class OurCuboid(ours.OurSearch):
    """The step with the alphas in the order of the official code, (stride, stage, c_in, c_out, primitive)."""

    def stacked(self, arrays):
        alphas = super().stacked(arrays)  # (position, c_in, c_out, primitive)
        return alphas.reshape(-1, 2, *alphas.shape[1:]).swapaxes(0, 1)

    def unstacked(self, array):
        return super().unstacked(array.swapaxes(0, 1).reshape(-1, *array.shape[2:]))


def make(form: str, arguments: argparse.Namespace) -> turns.Form:
    """A form of the search step, in its own process."""
    data = ours.batch(arguments.batch_size, arguments.image_size)
    if form in PEERS:
        from peers.torch_forms import PeerSearch
        from peers.torch_multichannel import Multichannel
        from peers.torch_steps import FORMS, Search

        imported = time.perf_counter()
        sizes = (arguments.filters, arguments.num_stages, arguments.weighting, arguments.final_filters)
        step = Search(Multichannel(*sizes, ours.NUM_CLASSES), ours.LEARNING_RATE, FORMS[form])
        return PeerSearch(step, data, imported, arguments.torch_threads)
    choose_backend(arguments.backend)
    from sharpkeras.spaces.hypercuboid.multichannel import MultiChannelNet

    imported = time.perf_counter()
    options = {"final_filters": arguments.final_filters, "weighting": arguments.weighting}
    space = MultiChannelNet(arguments.filters, arguments.num_stages, PRIMITIVES, **options)
    return OurCuboid(space, space.supernet(data[0].shape[1:], ours.NUM_CLASSES), data, imported)


if __name__ == "__main__":
    main()
