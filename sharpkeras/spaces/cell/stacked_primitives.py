"""Primitives on all edges of a search cell at once: what is computed, by what the structure of a cell gives away.

- The ReLU and the pools of a state are computed once, not on each edge that leaves it.
- The kernels of a primitive on all edges lie in one variable with a leading axis of edges.
- The mixing weight is the scale of a primitive's last BatchNorm.
- A dilation of 2 becomes an ordinary convolution on the four interleaved quarters of the image, and they stay apart
  until the next convolution that needs them together: a 1×1 convolution, BatchNorm and ReLU do not care.

`search_cell.py` wires them to a cell.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from keras import ops

from sharpkeras.backend import fused_ops as kernels
from sharpkeras.layers import (
    EPSILON,
    MOMENTUM,
    AveragePool,
    BatchNormalization,
    Conv2D,
    DepthwiseConv2D,
    FactorizedReduce,
    LayerSequence,
    MaxPool,
    SplitConv,
    fan_in_uniform,
)
from sharpkeras.spaces.cached_state import CachedState
from sharpkeras.spaces.cell import topology
from sharpkeras.spaces.state_dict import CONV, DEPTHWISE, VECTOR, Slot, layer_slots

STACKED = (keras.layers.ReLU, Conv2D, DepthwiseConv2D, BatchNormalization)  # the steps that StackedSequence knows
SHARED_POOLS = (MaxPool, AveragePool)


class CellState(CachedState):
    """A state of a search cell with what the edges that leave it share.

    Args:
        tensor: (B, H, W, C).
        run: the ForwardPass.
    """

    def __init__(self, tensor: Any, run: "ForwardPass") -> None:
        super().__init__(tensor)
        self._run = run

    @property
    def rectified(self) -> Any:
        return self.shared("rectified", lambda: self._run.apply(ops.relu, self.tensor))

    @property
    def even(self) -> bool:
        """Whether to work on four equal quarters of the image; where images are shifted nothing is gained by it."""
        return not kernels.shifts_images(self.tensor) and not any(side % 2 for side in self.tensor.shape[1:3])

    @property
    def quarters(self) -> Any:
        """The ReLU as four interleaved quarters side by side in the channels, (B, H/2, W/2, 4·C); even images only."""
        return self.shared("quarters", lambda: self._run.rearrange(in_quarters, self.rectified, from_quarters))

    @property
    def every_second(self) -> Any:
        """Every second pixel of the ReLU, for stride 2: the first quarter (cutting it out of those is faster)."""
        channels = self.tensor.shape[-1]
        if self.even:
            return self._cut("every_second", self.quarters, lambda quarters: quarters[..., :channels])
        return self._cut("every_second", self.rectified, lambda rectified: rectified[:, ::2, ::2])

    @property
    def every_second_shifted(self) -> Any:
        """The other half of FactorizedReduce, every second pixel from the second on: the last quarter."""
        channels = self.tensor.shape[-1]
        if self.even:
            return self._cut("shifted", self.quarters, lambda quarters: quarters[..., -channels:])
        return self._cut("shifted", self.rectified, lambda rectified: FactorizedReduce.shift(rectified)[:, ::2, ::2])

    def _cut(self, key, tensor, function):
        return self.shared(key, lambda: self._run.rearrange(function, tensor))


class StackedBatchNorm:
    """One BatchNorm position on several edges of a cell: moving mean and variance, (E, C) each, no scale, no offset."""

    def __init__(self, cell: Any, name: str, num_edges: int, channels: int, epsilon: float = EPSILON) -> None:
        self.epsilon, shape = epsilon, (num_edges, channels)
        settings = {"shape": shape, "trainable": False, "autocast": False}
        self.mean = cell.add_weight(initializer="zeros", name=f"{name}.running_mean", **settings)
        self.variance = cell.add_weight(initializer="ones", name=f"{name}.running_var", **settings)

    def update(self, means: Any, variances: Any) -> None:
        """Move the averages towards the statistics of the batch, (E, C) each."""
        for variable, batch in ((self.mean, means), (self.variance, variances)):
            variable.assign(variable * MOMENTUM + ops.stop_gradient(batch) * (1 - MOMENTUM))

    def state_slots(self, name: str, row: int) -> Iterator[tuple[str, Slot]]:
        """Where the arrays of one edge go, by the official name of its BatchNorm."""
        yield f"{name}.running_mean", Slot(self.mean, VECTOR, row)
        yield f"{name}.running_var", Slot(self.variance, VECTOR, row)


class ForwardPass:
    """One run of a cell: its kernels unstacked, and the batch statistics that its BatchNorms saw."""

    def __init__(self, training: bool | None, dtype: str, recording: Any = None) -> None:
        self.training, self.dtype, self._recording = training, dtype, recording
        self._kernels, self._seen, self._constants = {}, {}, {}

    def apply(self, function: Callable, *tensors: Any) -> Any:
        """function(*tensors), which a recording takes down with its gradient."""
        return function(*tensors) if self._recording is None else self._recording.apply(function, *tensors)

    def rearrange(self, function: Callable, tensor: Any, inverse: Callable | None = None) -> Any:
        """function(tensor), which takes numbers over as they are, all of them where it has an inverse."""
        return function(tensor) if self._recording is None else self._recording.rearrange(function, tensor, inverse)

    def rows(self, function: Callable, tensor: Any) -> list[Any]:
        """function(tensor), a list of small tensors."""
        return function(tensor) if self._recording is None else self._recording.rows(function, tensor)

    def kernel(self, variable: Any, row: int) -> Any:
        return self._rows(variable, id(variable), lambda kernels: kernels)[row]

    def moving_statistics(self, norm: StackedBatchNorm, row: int) -> tuple[Any, Any]:
        """Moving mean and variance of one edge, (C,) each."""
        return norm.mean[row], norm.variance[row]

    def quartered_kernel(self, variable: Any, row: int) -> Any:
        """A depthwise kernel repeated for the four quarters, (k, k, 4·C, 1)."""
        return self._rows(variable, (id(variable), "quarters"), lambda kernels: ops.tile(kernels, (1, 1, 1, 4, 1)))[row]

    def _rows(self, variable, key, change):
        if key not in self._kernels:
            self._kernels[key] = self.rows(
                lambda kernels: ops.unstack(change(ops.cast(kernels, self.dtype)), num=kernels.shape[0]),
                ops.convert_to_tensor(variable.value),
            )
        return self._kernels[key]

    def normalize(self, norm: StackedBatchNorm, inputs: Any, row: int, weight: Any = None) -> Any:
        """`weight` (C,) · BatchNorm(inputs); None is 1."""
        weight = self._constant(ops.ones, inputs.shape[-1]) if weight is None else weight
        if not self.training:
            mean, variance = self.moving_statistics(norm, row)
            factor = ops.rsqrt(variance + norm.epsilon) * weight
            return ops.cast(ops.cast(inputs, factor.dtype) * factor - mean * factor, inputs.dtype)
        outputs, statistics = self.normalize_batch(norm, inputs, weight)
        self.remember(norm, row, statistics)
        return outputs

    def normalize_batch(self, norm: StackedBatchNorm, inputs: Any, weight: Any = None) -> tuple[Any, tuple[Any, Any]]:
        channels = inputs.shape[-1]
        weight = self._constant(ops.ones, channels) if weight is None else weight
        offset = self._constant(ops.zeros, channels)
        normalize = functools.partial(kernels.batch_normalization, epsilon=norm.epsilon)
        outputs, mean, variance = self.apply(normalize, inputs, weight, offset)
        return outputs, (mean, variance)

    def remember(self, norm: StackedBatchNorm, row: int, statistics: tuple[Any, Any]) -> None:
        self._seen.setdefault(norm, {})[row] = statistics

    def update_moving_statistics(self) -> None:
        for norm, seen in self._seen.items():
            means, variances = (ops.stack([seen[row][index] for row in sorted(seen)]) for index in (0, 1))
            norm.update(means, variances)

    def _constant(self, make: Callable[..., Any], channels: int) -> Any:
        key = make, channels
        if key not in self._constants:
            self._constants[key] = make(channels, kernels.at_least_float32(self.dtype))
        return self._constants[key]


class StackedSequence:
    """A convolutional primitive on all edges of a cell.

    Unbuilt `layers.LayerSequence`s say what is computed; the variables are here, with a leading axis of edges.

    Args:
        cell: the SearchCell that owns the variables.
        name: of the primitive, for the variables' names.
        layers: strides → LayerSequence.
        num_edges: E.
    """

    def __init__(self, cell: Any, name: str, layers: Mapping[int, LayerSequence], num_edges: int) -> None:
        self.layers, self.variables, channels = layers, {}, cell.filters
        for position, step in enumerate(layers[1].steps):
            place = f"{name}.{position}"
            if isinstance(step, (Conv2D, DepthwiseConv2D)):
                self.variables[position] = stacked_kernel(cell, step, num_edges, channels, place)
                channels = step.filters if isinstance(step, Conv2D) else channels
            elif isinstance(step, BatchNormalization):
                self.variables[position] = StackedBatchNorm(cell, place, num_edges, channels, step.epsilon)

    def variables_on(self, training: bool) -> list[Any]:
        """What a pass reads, (E, …) each."""
        kept = self.variables.values()
        return [part for variable in kept for part in pass_variables(variable, training)]

    def row(self, edge: int) -> int:
        return edge

    def apply(self, run: ForwardPass, state: CellState, edge: int, strides: int, weight: Any) -> Any:
        """weight · primitive(state) on one edge; a BatchNorm at the end takes the weight as its scale."""
        steps, outputs, quartered = self.layers[strides].steps, state.tensor, False
        weighted = isinstance(steps[-1], BatchNormalization)
        for position, step in enumerate(steps):
            variable = self.variables.get(position)
            if isinstance(step, keras.layers.ReLU):
                outputs = state.rectified if position == 0 else run.apply(ops.relu, outputs)
            elif isinstance(step, BatchNormalization):
                scale = weight if weighted and position == len(steps) - 1 else None
                outputs = run.normalize(variable, outputs, edge, scale)
            elif position == 1 and isinstance(step, DepthwiseConv2D):
                outputs, quartered = self._from_state(run, state, step, variable, edge)
            else:
                if isinstance(step, DepthwiseConv2D):
                    outputs, quartered = together(run, outputs, quartered), False
                outputs = convolve(run, step, outputs, run.kernel(variable, edge))
        outputs = together(run, outputs, quartered)
        return outputs if weighted else run.apply(kernels.weigh, outputs, weight)

    def state_slots(self, name: str, edge: int) -> Iterator[tuple[str, Slot]]:
        """Where the arrays of one edge go, by the official name of the primitive on it."""
        prefix = name if isinstance(self.layers[1], SplitConv) else f"{name}.op"
        for position, variable in self.variables.items():
            place = f"{prefix}.{position}"
            if isinstance(variable, StackedBatchNorm):
                yield from variable.state_slots(place, edge)
            else:
                depthwise = isinstance(self.layers[1].steps[position], DepthwiseConv2D)
                yield f"{place}.weight", Slot(variable, DEPTHWISE if depthwise else CONV, edge)

    @staticmethod
    def _from_state(
        run: ForwardPass, state: CellState, step: Conv2D | DepthwiseConv2D, variable: Any, edge: int
    ) -> tuple[Any, bool]:
        """The first depthwise convolution, on what the edges of a state share; and whether it left quarters apart."""
        dilated, strided = max(step.dilation_rate) == 2, max(step.strides) == 2
        if dilated and strided:
            return run.apply(kernels.depthwise_conv, state.every_second, run.kernel(variable, edge)), False
        if dilated and state.even:
            outputs = run.apply(kernels.depthwise_conv, state.quarters, run.quartered_kernel(variable, edge))
            _, height, width, channels = outputs.shape
            apart, beside = (-1, height, width, channels), (-1, height, width * 4, channels // 4)
            return run.rearrange(reshape_to(beside), outputs, reshape_to(apart)), True
        return convolve(run, step, state.rectified, run.kernel(variable, edge)), False


def convolve(run: ForwardPass, step: Conv2D | DepthwiseConv2D, inputs: Any, kernel: Any) -> Any:
    """The convolution of a layer with a kernel that is not its own."""
    if max(step.strides) == max(step.dilation_rate) == 1:
        if isinstance(step, DepthwiseConv2D):
            return run.apply(kernels.depthwise_conv, inputs, kernel)
        if max(step.kernel_size) == 1:
            return run.apply(kernels.pointwise_conv, inputs, kernel)
    return run.apply(step.convolve, inputs, kernel)


def in_quarters(image: Any) -> Any:
    """(B, H, W, C) → (B, H/2, W/2, 4·C): four interleaved quarters side by side in the channels."""
    return ops.space_to_depth(image, 2)


def from_quarters(quarters: Any) -> Any:
    """The inverse of `in_quarters`."""
    return ops.depth_to_space(quarters, 2)


def reshape_to(shape: tuple[int, ...]) -> Callable[[Any], Any]:
    """A function that reshapes a tensor."""
    return lambda tensor: ops.reshape(tensor, shape)


def together(run: ForwardPass, outputs: Any, quartered: bool) -> Any:
    """(B, H/2, 4·W/2, C), the quarters side by side → (B, H, W, C)."""
    if not quartered:
        return outputs
    _, height, width, channels = outputs.shape
    apart = reshape_to((-1, height, width // 4, 4 * channels))
    beside = reshape_to((-1, height, width, channels))
    return run.rearrange(
        lambda quarters: from_quarters(apart(quarters)), outputs, lambda image: beside(in_quarters(image))
    )


class SharedPool:
    """A pool and its BatchNorm. They are the same on all edges that leave a state, so each state has them once."""

    def __init__(self, cell: Any, name: str, layers: Mapping[int, keras.layers.Layer], num_edges: int) -> None:
        self.layers, self.name = layers, name
        self.norm = StackedBatchNorm(cell, f"{name}.1", num_edges, cell.filters)

    def variables_on(self, training: bool) -> list[Any]:
        return pass_variables(self.norm, training)

    def row(self, edge: int) -> int:
        return edge

    def apply(self, run: ForwardPass, state: CellState, edge: int, strides: int, weight: Any) -> Any:
        # `call`, for the layer itself would cast to the policy it was made under (see `precision.full_precision`).
        pooled = state.shared((self.name, strides), lambda: run.apply(self.layers[strides].call, state.tensor))
        if not run.training:
            return run.normalize(self.norm, pooled, edge, weight)
        key = (self.name, strides, "normalized")
        outputs, statistics = state.shared(key, lambda: run.normalize_batch(self.norm, pooled))
        run.remember(self.norm, edge, statistics)
        return run.apply(kernels.weigh, outputs, weight)

    def state_slots(self, name: str, edge: int) -> Iterator[tuple[str, Slot]]:
        return self.norm.state_slots(f"{name}.1", edge)


class StackedSkip:
    """skip_connect: the state itself, and at stride 2 a FactorizedReduce with the kernels of those edges stacked."""

    def __init__(self, cell: Any, name: str, rows: Mapping[int, int]) -> None:
        self.rows = rows  # edge of stride 2 → row of the stacks
        if rows:
            half = Conv2D(cell.filters // 2)
            self.kernels = [
                stacked_kernel(cell, half, len(rows), cell.filters, f"{name}.{part}") for part in ("conv_1", "conv_2")
            ]
            self.norm = StackedBatchNorm(cell, f"{name}.bn", len(rows), cell.filters)

    def variables_on(self, training: bool) -> list[Any]:
        return [*self.kernels, *pass_variables(self.norm, training)] if self.rows else []

    def row(self, edge: int) -> int | None:
        return self.rows.get(edge)

    def apply(self, run: ForwardPass, state: CellState, edge: int, strides: int, weight: Any) -> Any:
        if strides == 1:
            return run.apply(kernels.weigh, state.tensor, weight)
        row, halves = self.rows[edge], (state.every_second, state.every_second_shifted)
        stacks = [run.kernel(stack, row) for stack in self.kernels]
        reduced = [run.apply(kernels.pointwise_conv, half, kernel) for half, kernel in zip(halves, stacks)]
        return run.normalize(self.norm, run.apply(topology.concatenate, *reduced), row, weight)

    def state_slots(self, name: str, edge: int) -> Iterator[tuple[str, Slot]]:
        if edge in self.rows:
            row = self.rows[edge]
            for part, variable in zip(("conv_1", "conv_2"), self.kernels):
                yield f"{name}.{part}.weight", Slot(variable, CONV, row)
            yield from self.norm.state_slots(f"{name}.bn", row)


class LayerPerEdge:
    """Any other primitive, such as one that was added from outside: a layer of its own on each edge, and its BatchNorm.

    Args:
        layers: edge → a built layer.
        norms: edge → its built BatchNormalization, for a pool; empty without.
    """

    def __init__(self, layers: Mapping[int, keras.layers.Layer], norms: Mapping[int, BatchNormalization]) -> None:
        self.layers, self.norms = layers, norms

    def apply(self, run: ForwardPass, state: CellState, edge: int, strides: int, weight: Any) -> Any:
        outputs = self.layers[edge](state.tensor, training=run.training)
        norm = self.norms.get(edge)
        return kernels.weigh(outputs if norm is None else norm(outputs, training=run.training), weight)

    def state_slots(self, name: str, edge: int) -> Iterator[tuple[str, Slot]]:
        yield from layer_slots(self.layers[edge], name)
        if edge in self.norms:
            yield from layer_slots(self.norms[edge], f"{name}.1")


def pass_variables(variable: Any, training: bool) -> list[Any]:
    """What a pass reads of a kernel or of a StackedBatchNorm, which in training has nothing to read."""
    if not isinstance(variable, StackedBatchNorm):
        return [variable]
    return [] if training else [variable.mean, variable.variance]


def stacked_kernel(cell: Any, layer: Conv2D | DepthwiseConv2D, num_edges: int, channels: int, name: str) -> Any:
    """A variable (E, k_h, k_w, C, …) for `layer` on E edges, drawn as PyTorch draws it."""
    shape = layer.kernel_shape(channels)
    fan_in = shape[0] * shape[1] * (1 if isinstance(layer, DepthwiseConv2D) else channels)
    settings = {"shape": (num_edges, *shape), "initializer": fan_in_uniform(fan_in), "autocast": False}
    return cell.add_weight(name=f"{name}.weight", **settings)
