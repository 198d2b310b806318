"""The final network of a path: the layers that it chose, and nothing else (§4.1)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras

from sharpkeras.errors import ConfigError
from sharpkeras.spaces.final_network import FinalNetwork, classify, image_input
from sharpkeras.spaces.hypercuboid.path import Path
from sharpkeras.spaces.hypercuboid.supernet import build_parts

if TYPE_CHECKING:
    from sharpkeras.spaces.hypercuboid.space import HyperCuboid


@keras.saving.register_keras_serializable("sharpkeras")
class PathNetwork(FinalNetwork):
    """The network of a Path; of a path with several routes, which share their layers where they agree, the sum.

    Args:
        cuboid: HyperCuboid.
        path: Path.
        input_shape: (H, W, C).
        num_classes: of the logits.

    Raises:
        ConfigError: for a path that is none of the cuboid, or a head that makes no images.
    """

    def __init__(
        self,
        cuboid: "HyperCuboid",
        path: Path,
        input_shape: tuple[int, int, int] = (32, 32, 3),
        num_classes: int = 10,
        name: str | None = None,
    ) -> None:
        routes = [cuboid.route(route, f"routes[{index}]") for index, route in enumerate(path.routes)]
        images = image_input(input_shape)
        states = _stems(cuboid, routes, images)
        stages = [((images,), tuple(states.values()))]
        for position in range(len(cuboid.positions)):
            steps, before = sorted({route[position] for route in routes}), tuple(states.values())
            states = _position(cuboid, position, steps, states)
            stages.append((before, tuple(states.values())))
        heads = [_applied(cuboid.make_head(f"base.{i}"), state) for i, (_, state) in enumerate(sorted(states.items()))]
        for head in heads:
            if len(head.shape) != 4:
                raise ConfigError("the head makes no images", where="head", seen=head.shape, allowed="(None, H, W, C)")
        logits = classify(heads, num_classes)
        stages.append((tuple(states.values()), (logits,)))
        super().__init__(images, {"logits": logits}, stages, name=name)


def _stems(cuboid: "HyperCuboid", routes: Sequence[Any], images: Any) -> dict[int, Any]:
    """The states of the first position that the routes begin with."""
    begun = sorted({route[0][0] for route in routes})
    stems = {s: cuboid.make_stem(cuboid.stem_choices[s], name=f"stem.{i}") for i, s in enumerate(begun)}
    return {s: _applied(stem, images) for s, stem in stems.items()}


def _position(
    cuboid: "HyperCuboid", position: int, steps: Sequence[tuple[int, int]], states: Mapping[int, Any]
) -> dict[int, Any]:
    """The states after a position, index → tensor. A layer that stands alone has the official name."""
    terms: dict[int, list[Any]] = {}
    for number, (state, choice) in enumerate(steps):
        name = f"op_grid.{position}" if len(steps) == 1 else f"op_grid.{position}.{number}"
        layer = cuboid.make_layer(position, cuboid.choices[choice], name=name)
        target = int(cuboid.lattice[1][position][state, choice])
        terms.setdefault(target, []).append(_applied(layer, states[state]))
    return {target: _add(outputs) for target, outputs in terms.items()}


def _applied(layer: keras.layers.Layer, state: Any) -> Any:
    """What a layer makes of a state, with all its weights made."""
    outputs = layer(state)
    build_parts(layer, state.shape)
    return outputs


def _add(tensors: Sequence[Any]) -> Any:
    return sum(tensors[1:], tensors[0])
