"""Official state dicts into sharpkeras models: arrays by official key names, never torch itself.

Positions in PyTorch's `nn.Sequential` are positions in `layers.LayerSequence`, and layers of a CellNetwork carry the
names of the official modules, so that little is left to say here. What has weights elsewhere says so itself: a supernet
by its method `state_slots()`, a layer by `state_slots(name)`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from sharpkeras.errors import RunError
from sharpkeras.layers import ConvBN, FactorizedReduce, LayerSequence, SplitConv
from sharpkeras.spaces.architecture import first_of

CONV = (2, 3, 1, 0)  # O I H W → H W I O
DEPTHWISE = (2, 3, 0, 1)  # C 1 H W → H W C 1
DENSE = (1, 0)  # out in → in out
VECTOR = (0,)
IGNORED = "num_batches_tracked"
NAMED = 8  # keys in a message about many


class Slot(NamedTuple):
    """Where an official array goes: a variable, or one row of a variable stacked over edges; axes None as they are."""

    variable: Any
    axes: tuple | None
    row: int | None = None


def load_state(model: keras.Model, state: Mapping[str, np.ndarray]) -> None:
    """Sets every weight of a final network or a supernet from an official state dict.

    Args:
        model: a built final network or supernet.
        state: official key → array in PyTorch's layout. `num_batches_tracked` entries are ignored, and so is the prefix
            `module.` that DataParallel leaves.

    Raises:
        RunError: if a key is not used, a variable is not set, or a shape does not fit; it names them.
    """
    arrays = {key.removeprefix("module."): value for key, value in state.items() if not key.endswith(IGNORED)}
    slots = state_slots(model)
    unused, unset = sorted(set(arrays) - set(slots)), sorted(set(slots) - set(arrays))
    if unused or unset:
        found = (("unused keys", unused), ("unset variables", unset))
        parts = [f"{len(keys)} {what} ({first_of(keys, NAMED)})" for what, keys in found if keys]
        raise RunError("the state dict does not belong to this model: " + ", ".join(parts))
    values = {id(slot.variable): slot.variable.numpy().copy() for slot in slots.values()}
    other = {}
    for key, slot in slots.items():
        target = values[id(slot.variable)] if slot.row is None else values[id(slot.variable)][slot.row]
        array = arrays[key]
        array = array if slot.axes is None or array.ndim != len(slot.axes) else np.transpose(array, slot.axes)
        if array.shape == target.shape:
            target[...] = array
        else:
            other[key] = array.shape, target.shape
    if other:
        seen, allowed = next(iter(other.values()))
        problem = f"{len(other)} arrays of another shape ({first_of(sorted(other), NAMED)})"
        raise RunError(problem, where=next(iter(other)), seen=seen, allowed=allowed)
    for slot in slots.values():
        slot.variable.assign(values[id(slot.variable)])


def state_dict(model: keras.Model) -> dict[str, np.ndarray]:
    """The way back: official key → array in PyTorch's layout, for every weight of a final network or a supernet."""
    arrays = {}
    for key, slot in state_slots(model).items():
        value = np.asarray(slot.variable)
        value = value if slot.row is None else value[slot.row]
        axes = None if slot.axes is None else np.argsort(slot.axes)
        arrays[key] = np.ascontiguousarray(value if axes is None else np.transpose(value, axes))
    return arrays


def state_slots(model: keras.Model) -> dict[str, Slot]:
    """Official key → Slot for every weight of a built final network or supernet."""
    slots = dict(model.state_slots() if hasattr(model, "state_slots") else _network_slots(model))
    named = {id(slot.variable) for slot in slots.values()}
    names = [v.path for v in model.weights if id(v) not in named and not _is_random_state(v)]
    if names:
        raise RunError(f"no official name is known for {len(names)} variables ({first_of(names, NAMED)})")
    return slots


def _is_random_state(variable: Any) -> bool:
    """Drop path's rate and the states of random generators are no weights."""
    return variable.name in ("drop_path_rate", "seed_generator_state")


def _network_slots(model: Any) -> Iterator[tuple[str, Slot]]:
    for layer in model.layers:
        yield from layer_slots(layer, layer.name)


def layer_slots(layer: keras.Layer, name: str) -> Iterator[tuple[str, Slot]]:
    """The slots of a layer whose official module is called `name`; of other people's weights, what Keras calls them."""
    official = dict(_module_slots(layer, name))
    yield from official.items()
    named = {id(slot.variable) for slot in official.values()}
    for number, variable in enumerate(layer.weights):
        if id(variable) not in named and not _is_random_state(variable):
            yield f"{name}.{number}.{variable.name}", Slot(variable, None)


def _module_slots(layer: Any, name: str) -> Iterator[tuple[str, Slot]]:
    """The slots of what the official code has too."""
    if hasattr(layer, "state_slots"):
        yield from layer.state_slots(name)
    elif isinstance(layer, LayerSequence):
        prefix = name if isinstance(layer, (ConvBN, SplitConv)) else f"{name}.op"
        for position, step in enumerate(layer.steps):
            yield from layer_slots(step, f"{prefix}.{position}")
    elif isinstance(layer, FactorizedReduce):
        for part, step in (("conv_1", layer.conv_1), ("conv_2", layer.conv_2), ("bn", layer.norm)):
            yield from layer_slots(step, f"{name}.{part}")
    elif isinstance(layer, keras.layers.BatchNormalization):
        if layer.scale:
            yield f"{name}.weight", Slot(layer.gamma, VECTOR)
        if layer.center:
            yield f"{name}.bias", Slot(layer.beta, VECTOR)
        yield f"{name}.running_mean", Slot(layer.moving_mean, VECTOR)
        yield f"{name}.running_var", Slot(layer.moving_variance, VECTOR)
    elif isinstance(layer, keras.layers.Dense):
        yield f"{name}.weight", Slot(layer.kernel, DENSE)
        yield from _bias(layer, name)
    elif isinstance(layer, keras.layers.DepthwiseConv2D):
        yield f"{name}.weight", Slot(layer.kernel, DEPTHWISE)
        yield from _bias(layer, name)
    elif isinstance(layer, keras.layers.Conv2D):
        yield f"{name}.weight", Slot(layer.kernel, CONV)
        yield from _bias(layer, name)


def _bias(layer: Any, name: str) -> Iterator[tuple[str, Slot]]:
    if layer.use_bias:
        yield f"{name}.bias", Slot(layer.bias, VECTOR)
