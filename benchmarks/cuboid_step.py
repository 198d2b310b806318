"""One whole bilevel step of the paper's HyperCuboid, beside the same grid evaluated eagerly by PyTorch.

    pip install torch==2.13.0
    python benchmarks/cuboid_step.py [--num-stages 3] [--peers torch torch_channels_last] [--backend jax] …

MultiChannelNet (§4.1, Fig. 6), first order, float32, random images: ((4×4)×4×4×2), which the official code searches,
or with `--num-stages 3` ((4×4)×3×3×2), which the paper prints. An image counts once per step. Each form has a process
of its own with all cores. All start from the same weights and step in turn; their first losses must agree. Prints one
JSON object. `--peers` with nothing behind it measures ours alone, without PyTorch.

Other load slows PyTorch's threads, which wait for each other, more than TensorFlow's: where there is some, run it on
one core (`taskset -c 0 python …`) and compare the seconds of the processor.

The peer is `torch_multichannel.py`: `torch` in the channels-first order of the official code, `torch_channels_last` in
the other. Its `loss.backward()` for the alphas computes the gradients of all weights too, as the official code's does.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple

from sharpkeras.measure.machine import device_name
from sharpkeras_cli.options import choose_backend

OURS, PEERS = "sharpkeras", ("torch", "torch_channels_last")
PRIMITIVES = ("ResizablePool", "SharpSepConv")  # in the order of official state dicts
NUM_CLASSES, LEARNING_RATE = 10, 0.025
SAME_LOSS = 1e-4

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


def main():
    arguments = parser.parse_args()
    if arguments.peers and importlib.util.find_spec("torch") is None:
        parser.error("PyTorch is missing: pip install torch==2.13.0, or measure ours alone by an empty --peers")
    forms, load = [OURS, *dict.fromkeys(arguments.peers)], os.getloadavg()[0]
    with ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        processes = {form: stack.enter_context(ProcessPoolExecutor(1, spawn)) for form in forms}

        def ask(form, function, *values):
            """What a function returns in the process of a form, while the others wait."""
            return processes[form].submit(function, *values).result()

        reports = {form: ask(form, prepare, form, arguments) for form in forms}
        start = ask(OURS, initial_state)
        firsts = {form: ask(form, first_step, start) for form in forms}
        rows = [{form: ask(form, timed_step) for form in forms} for _ in range(arguments.steps)]
        memory = {form: ask(form, peak_memory_gb) for form in forms}
    losses = [first.loss for first in firsts.values()]
    if max(losses) - min(losses) > SAME_LOSS:
        raise SystemExit(f"these are no steps of the same network: the first losses are {losses}")
    for form, report in reports.items():
        median = statistics.median(row[form].seconds for row in rows)
        report |= {"first_step_s": firsts[form].seconds, "first_train_loss": firsts[form].loss}
        report |= {"step_s_median": median, "images_per_s": arguments.batch_size / median}
        report["step_processor_s_median"] = statistics.median(row[form].processor_seconds for row in rows)
        report["times_the_seconds_of_ours"] = statistics.median(row[form].seconds / row[OURS].seconds for row in rows)
        report["peak_memory_gb"] = memory[form]
    report = {
        "configuration": vars(arguments),
        "forms": reports,
        "load_average_before": load,
        "cores": len(os.sched_getaffinity(0)),
        "machine": device_name(),
    }
    print(json.dumps(report, indent=2))


# --- in the process of a form ---

here = {}  # "form": what this process measures


class Step(NamedTuple):
    """What was measured of a step; the seconds of the processor are those of all cores together."""

    loss: float
    seconds: float
    processor_seconds: float


def prepare(form, arguments):
    """Imports and builds a form; the seconds of both."""
    start = time.perf_counter()
    choose_backend(arguments.backend)
    here["form"] = Ours(arguments) if form == OURS else Peer(arguments, channels_last=form == PEERS[1])
    imported = here["form"].imported
    return {"import_s": imported - start, "build_s": time.perf_counter() - imported}


def initial_state():
    return here["form"].state()


def first_step(start):
    """The first step, from given weights and alphas; tracing included."""
    here["form"].load(start)
    return timed_step()


def timed_step():
    """One step, its loss waited for."""
    start, processor_start = time.perf_counter(), time.process_time()
    loss = float(here["form"].step())
    return Step(loss, time.perf_counter() - start, time.process_time() - processor_start)


def peak_memory_gb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def batch(arguments):
    """Random images (B, H, W, 3) and labels."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.normal(size=(arguments.batch_size, arguments.image_size, arguments.image_size, 3))
    return images.astype("float32"), rng.integers(0, NUM_CLASSES, arguments.batch_size)


class Ours:
    """The compiled step of a SearchModel."""

    def __init__(self, arguments):
        from sharpkeras.optimizers import SGD, Adam
        from sharpkeras.searching.search_model import SearchModel
        from sharpkeras.spaces.hypercuboid.multichannel import MultiChannelNet

        self.imported = time.perf_counter()
        options = {"final_filters": arguments.final_filters, "weighting": arguments.weighting}
        space = MultiChannelNet(arguments.filters, arguments.num_stages, PRIMITIVES, **options)
        images, labels = batch(arguments)
        supernet = space.supernet(images.shape[1:], NUM_CLASSES)
        self.model = SearchModel(space, supernet, SGD(LEARNING_RATE), Adam())
        self.batch, self.compiled_step = (images, labels.astype("int32")), self.model.compiled_step()

    def state(self):
        """Weights by their official keys, and the alphas (stride, stage, c_in, c_out, primitive)."""
        import numpy as np

        from sharpkeras.spaces.state_dict import state_dict

        alphas = np.stack([np.asarray(alphas) for alphas in self.model.alphas])  # (position, c_in, c_out, primitive)
        return state_dict(self.model.supernet), alphas.reshape(-1, 2, *alphas.shape[1:]).swapaxes(0, 1)

    def load(self, start):
        """Nothing to do: it is the state of this form that all start from."""

    def step(self):
        return self.compiled_step((self.batch, self.batch))["train_loss"]


class Peer:
    """The eager step of PyTorch."""

    def __init__(self, arguments, channels_last):
        import torch
        from torch_multichannel import Multichannel, Search

        self.imported = time.perf_counter()
        torch.set_num_threads(arguments.torch_threads)
        order = torch.channels_last if channels_last else torch.contiguous_format
        options = arguments.filters, arguments.num_stages, arguments.weighting, arguments.final_filters, NUM_CLASSES
        self.search = Search(Multichannel(*options).to(memory_format=order), LEARNING_RATE)
        images, labels = batch(arguments)
        images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=order)
        self.batch = images, torch.from_numpy(labels)

    def load(self, start):
        self.search.load(*start)

    def step(self):
        return self.search.step(self.batch, self.batch)


if __name__ == "__main__":
    main()
