"""Training step on TensorFlow: a compiled function data → logs that updates variables in place."""

import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.client import device_lib  # the only place that tells how much memory TensorFlow may take
from tensorflow.python.util import _pywrap_util_port  # the only place that tells whether oneDNN is on

JIT_COMPILE = False  # on CPU, XLA is an order of magnitude slower at depthwise convolutions than TensorFlow itself

# What a process keeps of each operation once its graph has run: definition, kernel, a place in the executor. Measured
# with one image or two in a batch, as memory beyond the tensors: 15,100 to 18,000 in graphs of 7,000 to 55,000.
OPERATION_BYTES = 15_500

# Operations whose outputs are their inputs' own memory.
ALIASES = {"Identity", "IdentityN", "Reshape", "Squeeze", "ExpandDims", "StopGradient", "PreventGradient", "Snapshot"}

# Operations whose outputs are memory that is there before the step: of variables and of the batch.
BORROWED = {"ReadVariableOp", "Placeholder"}

NUMBERLESS = (tf.resource, tf.variant, tf.string)


def make_deterministic() -> None:
    """Make every operation deterministic; one that cannot be raises an error."""
    tf.config.experimental.enable_op_determinism()


def conditions() -> dict[str, Any]:
    """Settings of the process and the machine on which the last bits of a result depend, by name."""
    threading, gpus = tf.config.threading, tf.config.list_physical_devices("GPU")
    threads = [
        chosen or os.environ.get(f"TF_NUM_{kind}_THREADS") or "as many as cores"
        for kind, chosen in (
            ("INTRAOP", threading.get_intra_op_parallelism_threads()),
            ("INTEROP", threading.get_inter_op_parallelism_threads()),
        )
    ]
    return {
        "threads": "{} in an operation, {} for operations".format(*threads),
        "gpus": [tf.config.experimental.get_device_details(gpu).get("device_name") for gpu in gpus],
        "onednn": _pywrap_util_port.IsMklEnabled(),
        "tensor_float_32": tf.config.experimental.tensor_float_32_execution_enabled(),
    }


def devices() -> list[str] | None:
    """The devices that divide each batch: None, since a job uses one on TensorFlow."""
    return None


def device_bytes_left() -> int | None:
    """Free memory of the first GPU in bytes; None without a GPU."""
    limits = [device.memory_limit for device in device_lib.list_local_devices() if device.device_type == "GPU"]
    return limits[0] - tf.config.experimental.get_memory_info("GPU:0")["current"] if limits else None


def gradient(function: Callable, argument: list) -> tuple:
    """(value, aux, gradients) at a list of tensors, of a function → (value, aux); nothing else is differentiated."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(argument)
        value, aux = function(argument)
    return value, aux, tape.gradient(value, argument, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def train_step(model: Any, data: Any) -> dict[str, Any]:
    """One update on a batch, as `keras.Model.train_step` has to do it on TensorFlow; returns metric → value."""
    return model.guarded_update(gradient, data)


class CompiledStep:
    """A callable (data) → logs that updates the model."""

    def __init__(self, model: Any) -> None:
        # Making the paper's supernet ready takes 18 s less without the graph optimizer, and its steps are as fast.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        self._model, self._is_ready = model, False
        self._step = tf.function(lambda data: train_step(model, data), autograph=False, jit_compile=JIT_COMPILE)

    def __call__(self, data: Any) -> dict[str, Any]:
        if not self._is_ready:
            self._model.tell("running the first step, for which TensorFlow makes each operation ready")
            self._is_ready = True
        return self._step(_tensors(data))

    def sync(self) -> None:
        """Nothing to do: the variables are up to date after each step."""

    def peak_bytes(self, data: Any) -> int:
        """Estimate of a step's peak memory in bytes, with its variables; nothing is run.

        The graph is traced, once for this and for the steps: what that takes is already held afterwards. On CPU, steps
        that ran took 0.92 to 1.13 times the estimate (supernets and networks of 0.15 to 7.4 GB, two cores).
        """
        self._model.tell("tracing the step, operation by operation")
        graph = self._step.get_concrete_function(_tensors(data)).graph
        variables = [variable.value for group in self._model.step_variables() for variable in group]
        tensors, operations = live_bytes(graph)
        return tensors + sum(map(_bytes, variables)) + OPERATION_BYTES * operations


def inference(model: Any) -> tuple[Callable, Callable]:
    """A compiled function from images to a model's output, both arrays of NumPy, and one that tells where it computes:
    from images to "CPU" or "GPU".
    """
    compiled = tf.function(lambda images: model(images, training=False), autograph=False, jit_compile=JIT_COMPILE)
    return (
        lambda images: compiled(tf.convert_to_tensor(images)).numpy(),
        lambda images: tf.DeviceSpec.from_string(compiled(tf.convert_to_tensor(images)).device).device_type,
    )


def live_bytes(graph: Any) -> tuple[int, int]:
    """Peak memory of a graph's tensors in bytes, and its number of operations.

    A tensor lives from its operation to the last that reads it. The order is that of the graph's making; a CPU runs
    several operations at once and in another order, which has added 13 % at most. A function that is called adds its
    own fullest moment, with its results, and its operations once, however often it is called; a tensor whose shape is
    known to no one counts nothing (FusedBatchNorm's third reserve, which is empty on CPU).
    """
    functions: dict[str, tuple[int, int]] = {}
    peak, count = _live_bytes(graph, functions)
    return peak, count + sum(inner for _, inner in functions.values())


def _live_bytes(graph: Any, functions: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """`live_bytes` of a graph alone; those of the functions that it calls are added to `functions`, by name."""
    operations = graph.get_operations()
    owner, last = _owners(operations)
    last |= {owner[tensor.name]: len(operations) for tensor in graph.outputs}  # which outlive the step
    live = peak = 0
    freed = [0] * (len(operations) + 1)
    for index, operation in enumerate(operations):
        inner = _inner_bytes(graph, operation, functions)
        peak = max(peak, live + inner)
        for tensor in operation.outputs:
            if owner[tensor.name] == tensor.name and operation.type not in BORROWED:
                live += _bytes(tensor)
                freed[last[tensor.name]] += _bytes(tensor)
        peak = max(peak, live)
        live -= freed[index]
    return peak, len(operations)


def _owners(operations):
    """Tensor → the tensor whose memory it is, and such a tensor → the last operation that reads it; all by name."""
    owner, last = {}, {}
    for index, operation in enumerate(operations):
        inputs = [owner[tensor.name] for tensor in operation.inputs]
        last |= dict.fromkeys(inputs, index)
        for place, tensor in enumerate(operation.outputs):
            is_alias = operation.type in ALIASES and place < len(inputs)
            owner[tensor.name] = inputs[place] if is_alias else tensor.name
            last.setdefault(owner[tensor.name], index)
    return owner, last


def _inner_bytes(graph, operation, functions):
    """Peak memory of the fullest function that an operation calls."""
    names = [value.func.name for value in operation.node_def.attr.values() if value.HasField("func")]
    for name in names:
        if name not in functions:
            functions[name] = _live_bytes(graph._get_function(name).graph, functions)
    return max((functions[name][0] for name in names), default=0)


def _bytes(tensor):
    elements = tensor.shape.num_elements()
    return 0 if tensor.dtype in NUMBERLESS or elements is None else elements * tensor.dtype.size


def _tensors(data):
    return tf.nest.map_structure(tf.convert_to_tensor, data)
