"""Everything that is measured on a machine with a GPU, in under eight minutes, in the order of its worth.

    python benchmarks/gpu.py --out gpu.json [--data FOLDER] [--wheels FOLDER] [--seconds 460]
    python benchmarks/gpu.py --out tiny.json --tiny

It needs JAX, Keras and what Keras imports (absl-py, ml_dtypes, namex, optree, packaging, rich), NumPy and SciPy; no
TensorFlow, and nothing of sharpkeras has to be installed. `--wheels` names a folder of wheels or of unpacked packages
that the machine does not have. Beside PyTorch where that is installed. `--data` is a folder of images in class folders
(train/CLASS/*.jpg), for which Pillow is needed.

Each part (`PARTS`) is a process of its own, which prints a line of JSON for each figure. The file is written anew, as a
whole, after each of them, so that a part that fails, or that is ended when its share of the time is used up, costs
nothing that was measured before. `--tiny` is a rehearsal on a CPU: its figures mean nothing.
"""

import argparse
import functools
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # sharpkeras, from the checkout

Figure = dict[str, Any]
PER_CALL = (1, 8, 32)
KERNELS = {"3x3": (3, 1), "5x5": (5, 1), "3x3 dilated": (3, 2), "5x5 dilated": (5, 2)}  # name → size, dilation
LOGS = ("train_loss", "validation_loss", "validation_accuracy")
SEARCH_EPOCHS, SEARCH_STEPS = 60, 390  # of the paper: half of 50,000 images in batches of 64


class Sizes(NamedTuple):
    """How large everything is: the paper's sizes, or those of the rehearsal."""

    batch_size: int = 64
    init_channels: int = 16
    num_cells: int = 8
    num_nodes: int = 4
    primitives: str = "darts"
    network_channels: int = 36
    network_cells: int = 20
    steps: int = 10
    depthwise: tuple[tuple[int, int], ...] = ((16, 32), (32, 16), (64, 8))  # channels, pixels of a side
    inner: int = 64  # depthwise convolutions in a call


TINY = Sizes(4, 4, 3, 1, "max_pool_3x3,skip_connect,sep_conv_3x3", 4, 3, 2, ((4, 8),), 2)

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path("gpu.json"))
parser.add_argument("--data", type=Path, help="folder of CIFAR-10 as JPEG files")
parser.add_argument("--wheels", type=Path, help="folder of wheels, or of unpacked packages")
parser.add_argument("--seconds", type=float, default=460, help="for all parts together")
parser.add_argument("--only", nargs="+", help="some parts alone")
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--part", help=argparse.SUPPRESS)


def main() -> None:
    arguments = parser.parse_args()
    if arguments.part:
        PARTS[arguments.part].run(lambda figure: print(json.dumps(figure), flush=True), arguments)
        return
    started = time.monotonic()
    report: Figure = {"command": sys.argv, "parts": {}}
    with tempfile.TemporaryDirectory() as scratch:
        environment = environment_of_parts(arguments, Path(scratch))
        for name in arguments.only or PARTS:
            left = arguments.seconds - (time.monotonic() - started)
            part: Figure = {"figures": []}
            report["parts"][name] = part
            began = time.monotonic()
            for figure in figures(name, environment, min(left, arguments.seconds * PARTS[name].share)):
                part["seconds"] = time.monotonic() - began
                if "ended" in figure:
                    part |= figure
                else:
                    # The figures of one key replace each other: a form is told again after each of its steps.
                    part["figures"] = [f for f in part["figures"] if f.get("key") != figure.get("key")] + [figure]
                write(arguments.out, report)


def environment_of_parts(arguments: argparse.Namespace, scratch: Path) -> dict[str, str]:
    """For the processes of the parts: JAX as backend, a cache of what is compiled, the packages of --wheels."""
    places = [str(ROOT)]
    if arguments.wheels:
        for wheel in sorted(arguments.wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(scratch / "packages")
        places += [str(scratch / "packages"), str(arguments.wheels.resolve())]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*places, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "KERAS_BACKEND": "jax",
        "KERAS_HOME": os.devnull,
        "JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled"),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def figures(name: str, environment: dict[str, str], seconds: float) -> Iterator[Figure]:
    """The figures of a part as they come, and at last how it `ended`."""
    if seconds <= 0:
        yield {"ended": "not begun: no time left"}
        return
    command = [sys.executable, __file__, *sys.argv[1:], "--part", name]
    with tempfile.TemporaryFile("w+") as errors:
        # In a session of its own, so that the processes that it starts end with it.
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
        deadline, ended = time.monotonic() + seconds, ""
        while not ended:
            try:
                line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                ended = f"time is up: its share was {seconds:.0f} s"
            else:
                if line is None:
                    ended = "finished" if process.wait() == 0 else f"exit status {process.returncode}"
                elif line.startswith("{"):
                    yield json.loads(line)
        end_session(process)
        errors.seek(0)
        said = errors.read()[-2000:]
        yield {"ended": ended} | ({"said": said} if ended != "finished" else {})


def _read(stream: Any, lines: "queue.Queue[str | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def end_session(process: subprocess.Popen) -> None:
    """Ends a process and those that it started."""
    try:
        os.killpg(process.pid, 9)
    except ProcessLookupError:
        return  # all of them have ended
    finally:
        process.wait()


def write(path: Path, report: Figure) -> None:
    """The file as a whole, in the place of the one before."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(report, indent=2) + "\n")
    os.replace(new, path)


# --- parts: (emit, arguments) → None, each in a process of its own ---

Emit = Callable[[Figure], None]


def sizes(arguments: argparse.Namespace) -> Sizes:
    return TINY if arguments.tiny else Sizes()


def has_torch() -> bool:
    import importlib.util

    return importlib.util.find_spec("torch") is not None


def part_machine(emit: Emit, arguments: argparse.Namespace) -> None:
    """Machine, driver, devices and versions."""
    import jax
    from peers.turns import machine

    facts = {**machine(), "devices": [device.device_kind for device in jax.devices()]}
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
        facts["nvidia_smi"] = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
    except FileNotFoundError:
        facts["nvidia_smi"] = None
    emit({"key": "machine", **facts})


def part_steps(kind: str, precision: str) -> Callable[[Emit, argparse.Namespace], None]:
    """The step of a search or a training in one precision of ours, in turn with PyTorch's forms."""

    def run(emit: Emit, arguments: argparse.Namespace) -> None:
        from peers import turns

        size = sizes(arguments)
        peers = ["torch", "torch_autocast"] if precision == "float32" else ["torch_autocast"]
        forms = [f"jax_{precision}", *(peers if has_torch() else [])]

        def told(reports: Figure) -> None:
            for form, report in reports.items():
                emit({"key": form, "form": form, **report})

        make = {"search": make_search, "training": make_training}[kind]
        # What they differ by is told and not judged: either may take TensorFloat-32 for float32.
        turns.measure(make, forms, size, size.steps, size.batch_size, dict.fromkeys(forms), told)

    return run


def make_search(form: str, size: Sizes) -> Any:
    from peers import ours

    data = ours.batch(size.batch_size, 32)
    if form.startswith("torch"):
        from peers.torch_cells import Supernet
        from peers.torch_forms import PeerSearch
        from peers.torch_steps import FORMS, Search

        imported = time.perf_counter()
        shape = (size.init_channels, size.num_cells, size.num_nodes)
        model = Supernet(primitive_names(size), "sharp", "scalar", ours.NUM_CLASSES, *shape)
        return PeerSearch(Search(model, ours.LEARNING_RATE, FORMS[form]), data, imported, os.cpu_count() or 1)
    return our_search(size, data, form.removeprefix("jax_"))


def our_search(size: Sizes, data: tuple, precision: str) -> Any:
    """The form of our search step in a precision."""
    import keras
    from peers import ours

    from sharpkeras.spaces.cell.space import CellSpace

    imported = time.perf_counter()
    keras.config.set_dtype_policy(precision)
    space = CellSpace(primitive_names(size), num_nodes=size.num_nodes, num_concatenated=size.num_nodes)
    supernet = space.supernet(data[0].shape[1:], ours.NUM_CLASSES, size.init_channels, size.num_cells)
    return ours.OurSearch(space, supernet, data, imported)


def primitive_names(size: Sizes) -> tuple[str, ...]:
    from sharpkeras.primitives import PRIMITIVES

    return PRIMITIVES.get(size.primitives) or tuple(size.primitives.split(","))


def make_training(form: str, size: Sizes) -> Any:
    from peers import ours

    from sharpkeras.paper.published import genotype

    data, found = ours.batch(size.batch_size, 32), genotype("SHARPSEPCONV_DARTS")
    if form.startswith("torch"):
        from peers.torch_cells import Network as Peer
        from peers.torch_forms import PeerTraining
        from peers.torch_steps import FORMS, Training

        imported = time.perf_counter()
        network = Peer(found, "sharp", ours.NUM_CLASSES, size.network_channels, size.network_cells)
        return PeerTraining(Training(network, ours.LEARNING_RATE, FORMS[form]), data, imported, os.cpu_count() or 1)
    import keras

    from sharpkeras.spaces.cell.network import CellNetwork

    imported = time.perf_counter()
    keras.config.set_dtype_policy(form.removeprefix("jax_"))
    shape: Figure = {"init_channels": size.network_channels, "num_cells": size.network_cells}
    return ours.OurTraining(CellNetwork(found, **shape, auxiliary=True), data, imported)


def part_depthwise(emit: Emit, arguments: argparse.Namespace) -> None:
    """Depthwise convolutions of stride 1, batch 64: forward, input gradient, kernel gradient, by two forms."""
    import jax
    import numpy as np
    from jax import numpy as jnp

    size, rng = sizes(arguments), np.random.default_rng(0)
    for channels, side in size.depthwise:
        for dtype in ("float32",) if arguments.tiny else ("float32", "bfloat16"):
            shape = (size.batch_size, side, side, channels)
            images, gradients = (jnp.asarray(rng.normal(size=(4, *shape)), dtype) for _ in range(2))
            for name, (kernel_size, dilation) in KERNELS.items():
                kernel = jnp.asarray(rng.normal(size=(kernel_size, kernel_size, channels)) / kernel_size, dtype)
                for form, (forward, input_gradient, kernel_gradient) in DEPTHWISE.items():
                    calls = {
                        "forward": repeated(forward, dilation, size.inner),
                        "input gradient": repeated(input_gradient, dilation, size.inner),
                        "kernel gradient": summed(kernel_gradient, kernel_size, dilation, size.inner),
                    }
                    for what, call in calls.items():
                        inputs = (images, gradients) if what == "kernel gradient" else (images[0], kernel)
                        facts = {"channels": channels, "side": side, "dtype": dtype, "kernel": name}
                        facts |= {"form": form, "what": what}
                        seconds = timed(functools.partial(finished, jax.jit(call), inputs), size.steps)
                        figure = median_and_interval([second / size.inner * 1e6 for second in seconds], "us")
                        emit({"key": json.dumps(facts), **facts, **figure})


def finished(call: Callable, inputs: tuple) -> None:
    import jax

    jax.block_until_ready(call(*inputs))


def repeated(function: Callable, dilation: int, times: int) -> Callable:
    """A convolution of its own output, so many times: one call, which a GPU cannot answer before all are done."""
    from jax import lax

    return lambda images, kernel: lax.fori_loop(0, times, lambda _, x: function(x, kernel, dilation), images)


def summed(function: Callable, kernel_size: int, dilation: int, times: int) -> Callable:
    """The sum of so many kernel gradients, by four batches in turn."""
    from jax import lax
    from jax import numpy as jnp

    def call(images: Any, gradients: Any) -> Any:
        def add(index: Any, total: Any) -> Any:
            return total + function(images[index % 4], gradients[index % 4], kernel_size, dilation)

        shape = (kernel_size, kernel_size, images.shape[-1])
        return lax.fori_loop(0, times, add, jnp.zeros(shape, images.dtype))

    return call


def convolution(images: Any, kernel: Any, dilation: int) -> Any:
    """(B, H, W, C) and (k, k, C) → (B, H, W, C), zeros around, by XLA's own convolution."""
    from jax import lax

    kernel = kernel[:, :, None]
    settings: Figure = {"rhs_dilation": (dilation, dilation), "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", feature_group_count=images.shape[-1], **settings)


def convolution_input_gradient(gradient: Any, kernel: Any, dilation: int) -> Any:
    import jax

    return jax.vjp(lambda x: convolution(x, kernel, dilation), gradient)[1](gradient)[0]


def convolution_kernel_gradient(images: Any, gradient: Any, kernel_size: int, dilation: int) -> Any:
    import jax
    from jax import numpy as jnp

    kernel = jnp.zeros((kernel_size, kernel_size, images.shape[-1]), images.dtype)
    return jax.vjp(lambda k: convolution(images, k, dilation), kernel)[1](gradient)[0]


def shifts(images: Any, kernel_size: int, dilation: int) -> Iterator[tuple[int, int, Any]]:
    """The images as each tap of the kernel sees them: (row, column, (B, H, W, C))."""
    from jax import numpy as jnp

    margin, (_, height, width, _) = dilation * (kernel_size // 2), images.shape
    padded = jnp.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    for i in range(kernel_size):
        for j in range(kernel_size):
            yield i, j, padded[:, i * dilation : i * dilation + height, j * dilation : j * dilation + width]


def shifted(images: Any, kernel: Any, dilation: int) -> Any:
    """The same as `convolution`, as k² multiply-adds."""
    return sum(part * kernel[i, j] for i, j, part in shifts(images, kernel.shape[0], dilation))


def shifted_input_gradient(gradient: Any, kernel: Any, dilation: int) -> Any:
    return shifted(gradient, kernel[::-1, ::-1], dilation)


def shifted_kernel_gradient(images: Any, gradient: Any, kernel_size: int, dilation: int) -> Any:
    from jax import numpy as jnp

    sums = [jnp.sum(part * gradient, (0, 1, 2)) for _, _, part in shifts(images, kernel_size, dilation)]
    return jnp.stack(sums).reshape(kernel_size, kernel_size, -1)


DEPTHWISE = {
    "convolution": (convolution, convolution_input_gradient, convolution_kernel_gradient),
    "shifted": (shifted, shifted_input_gradient, shifted_kernel_gradient),
}


def part_per_call(emit: Emit, arguments: argparse.Namespace) -> None:
    """The search step alone, and N of them in one compiled call with the data on the device."""
    import jax
    from peers import ours

    size = sizes(arguments)
    images, labels = ours.batch(size.batch_size, 32)
    form = our_search(size, (images, labels), "float32" if arguments.tiny else "mixed_bfloat16")
    form.step()
    form.step()
    seconds = [timed(form.step, 1)[0] for _ in range(size.steps)]
    emit({"key": "step", "form": "one step, data from the host", **median_and_interval(seconds, "s")})
    many, state = many_steps(form.model, lambda data, index: (data, data)), state_of(form.model)
    data = jax.device_put((images, labels))
    for number in PER_CALL[:2] if arguments.tiny else PER_CALL:
        calls = []
        for _ in range(1 + max(3, size.steps // number)):
            start = time.perf_counter()
            state, logs = many(state, number, data)
            float(logs["train_loss"])
            calls.append((time.perf_counter() - start) / number)
        emit({"key": number, "steps_per_call": number, "first_call_s": calls[0], **median_and_interval(calls[1:], "s")})


def state_of(model: Any) -> tuple:
    """The state of a model's step, as `backend.jax` has it."""
    from jax import numpy as jnp

    return tuple([jnp.copy(variable.value) for variable in group] for group in model.step_variables())


def many_steps(model: Any, batches: Callable[[Any, Any], tuple]) -> Callable:
    """(state, N, data) → (state, logs of the last step): N steps in a call, compiled once for all N.

    Args:
        model: a SearchModel.
        batches: (data, index of the step) → what a step takes.
    """
    import jax
    from jax import numpy as jnp

    from sharpkeras.backend.jax import train_step

    def many(state: tuple, number: Any, data: Any) -> tuple:
        def body(index: Any, carry: tuple) -> tuple:
            logs, state = train_step(model, carry[0], batches(data, index))
            return state, {name: logs[name] for name in LOGS}

        return jax.lax.fori_loop(0, number, body, (state, dict.fromkeys(LOGS, jnp.float32(0))))

    return jax.jit(many, donate_argnums=0)


def part_cost(emit: Emit, arguments: argparse.Namespace) -> None:
    """What the compiled step asks of the device, by XLA's own analysis, beside what the official code asks for."""
    import re

    import jax
    from peers import ours

    size = sizes(arguments)
    data = ours.batch(size.batch_size, 32)
    for precision in ("float32",) if arguments.tiny else ("float32", "mixed_bfloat16"):
        form = our_search(size, data, precision)
        compiled = jax.jit(step_of(form.model), donate_argnums=0).lower(state_of(form.model), (data, data)).compile()
        analysis, text = compiled.cost_analysis() or {}, compiled.as_text() or ""
        entry = text[text.index("\nENTRY") :]
        kinds = re.findall(r"^ +(?:ROOT )?%?[\w.-]+ = .*?\s([a-z][\w-]*)\(", entry, re.MULTILINE)
        counts = {kind: kinds.count(kind) for kind in sorted(set(kinds) - NO_KERNELS)}
        facts = {"flops": analysis.get("flops"), "bytes_accessed": analysis.get("bytes accessed")}
        emit({"key": precision, "form": f"jax_{precision}", **facts, "kernels": sum(counts.values()), "kinds": counts})
    if has_torch():
        from peers.torch_counts import counts_of

        peer = make_search("torch", size)
        peer.load(form.state())
        emit({"key": "torch", "form": "torch", **counts_of(peer.step)})


NO_KERNELS = {"parameter", "tuple", "get-tuple-element", "constant", "bitcast"}


def step_of(model: Any) -> Callable:
    from sharpkeras.backend.jax import train_step

    return lambda state, data: train_step(model, state, data)


def part_search(emit: Emit, arguments: argparse.Namespace) -> None:
    """A search on real images by the paper's recipe, until it is ended; the forecast of 60 epochs from it."""
    import dataclasses

    import jax
    import numpy as np

    from sharpkeras import spaces
    from sharpkeras.data import augment, load
    from sharpkeras.data.batches import search_split
    from sharpkeras.experiment import builders
    from sharpkeras.recipes.rows import SEARCHES

    size = sizes(arguments)
    recipe: Any = SEARCHES["sharpsepconv-darts"].settings
    changes: Figure = {"space": size.primitives, "num_nodes": size.num_nodes, "batch_size": size.batch_size}
    changes |= {"init_channels": size.init_channels, "num_cells": size.num_cells}
    precision = "float32" if arguments.tiny else "mixed_bfloat16"
    recipe = dataclasses.replace(recipe, epochs=SEARCH_EPOCHS, precision=precision, **changes)
    if not arguments.data and not arguments.tiny:
        emit({"key": "search", "left_out": "no --data"})
        return
    start = time.perf_counter()
    dataset = load(f"folder:{arguments.data}" if arguments.data else "generated:cifar10", "train")
    images = np.ascontiguousarray(dataset.images)
    read = time.perf_counter() - start
    halves = search_split(len(images), recipe.train_portion, recipe.batch_size)
    steps = len(halves[0]) // recipe.batch_size
    with builders.precision(recipe):
        model = builders.search_model(recipe, spaces.of_recipe(recipe), dataset, steps)
    on_device = jax.device_put((images, dataset.labels.astype("int32")))
    number, rng = 2 if arguments.tiny else PER_CALL[-1], np.random.default_rng(0)

    def batches(data: tuple, index: Any) -> tuple:
        """The training and the validation batch, with the draws of their augmentation."""
        (images, labels), chosen, key = data
        keys = jax.random.split(jax.random.fold_in(key, index))
        shape = (recipe.batch_size, augment.NUM_DRAWS)
        return tuple((images[c], labels[c], jax.random.uniform(k, shape)) for c, k in zip(chosen[index], keys))

    many, state, done = many_steps(model, batches), state_of(model), 0
    calls: list[float] = []
    while len(calls) < 3 if arguments.tiny else True:
        start = time.perf_counter()
        chosen = [[rng.choice(half, recipe.batch_size, replace=False) for half in halves] for _ in range(number)]
        state, logs = many(state, number, (on_device, np.array(chosen), jax.random.key(done)))
        losses = {name: float(logs[name]) for name in LOGS}
        calls.append((time.perf_counter() - start) / number)
        done += number
        figure = median_and_interval(calls[1:], "s") if len(calls) > 1 else {}
        if figure:
            epoch = SEARCH_STEPS * figure["s_median"]
            figure["forecast_minutes"] = (calls[0] * number + SEARCH_EPOCHS * epoch) / 60
        emit(
            {"key": "search", "images": len(images), "read_s": read, "steps": done, "first_call_s": calls[0] * number}
            | losses
            | figure
        )


def timed(call: Callable[[], Any], times: int) -> list[float]:
    """Seconds of so many calls; one more, for what is compiled, goes before where there are several."""
    if times > 1:
        call()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def median_and_interval(values: list[float], unit: str) -> Figure:
    from peers.turns import center

    median, interval = center(values)
    return {f"{unit}_median": median, f"{unit}_interval": interval, "n": len(values)}


class Part(NamedTuple):
    """A part: what runs it, and the largest share of the whole time that it may take."""

    run: Callable[[Emit, argparse.Namespace], None]
    share: float


PARTS = {
    "machine": Part(part_machine, 0.1),
    "search_step": Part(part_steps("search", "float32"), 0.4),
    "search_step_bfloat16": Part(part_steps("search", "mixed_bfloat16"), 0.3),
    "depthwise": Part(part_depthwise, 0.2),
    "steps_per_call": Part(part_per_call, 0.25),
    "train_step": Part(part_steps("training", "float32"), 0.2),
    "train_step_bfloat16": Part(part_steps("training", "mixed_bfloat16"), 0.15),
    "cost": Part(part_cost, 0.15),
    "search": Part(part_search, 1.0),
}

if __name__ == "__main__":
    main()
