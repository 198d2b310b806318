"""A table of milliseconds, measured on one machine: what each part that a final network can have takes there.

The cost of a network is the sum over its parts, so that a search can keep to a budget in milliseconds (§5). The sum is
an estimate: the additions of nodes and concatenation are not in it, nor what ONNX Runtime makes of the whole graph.

Measured with random genotypes of the sharp space at 32×32 pixels and batch 1, by one thread of ONNX Runtime 1.32 on a
Xeon with two cores that were busy with other work. 16 channels, 5 cells, three measurements of 10, 12 and 6 genotypes:
the sum is 0.92, 0.91 and 1.01 of the network's median in the mean (0.75 to 1.13), with rank correlations of 0.73, 0.76
and 0.43. 36 channels, 20 cells, 8 genotypes and 5 of them again: 0.50 and 0.40 (0.16 to 0.80), but there the medians of
one file went from 22 to 47 ms between the two, so that this is not known: other work slows runs of tens of milliseconds
more than parts of microseconds. Measure on a quiet machine, and then the network that was found.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
from keras import ops

from sharpkeras import spaces
from sharpkeras.data import DATASETS
from sharpkeras.data import load as load_dataset
from sharpkeras.errors import RunError, SharpKerasError
from sharpkeras.experiment.builders import image_options
from sharpkeras.experiment.search_budget import costed_network, mean_cost
from sharpkeras.io import atomic_writes, kinds
from sharpkeras.layers import Identity
from sharpkeras.measure.latency import primitive_table
from sharpkeras.measure.latency.benchmark import benchmark_onnx
from sharpkeras.recipes import SearchRecipe
from sharpkeras.spaces import SearchSpace
from sharpkeras.spaces.network_spec import NetworkSpec

OPSET = 17
WARMUP_S, PROCESSES = 0.1, 3  # for each of some hundred parts


def measure(
    recipe: SearchRecipe,
    out: str | os.PathLike[str],
    *,
    space: SearchSpace | None = None,
    overwrite: bool = False,
    progress: Callable[[list], Iterable] = iter,
    runs: int = 60,
    **timing: Any,
) -> dict[str, Any]:
    """Measures all parts of a search's final networks and writes the table that `primitive_table.load_table` reads.

    Args:
        recipe: SearchRecipe; `cost_of` says which final network, by default that of its training.
        out: the JSON file.
        space: a SearchSpace, where it is not one that a recipe names.
        overwrite: whether a table that is there is replaced.
        progress: list of parts → the same, one at a time.
        runs: timed runs of each part.
        timing: further arguments of `benchmark_onnx`.

    Returns:
        What is in the file: the `table`, key → {"ms", "spread" of three processes, "what" in words}, and what it holds
        for. `call_ms` is the time of an empty graph, which all are without; `random_ms` is what a random architecture
        takes in the mean; `unstable` says that the machine was noisy at more than half of the parts.

    Raises:
        UsageError: for an unknown space or dataset.
        ConfigError: for a part that cannot be told from others, or a package that is missing.
        RunError: when the file is there already, or cannot be written.
    """
    from sharpkeras.onnx_export import export_onnx

    _check_destination(Path(out), overwrite)
    export_onnx.require_packages()
    recipe = recipe if space else recipe.priced()
    network = costed_network(recipe, *_images(recipe), space or spaces.of_recipe(recipe))
    timing |= {"runs": runs, "warmup_s": WARMUP_S, "processes": PROCESSES}
    call, table, unstable = _time_all(parts_of(network), network.input_shape, progress, timing)
    result = {
        "schema_version": primitive_table.SCHEMA_VERSION,
        **{name: call[name] for name in ("device", "cores", "threads", "batch_size", "runs", "providers")},
        "versions": {name: sys.modules[name].__version__ for name in ("sharpkeras", "keras", *export_onnx.PACKAGES)},
        "network": network.cost_sizes(),
        "call_ms": call["p50_ms"],
        "random_ms": mean_cost(network.space, network.costs(primitive_table.lookup(table, out))),
        "unstable": unstable,
        "warnings": call["warnings"],
        "table": table,
    }
    atomic_writes.write(out, atomic_writes.dump_file(kinds.of_kind(kinds.LATENCY_TABLE, result), str(out)))
    return result


def _time_all(
    found: dict[str, tuple[Any, tuple[int, ...]]],
    image_shape: Sequence[int],
    progress: Callable[[list], Iterable],
    timing: dict[str, Any],
) -> tuple[Any, dict[str, dict[str, Any]], bool]:
    """The report on an empty graph, the table of what the parts take longer than that, and whether it is unstable."""
    table, unstable = {}, 0
    with tempfile.TemporaryDirectory() as folder:
        call = _benchmark(Identity(), image_shape, Path(folder, "empty.onnx"), timing)
        for number, (key, part) in enumerate(progress(list(found.items()))):
            report = _benchmark(*part, Path(folder, f"{number}.onnx"), timing)
            milliseconds = max(0.0, report["p50_ms"] - call["p50_ms"])
            table[key] = {"ms": milliseconds, "spread": report["spread"], "what": primitive_table.words(key)}
            unstable += report["unstable"]
    return call, table, 2 * unstable > len(table)


def parts_of(network: NetworkSpec) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Key → (layer, input shape): the distinct parts of the networks of all architectures of a space."""
    found: dict[str, tuple[Any, tuple[int, ...]]] = {}

    def collect(layer: Any, input_shape: Sequence[int]) -> float:
        found.setdefault(primitive_table.key(layer, input_shape), (layer, tuple(input_shape)))
        return 0.0

    network.costs(collect)
    return found


def _benchmark(layer: Any, input_shape: Sequence[int], path: Path, timing: dict[str, Any]) -> dict[str, Any]:
    """The report of `benchmark_onnx` on a layer alone."""
    from sharpkeras.onnx_export import conversion

    model = _alone(layer, input_shape)
    converted = conversion.convert(model, model.input_shape[1:], OPSET)
    path.write_bytes(conversion.tidy(converted, "part", {}).SerializeToString())
    return benchmark_onnx(path, **timing)


def _alone(layer: Any, input_shape: Sequence[int]) -> keras.Model:
    """A model of a layer as it stands in a network: (B, C, H, W) or (B, C) → (B, 1), the first number that it makes.

    ONNX has the channels first. With them last on both sides, two transpositions would be measured that a network does
    not have between its parts; with all of the output, the time in which ONNX Runtime copies it.
    """
    *sides, channels = input_shape
    inputs = outputs = keras.Input((channels, *sides))
    if sides:
        outputs = ops.transpose(outputs, (0, 2, 3, 1))  # (B, H, W, C)
    outputs = layer(outputs)
    if len(outputs.shape) == 4:
        outputs = ops.transpose(outputs, (0, 3, 1, 2))
    return keras.Model(inputs, keras.layers.Flatten("channels_last")(outputs)[:, :1])


def _images(recipe: SearchRecipe) -> tuple[tuple[int, ...], int]:
    """The shape (H, W, C) of a search's images and the number of classes.

    Generated images stand for those of a known size, so that no dataset has to be there.
    """
    generated = f"generated:{recipe.dataset.partition(':')[0]}"
    spec = generated if generated in DATASETS else recipe.dataset
    dataset = load_dataset(spec, "train", **image_options(recipe))
    return tuple(dataset.images.shape[1:]), len(dataset.class_names)


def _check_destination(out: Path, overwrite: bool) -> None:
    """Raises RunError before the minutes that the measurement takes, not after them."""
    with atomic_writes.disk_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise RunError("the directory cannot be written to", where=str(out.parent))
    if not out.exists():
        return
    atomic_writes.refuse_to_replace(out, overwrite, "another `out`, or `overwrite`")
    try:
        primitive_table.load_table(out)
    except SharpKerasError as error:
        step = "choose another place with `out`"
        raise RunError("is no table of latencies", where=str(out), seen=error.problem, next_step=step) from None
