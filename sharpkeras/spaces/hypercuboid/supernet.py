"""The supernet of a HyperCuboid: every choice at every position, mixed by weights that come in as an input."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from sharpkeras.backend import fused_ops
from sharpkeras.backend.rematerialization import recomputed
from sharpkeras.layers import AveragePool, BatchNormalization, LayerSequence, MaxPool
from sharpkeras.spaces.cached_state import CachedState
from sharpkeras.spaces.final_network import dense
from sharpkeras.spaces.state_dict import Slot, layer_slots

# First steps that layers share, and the settings that tell them apart (`get_config` imports TensorFlow under JAX).
SHARED = {
    keras.layers.ReLU: ("max_value", "negative_slope", "threshold"),
    MaxPool: ("pool_size", "strides"),
    AveragePool: ("pool_size", "strides", "counted_padding"),
}


class CuboidState(CachedState):
    """A state with what the layers that read it have in common: a first step without weights is computed once."""

    def after(self, step: keras.Layer) -> Any:
        """The output of a step in SHARED, by what it computes."""
        key = type(step), *(getattr(step, setting) for setting in SHARED[type(step)])
        return self.shared(key, lambda: step(self.tensor))


class CuboidSupernet(keras.Model):
    """All layers of a HyperCuboid at once (Fig. 6).

    Args:
        stems: the layers that read the image; their outputs are the states of the first position.
        grids: per position, per state, the layers of its choices.
        outcomes: per position an array (S_l, K): which state of the next position a layer adds to.
        heads: per final state the layer that brings it to the common shape.
        num_classes: of the logits.

    Inputs: images (B, H, W, C) and a list of mixing weights (S_l, K), one per position. Output: logits
    (B, num_classes), float32. `build((None, H, W, C))` before the first call.

    With `remat` set, a training pass keeps the states alone and computes each layer again for the gradient.
    """

    remat = False

    def __init__(
        self,
        stems: Sequence[keras.layers.Layer],
        grids: Sequence[Sequence[Sequence[keras.layers.Layer]]],
        outcomes: Sequence[Any],
        heads: Sequence[keras.layers.Layer],
        num_classes: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # the mixing weights reach the sums as they are
        self.stems, self.grids, self.heads = stems, grids, heads
        self.outcomes, self.num_classes = [np.asarray(outcome).tolist() for outcome in outcomes], num_classes

    def build(self, images_shape: tuple[int | None, ...]) -> None:
        """Makes all variables for images of shape (None, H, W, C); nothing is traced."""
        shapes = [_built(stem, images_shape) for stem in self.stems]
        for grid, outcomes in zip(self.grids, self.outcomes):
            after = {}
            for layers, targets, shape in zip(grid, outcomes, shapes):
                for layer, target in zip(layers, targets):
                    after[target] = _built(layer, shape)
            shapes = [after[target] for target in sorted(after)]
        features: list[Any] = [_built(head, shape)[-1] for head, shape in zip(self.heads, shapes)]
        self.classifier = dense(self.num_classes, features[0])
        self.classifier.build((None, features[0]))

    def call(self, inputs: Sequence[Any], training: bool | None = None) -> Any:
        images, mixing_weights = inputs
        states = [stem(images, training=training) for stem in self.stems]
        for grid, outcomes, weights in zip(self.grids, self.outcomes, mixing_weights):
            states = self._position([CuboidState(state) for state in states], grid, outcomes, weights, training)
        # The mean of a sum is the sum of means: final states may have different sizes.
        pooled = [
            ops.mean(ops.cast(h(s, training=training), self.classifier.compute_dtype), axis=(1, 2))
            for h, s in zip(self.heads, states)
        ]
        return self.classifier(sum(pooled[1:], pooled[0]))

    def state_slots(self) -> Iterator[tuple[str, Slot]]:
        """Where the arrays of an official state dict go."""
        layers = [layer for grid in self.grids for row in grid for layer in row]
        for layer in (*self.stems, *layers, *self.heads, self.classifier):
            yield from layer_slots(layer, layer.name)

    def _position(
        self,
        states: Sequence[CuboidState],
        grid: Sequence[Sequence[keras.layers.Layer]],
        outcomes: Sequence[Sequence[int]],
        weights: Any,
        training: bool | None,
    ) -> list[Any]:
        """The states after a position: for each the sum of w · layer(state) over what leads to it."""
        weights = ops.cast(weights, fused_ops.at_least_float32(self.compute_dtype))
        sums: dict[int, Any] = {}
        for state, layers, targets, row in zip(states, grid, outcomes, ops.unstack(weights, num=len(states))):
            for layer, target, weight in zip(layers, targets, ops.unstack(row, num=len(layers))):
                add = _add_recomputed if self.remat and training else _add
                sums[target] = add(sums.get(target), layer, state, weight, training)
        return [sums[target] for target in sorted(sums)]


def apply(layer: keras.layers.Layer, state: CuboidState, weight: Any, training: bool | None = None) -> Any:
    """weight · layer(state), with the state's shared first steps, and the weight in the scale of a last BatchNorm."""
    if not isinstance(layer, LayerSequence):
        return fused_ops.weigh(_call(layer, state.tensor, training), weight)
    first, *rest = layer.steps
    outputs = state.after(first) if type(first) in SHARED else _call(first, state.tensor, training)
    if rest and isinstance(rest[-1], BatchNormalization):
        for step in rest[:-1]:
            outputs = _call(step, outputs, training)
        return rest[-1](outputs, training=training, weight=weight)
    for step in rest:
        outputs = _call(step, outputs, training)
    return fused_ops.weigh(outputs, weight)


def _add(before: Any, layer: keras.layers.Layer, state: CuboidState, weight: Any, training: bool | None) -> Any:
    """`before`, which may be None, plus `apply`."""
    term = apply(layer, state, weight, training)
    return term if before is None else before + term


def _add_recomputed(
    before: Any, layer: keras.layers.Layer, state: CuboidState, weight: Any, training: bool | None
) -> Any:
    """`_add`, computed again for the gradient, so without what layers share. Sum by sum they go one after the other."""

    def run(tensor: Any, weight: Any, before: Any = None) -> Any:
        return _add(before, layer, CuboidState(tensor), weight, training)

    rest = () if before is None else (before,)
    return recomputed(run, layer.variables)(state.tensor, weight, *rest)


def _call(layer: keras.layers.Layer, inputs: Any, training: bool | None) -> Any:
    return layer(inputs, training=training) if takes_training(layer) else layer(inputs)


def takes_training(layer: keras.layers.Layer) -> bool:
    """Whether a layer behaves differently in training, and is told so when it is called."""
    return "training" in inspect.signature(layer.call).parameters


def _built(layer: keras.layers.Layer, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """The output shape of a layer that is now built for `shape`, both with the batch."""
    if not layer.built:
        if type(layer).build is keras.layers.Layer.build:
            layer(keras.KerasTensor(shape))  # Keras builds what it holds, if anything, when it is first called
        else:
            layer.build(shape)
            build_parts(layer, shape)
    return layer.compute_output_shape(shape)


def build_parts(layer: keras.layers.Layer, shape: tuple[int | None, ...]) -> None:
    """Builds the layers that a layer has made in its own `build`: as Keras does, by calling it once, symbolically.

    Else they would get their weights at the first step, of which no optimizer was told.
    """
    parts = layer._flatten_layers(include_self=False)
    if any(not part.built and type(part).build is not keras.layers.Layer.build for part in parts):
        with layer._open_name_scope():  # which their weights are named by
            keras.Operation.compute_output_spec(layer, keras.KerasTensor(shape))
