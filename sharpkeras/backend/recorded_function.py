"""A part of a network that TensorFlow traces once, with gradients of its own, and calls wherever it occurs again.

The cells of a supernet repeat a few structures. Left to itself, TensorFlow traces each cell anew for each loss, makes
the gradients of all inputs of each operation though half of them are thrown away, and adds two operations of zeros and
shapes for each one that computes. Here a structure becomes three functions: forward, the gradients of all inputs, and
the gradients of all but the weights, which the alphas' step takes. What depthwise convolutions, ReLUs and BatchNorms in
front of them give is made again for the gradient and not kept: a third less memory, at no cost that could be measured.

What the code of the part calls goes through a `Recording`: an operation with a rule in `RULES` has its gradient
here; any other has it from TensorFlow, by running it again under a `tf.GradientTape`, of which only the gradient stays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops
from tensorflow.python.eager import record  # tf.custom_gradient would keep each graph that it is used in for ever

from sharpkeras.backend import fused_ops

STRIP = 3  # columns

Tensors = Sequence[Any]
Backward = Callable[[Tensors, Tensors, Sequence[bool]], list[Any]]


class Result(NamedTuple):
    """What an operation returns, and what its gradient needs.

    outputs: a tensor or a sequence of tensors.
    residuals: the tensors that its gradient reads.
    backward: (residuals, gradients of the outputs or None, for which inputs) → gradients of the inputs, None for an
        input that has none. It may hold shapes, but no tensor.
    again: (function, tensors) that make the first output a second time, where that costs little: it is then not kept
        for the gradients that read it.
    """

    outputs: Any
    residuals: list[Any]
    backward: Backward
    again: tuple[Callable, list[Any]] | None = None


@dataclass
class Entry:
    """One operation of a recording: names of its tensors, and how its gradient is computed from the residuals."""

    inputs: list[Any]
    outputs: list[Any]
    residuals: list[Any]
    backward: Backward


class Recording:
    """The operations of one run of a part of a network, in their order."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._tensors: dict[Any, Any] = {}  # name → tensor; all that are named, so that no name is given twice
        # name of what is made again → function, names of the tensors that it takes, place among what it returns
        self._sources: dict[Any, tuple[Callable, tuple[Any, ...], int | None]] = {}

    def apply(self, function: Callable, *tensors: Any) -> Any:
        """function(*tensors), a tensor or a sequence of tensors."""
        bare, options = (function.func, function.keywords) if isinstance(function, partial) else (function, {})
        result = RULES.get(bare, partial(_by_tape, function))(*tensors, **(options if bare in RULES else {}))
        self._add(tensors, result)
        if result.again is not None:
            function, inputs = result.again
            self._sources[tf.nest.flatten(result.outputs)[0].ref()] = (function, tuple(self._names(inputs)), None)
        return result.outputs

    def rearrange(self, function: Callable, tensor: Any, inverse: Callable | None = None) -> Any:
        """function(tensor), a tensor that has the numbers of another in another order or some of them.

        Args:
            inverse: the way back, which is the gradient where each number stays; None takes TensorFlow's gradient.
        """
        output, shape, dtype = function(tensor), tuple(tensor.shape), tensor.dtype
        if inverse is not None:
            self._add([tensor], Result(output, [], lambda _, gradients, asked: [inverse(gradients[0])]))
        else:
            of_function = _gradient_by_tape(function)
            self._add(
                [tensor], Result(output, [], lambda _, given, asked: of_function([_zeros(shape, dtype)], given, asked))
            )
        return output

    def rows(self, function: Callable, tensor: Any) -> list[Any]:
        """function(tensor), a list of small tensors: where gradients read them, they are made again."""
        outputs = function(tensor)
        self._add([tensor], Result(outputs, [tensor], _gradient_by_tape(function)))
        self._sources |= {output.ref(): (function, (tensor.ref(),), row) for row, output in enumerate(outputs)}
        return outputs

    def _add(self, inputs: Tensors, result: Result) -> None:
        outputs = self._names(tf.nest.flatten(result.outputs))
        self.entries.append(Entry(self._names(inputs), outputs, self._names(result.residuals), result.backward))

    def residuals(self) -> list[Any]:
        """All tensors that the gradients read, each once; `rows` by what they are made of."""
        return [self._tensors[name] for name in self._residual_names()]

    def _residual_names(self) -> dict[Any, None]:
        def sources(name: Any) -> list[Any]:
            if name not in self._sources:
                return [name]
            return [kept for part in self._sources[name][1] for kept in sources(part)]

        return dict.fromkeys(kept for entry in self.entries for name in entry.residuals for kept in sources(name))

    def gradients(self, residuals: Tensors, gradient: Any, output: Any, wanted: Tensors) -> list[Any]:
        """Gradients of the tensors `wanted`, given that of `output`; the residuals as `residuals` lists them."""
        known, made = dict(zip(self._residual_names(), residuals)), {}

        def value(name: Any) -> Any:
            if name not in self._sources:
                return known[name]
            function, sources, row = self._sources[name]
            if (function, sources) not in made:
                made[function, sources] = function(*map(value, sources))
            return made[function, sources] if row is None else made[function, sources][row]

        wanted_names = [tensor.ref() for tensor in wanted]
        depends = set(wanted_names)
        for entry in self.entries:
            if depends.intersection(entry.inputs):
                depends.update(entry.outputs)
        sums: dict[Any, list[Any]] = {output.ref(): [gradient]}
        for entry in reversed(self.entries):
            arrived = [_sum(sums.pop(name, [])) for name in entry.outputs]
            asked = [name in depends for name in entry.inputs]
            if any(asked) and any(part is not None for part in arrived):
                # What is made again is made when its gradient is there, not all of it at once.
                with tf.control_dependencies([part for part in arrived if part is not None]):
                    kept = [value(name) for name in entry.residuals]
                parts = entry.backward(kept, arrived, asked)
                for name, is_asked, part in zip(entry.inputs, asked, parts):
                    if is_asked and part is not None:
                        sums.setdefault(name, []).append(part)
        return [_sum(sums.get(name, [])) for name in wanted_names]

    def _names(self, tensors: Tensors) -> list[Any]:
        self._tensors |= {tensor.ref(): tensor for tensor in tensors}
        return [tensor.ref() for tensor in tensors]


class RecordedFunctions:
    """The functions of all structures that one network has, each traced when it is first called."""

    def __init__(self) -> None:
        self._functions: dict[Any, _Functions] = {}

    def call(self, key: Any, body: Callable, variables: list[keras.Variable], *tensors: Any) -> Any:
        """body(recording, *tensors), whose gradient is computed by the operations' own rules.

        Args:
            key: of the structure: two parts with one key do the same with their variables and tensors.
            body: (recording, *tensors) → a tensor. It computes by the methods of Recording alone, and may assign to
                `variables`.
            variables: all that it reads and writes, in an order of the structure.
            tensors: of floats.
        """
        values = [tf.convert_to_tensor(variable.value) for variable in variables]
        key = (key, *((tensor.dtype, tuple(tensor.shape)) for tensor in (*values, *tensors)))
        if key not in self._functions:
            self._functions[key] = _Functions(body, variables)
        output, written = self._functions[key](values, tensors)
        for variable, value in zip([v for v in variables if not v.trainable], written):
            variable.assign(value)
        return output


class _Functions:
    """Forward and gradients of one structure."""

    def __init__(self, body: Callable, variables: list[keras.Variable]) -> None:
        self._body, self._variables = body, variables
        self._trainable = [index for index, variable in enumerate(variables) if variable.trainable]
        self._forward = _function(self._trace)
        self._backward: dict[tuple[bool, ...], Callable] = {}  # which gradients are asked for → function

    def __call__(self, values: list[Any], tensors: Tensors) -> tuple[Any, list[Any]]:
        with record.stop_recording():
            output, written, residuals = self._forward(values, list(tensors))
        inputs = [*(values[index] for index in self._trainable), *tensors]
        asked = tuple(record.should_record_backprop([tensor]) for tensor in inputs)
        if any(asked):
            inputs = [tensor for tensor, is_asked in zip(inputs, asked) if is_asked]
            backward = partial(self._gradients, asked, residuals)
            record.record_operation("SharpkerasPart", [output], inputs, backward)
        return output, written

    def _trace(self, values: list[Any], tensors: list[Any]) -> tuple[Any, list[Any], list[Any]]:
        recording = Recording()
        with keras.StatelessScope(state_mapping=list(zip(self._variables, values))) as scope:
            output = self._body(recording, *tensors)
        written = [scope.get_current_value(variable) for variable in self._variables if not variable.trainable]
        self._recording, self._output = recording, output
        self._inputs = [*(values[index] for index in self._trainable), *tensors]
        return output, written, recording.residuals()

    def _gradients(self, asked: tuple[bool, ...], residuals: list[Any], gradient: Any) -> list[Any]:
        if asked not in self._backward:
            wanted = [tensor for tensor, is_asked in zip(self._inputs, asked) if is_asked]
            gradients, output = self._recording.gradients, self._output
            self._backward[asked] = _function(lambda residuals, given: gradients(residuals, given, output, wanted))
        return self._backward[asked](residuals, gradient)


def _function(python_function: Callable) -> Callable:
    # Inlined, each call would be made ready again, operation by operation.
    return tf.function(python_function, autograph=False, experimental_attributes={"_noinline": True})


def _sum(terms: list[Any]) -> Any:
    return None if not terms else terms[0] if len(terms) == 1 else tf.add_n(terms)


def _by_tape(function: Callable, *tensors: Any) -> Result:
    return Result(function(*tensors), list(tensors), _gradient_by_tape(function))


def _gradient_by_tape(function: Callable) -> Backward:
    """The gradient of any function: it runs again, and what of that no gradient reads is never computed."""

    def backward(residuals: Tensors, gradients: Tensors, asked: Sequence[bool]) -> list[Any]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            inputs = [tf.identity(tensor) for tensor in residuals]
            tape.watch(inputs)
            outputs = tf.nest.flatten(function(*inputs))
        pairs = [(output, part) for output, part in zip(outputs, gradients) if part is not None]
        outputs, gradients = ([pair[side] for pair in pairs] for side in (0, 1))
        found = iter(tape.gradient(outputs, [tensor for tensor, is_asked in zip(inputs, asked) if is_asked], gradients))
        return [next(found) if is_asked else None for is_asked in asked]

    return backward


def _relu(tensor: Any) -> Result:
    outputs = tf.nn.relu(tensor)

    def backward(kept: Tensors, gradients: Tensors, asked: Sequence[bool]) -> list[Any]:
        return [tf.raw_ops.ReluGrad(gradients=gradients[0], features=kept[0])]

    return Result(outputs, [outputs], backward, again=(tf.nn.relu, [tensor]))


def _depthwise(inputs: Any, kernel: Any) -> Result:
    options: dict[str, Any] = {"strides": [1, 1, 1, 1], "padding": "SAME"}
    input_shape, kernel_shape = tuple(inputs.shape), tuple(kernel.shape)
    outputs = tf.raw_ops.DepthwiseConv2dNative(input=inputs, filter=kernel, **options)

    def backward(kept: Tensors, gradients: Tensors, asked: Sequence[bool]) -> list[Any]:
        inputs, kernel = kept
        given = {**options, "out_backprop": gradients[0], "input_sizes": _constant(input_shape)}
        return [
            tf.raw_ops.DepthwiseConv2dNativeBackpropInput(filter=kernel, **given) if asked[0] else None,
            _depthwise_kernel_gradient(inputs, gradients[0], kernel_shape) if asked[1] else None,
        ]

    return Result(outputs, [inputs, kernel], backward, again=(fused_ops.depthwise_conv, [inputs, kernel]))


def _depthwise_kernel_gradient(inputs: Any, gradient: Any, kernel_shape: tuple[int, ...]) -> Any:
    """The gradient of the kernel of a depthwise convolution at stride 1, in strips of three columns.

    oneDNN has a fast form for kernels of at most three columns: two strips of 5×3 take a quarter of the time of 5×5.
    """
    rows, columns, channels, _ = kernel_shape
    of_kernel = partial(tf.raw_ops.DepthwiseConv2dNativeBackpropFilter, out_backprop=gradient, strides=[1, 1, 1, 1])
    if columns <= STRIP:
        return of_kernel(input=inputs, filter_sizes=_constant(kernel_shape), padding="SAME")
    padded = tf.pad(inputs, [[0, 0], [(rows - 1) // 2] * 2, [(columns - 1) // 2] * 2, [0, 0]])
    size = (-1, -1, padded.shape[2] - (columns - STRIP), -1)
    strips = []
    for start in range(0, columns, STRIP):
        first = min(start, columns - STRIP)  # the last strip may share columns with the one before
        part = tf.slice(padded, _constant((0, 0, first, 0)), _constant(size))
        strip = of_kernel(input=part, filter_sizes=_constant((rows, STRIP, channels, 1)), padding="VALID")
        strips.append(strip[:, start - first :])
    return tf.concat(strips, axis=1)


def _pointwise(inputs: Any, kernel: Any) -> Result:
    """As a matrix product: TensorFlow is faster at it, and at its two gradients, than at a convolution."""
    input_shape, kernel_shape = tuple(inputs.shape), tuple(kernel.shape)
    channels, filters = kernel_shape[2:]

    def rows(tensor: Any) -> Any:
        return tf.reshape(tensor, _constant((-1, tensor.shape[-1])))

    def matrix(kernel: Any) -> Any:
        return tf.reshape(kernel, _constant((channels, filters)))

    def backward(kept: Tensors, gradients: Tensors, asked: Sequence[bool]) -> list[Any]:
        (inputs, kernel), gradient = kept, rows(gradients[0])
        of_inputs = of_kernel = None
        if asked[0]:
            of_inputs = tf.reshape(tf.matmul(gradient, matrix(kernel), transpose_b=True), _constant(input_shape))
        if asked[1]:
            of_kernel = tf.reshape(tf.matmul(rows(inputs), gradient, transpose_a=True), _constant(kernel_shape))
        return [of_inputs, of_kernel]

    outputs = tf.reshape(tf.matmul(rows(inputs), matrix(kernel)), _constant((*input_shape[:3], filters)))
    return Result(outputs, [inputs, kernel], backward)


def _batch_normalization(inputs: Any, scale: Any, offset: Any, epsilon: float) -> Result:
    unused = _constant((), tf.float32)
    outputs, mean, variance, *kept = tf.raw_ops.FusedBatchNormV3(
        x=inputs, scale=scale, offset=offset, mean=unused, variance=unused, epsilon=epsilon, is_training=True
    )

    def backward(residuals: Tensors, gradients: Tensors, asked: Sequence[bool]) -> list[Any]:
        inputs, scale, *kept = residuals
        of_inputs, of_scale, *_ = tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=gradients[0],
            x=inputs,
            scale=scale,
            **{f"reserve_space_{place}": part for place, part in enumerate(kept, 1)},
            epsilon=epsilon,
            is_training=True,
        )
        return [of_inputs, of_scale, None]

    count = inputs.shape.num_elements() // inputs.shape[-1]

    def normalize(inputs: Any, scale: Any, offset: Any, mean: Any, variance: Any) -> Any:
        biased = variance * (max(count - 1, 1) / count)
        given = {"x": inputs, "scale": scale, "offset": offset, "mean": mean, "variance": biased}
        return tf.raw_ops.FusedBatchNormV3(**given, epsilon=epsilon, is_training=False)[0]

    again = normalize, [inputs, scale, offset, mean, variance]
    return Result([outputs, mean, variance], [inputs, scale, *kept], backward, again)


def _weigh(outputs: Any, weight: Any) -> Result:
    def backward(kept: Tensors, gradients: Tensors, asked: Sequence[bool]) -> list[Any]:
        outputs, weight = kept
        wide = tf.cast(gradients[0], weight.dtype)
        return [
            tf.cast(wide * weight, outputs.dtype) if asked[0] else None,
            tf.reduce_sum(wide * tf.cast(outputs, weight.dtype), axis=(0, 1, 2)) if asked[1] else None,
        ]

    return Result(fused_ops.weigh(outputs, weight), [outputs, weight], backward)


def _add(*terms: Any) -> Result:
    return Result(fused_ops.add(*terms), [], lambda _, gradients, asked: [gradients[0]] * len(asked))


RULES: dict[Callable, Callable[..., Result]] = {
    ops.relu: _relu,
    fused_ops.depthwise_conv: _depthwise,
    fused_ops.pointwise_conv: _pointwise,
    fused_ops.batch_normalization: _batch_normalization,
    fused_ops.weigh: _weigh,
    fused_ops.add: _add,
}


def _constant(values: tuple[int, ...], dtype: Any = tf.int32) -> Any:
    """A constant, one for all that need it in the function that is traced."""
    return _once(("constant", values, dtype), lambda: tf.constant(values, dtype))


def _zeros(shape: tuple[int, ...], dtype: Any) -> Any:
    return _once(("zeros", shape, dtype), lambda: tf.zeros(shape, dtype))


def _once(key: Any, make: Callable[[], Any]) -> Any:
    graph = tf.compat.v1.get_default_graph()
    if not hasattr(graph, "sharpkeras_constants"):
        graph.sharpkeras_constants = {}
    if key not in graph.sharpkeras_constants:
        graph.sharpkeras_constants[key] = make()
    return graph.sharpkeras_constants[key]
