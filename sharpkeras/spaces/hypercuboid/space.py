"""Differentiable hyperparameter grid search: a grid of any discrete choices, searched by gradient (§4.1, Fig. 6)."""

import difflib
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import keras
import networkx as nx
import numpy as np
from keras import ops
from scipy.special import softmax

from sharpkeras.errors import ConfigError
from sharpkeras.layers import ConvBN, ReLUConvBN
from sharpkeras.spaces import Costs, SearchSpace
from sharpkeras.spaces.architecture import Place, check_name
from sharpkeras.spaces.hypercuboid import costs as cuboid_costs
from sharpkeras.spaces.hypercuboid import network, path_search
from sharpkeras.spaces.hypercuboid.path import MAX_AXES, MAX_STEPS, Path, is_label
from sharpkeras.spaces.hypercuboid.supernet import CuboidSupernet
from sharpkeras.spaces.search_space import Measure
from sharpkeras.weighting import WEIGHTINGS

Shape = tuple[int, int, int]  # (H, W, C)

ALPHA_DEVIATION = 1e-3
MOST = f"at most {MAX_STEPS - 1}"  # positions
NOMINAL_IMAGE = (256, 256, 3)  # on which layers show whether their outputs have one shape
STEM, HEAD = functools.partial(ConvBN, 16), functools.partial(ReLUConvBN, 64)


class HyperCuboid(SearchSpace[Path]):
    """A grid of layers at each of L positions: one choice on every axis makes a layer (§4.1).

    At a position every choice is applied to every state of the position before it. Outputs of one shape are added into
    one state, weighted by a softmax over the whole grid of the position; the next position reads the sums. What is
    searched is a path: one choice per position.

        HyperCuboid(
            axes={"filters": (16, 32), "kernel_size": (3, 5)},
            layer=SharpSepConv,
            positions=[{}, {"strides": 2}, {}],
        )

    Args:
        axes: name → the values to choose from; a mapping gives values labels of their own.
        layer: (**choice, **position) → a Keras layer that is not built.
        positions: what the layers of a position have in common, such as {"strides": 2}; a number is that many of {}.
        stem: (**choice) → the layer that reads the image.
        stem_axes: axes of the stem: each choice is a state of the first position, without a weight of its own.
        head: () → a layer; each final state has its own, which brings it to the shape that is classified.
        weighting: "scalar" or "max_w" (Eq. 3).
        name: of the space, in the files of its paths; a plain file name.

    Raises:
        ConfigError: for an axis without a choice, values that share a label, an axis that a position fixes, or what
            the file of a path could not say; and from the methods, for a layer that cannot be made or does not fit.
    """

    def __init__(
        self,
        axes: Mapping[str, Iterable[Any]],
        layer: Callable[..., keras.Layer],
        positions: int | Iterable[Mapping[str, Any]] = 4,
        stem: Callable[..., keras.Layer] = STEM,
        stem_axes: Mapping[str, Iterable[Any]] | None = None,
        head: Callable[[], keras.Layer] = HEAD,
        weighting: str = "max_w",
        name: str = "hypercuboid",
    ) -> None:
        self.axes, self.stem_axes = _axes(axes, "axes"), _axes(stem_axes or {}, "stem_axes")
        self.positions = [{}] * positions if isinstance(positions, int) else [dict(p) for p in positions]
        self.layer, self.stem, self.head = layer, stem, head
        self.weighting, self.name = weighting, _plain_name(name)
        if weighting not in WEIGHTINGS:
            raise ConfigError("unknown weighting", where="weighting", seen=weighting, allowed=", ".join(WEIGHTINGS))
        if not self.axes or not self.positions:
            raise ConfigError("a cuboid needs an axis and a position", seen=(list(self.axes), len(self.positions)))
        if len(self.positions) >= MAX_STEPS:  # the stem is the first step of a path
            raise ConfigError("more positions than the file of a path holds", seen=len(self.positions), allowed=MOST)
        for number, position in enumerate(self.positions):
            if not position.keys().isdisjoint(self.axes):
                problem, seen = "a position fixes what an axis chooses", sorted(position.keys() & self.axes.keys())
                raise ConfigError(problem, where=f"positions[{number}]", seen=seen)

    @classmethod
    def from_recipe(cls, recipe: Any) -> Self:
        """The space with its own sizes and the weighting of a SearchRecipe, for a subclass that has a row in SPACES."""
        return cls(weighting=recipe.weighting)  # type: ignore[call-arg]

    @property
    def strategies(self) -> tuple[str, ...]:
        """The names in `path_search.STRATEGIES`."""
        return tuple(path_search.STRATEGIES)

    def as_dict(self) -> dict[str, Any]:
        axes, stem_axes = ({axis: list(values) for axis, values in a.items()} for a in (self.axes, self.stem_axes))
        positions = [{name: _label(value) for name, value in position.items()} for position in self.positions]
        return {
            "name": self.name,
            "axes": axes,
            "positions": positions,
            "stem_axes": stem_axes,
            "weighting": self.weighting,
        }

    # --- the grid ---

    @property
    def num_choices(self) -> int:
        """K, the choices at each position for each state that it reads."""
        return math.prod(len(values) for values in self.axes.values())

    @functools.cached_property
    def choices(self) -> list[tuple]:
        """The K choices as tuples of (axis, label), the last axis running fastest."""
        return _grid(self.axes)

    @functools.cached_property
    def stem_choices(self) -> list[tuple]:
        return _grid(self.stem_axes)

    def make_layer(self, position: int, choice: tuple, name: str | None = None) -> keras.Layer:
        """The unbuilt layer of a choice, a tuple of (axis, label), at a position."""
        return _made(self.layer, {**_values(self.axes, choice), **self.positions[position]}, choice, name)

    def make_stem(self, choice: tuple, name: str | None = None) -> keras.Layer:
        return _made(self.stem, _values(self.stem_axes, choice), choice, name)

    def make_head(self, name: str | None = None) -> keras.Layer:
        return _made(self.head, {}, (), name)

    @functools.cached_property
    def lattice(self) -> tuple[list[list[Shape]], list[np.ndarray]]:
        """The states before each position and after the last, and where choices lead.

        Returns:
            shapes: L + 1 lists of S_l shapes, those of a 256×256 image.
            outcomes: L integer arrays (S_l, K): the state of the next position that a choice adds to.
        """
        shapes = [[_output_shape(self.make_stem(choice), NOMINAL_IMAGE, choice) for choice in self.stem_choices]]
        outcomes = []
        for position in range(len(self.positions)):
            rows = [
                [_output_shape(self.make_layer(position, choice), shape, choice) for choice in self.choices]
                for shape in shapes[-1]
            ]
            shapes.append(list(dict.fromkeys(shape for row in rows for shape in row)))
            outcomes.append(np.array([[shapes[-1].index(shape) for shape in row] for row in rows]))
        return shapes, outcomes

    def untested_layers(self, input_shape: Shape) -> Iterable[tuple[str, dict, keras.Layer, tuple[int, ...]]]:
        """(where it stands, choice, layer that is not built, shape that it reads) of each that differs from the others.

        For images (H, W, C). Positions with the same options have the same layers.
        """
        shapes = self.state_shapes(input_shape)
        found = {("stem", choice, tuple(input_shape)): self.make_stem(choice) for choice in self.stem_choices}
        for number, (position, states) in enumerate(zip(self.positions, shapes)):
            first = self.positions.index(position)
            for shape, choice in itertools.product(states, self.choices):
                found.setdefault((f"positions[{first}]", choice, shape), self.make_layer(number, choice))
        found |= {("head", (), shape): self.make_head() for shape in shapes[-1]}
        for (where, choice, shape), layer in found.items():
            yield where, dict(choice), layer, shape

    # --- the protocol of spaces ---

    def init_alphas(self, seed: int) -> list[np.ndarray]:
        """An array (S_l, *sizes of the axes) of logits per position: 1e-3 times a standard normal."""
        generator = np.random.default_rng(seed)
        return [generator.normal(scale=ALPHA_DEVIATION, size=shape).astype("float32") for shape in self._alpha_shapes]

    @property
    def _alpha_shapes(self):
        sizes = [len(values) for values in self.axes.values()]
        return [(len(states), *sizes) for states in self.lattice[0][:-1]]

    def mixing_weights(self, alphas: Sequence[Any]) -> list[Any]:
        """Softmax over the whole grid of a position, then the weighting: tensors (S_l, K) of the alphas' type."""
        weigh, weights = WEIGHTINGS[self.weighting], [ops.softmax(ops.reshape(a, (-1,))) for a in alphas]
        return [ops.reshape(weigh(w), (-1, self.num_choices)) for w in weights]

    def supernet(self, input_shape: Shape = (32, 32, 3), num_classes: int = 10) -> CuboidSupernet:
        """The built CuboidSupernet of this space for images (H, W, C)."""
        shapes, outcomes = self.lattice
        self.state_shapes(input_shape)  # which says what cannot be applied, or added
        stems = [self.make_stem(choice, name=f"stem.{i}") for i, choice in enumerate(self.stem_choices)]
        grids = [
            [
                [self.make_layer(p, choice, name=self.layer_name(p, s, k)) for k, choice in enumerate(self.choices)]
                for s in range(len(states))
            ]
            for p, states in enumerate(shapes[:-1])
        ]
        heads = [self.make_head(f"base.{i}") for i in range(len(shapes[-1]))]
        supernet = CuboidSupernet(stems, grids, outcomes, heads, num_classes)
        supernet.build((None, *input_shape))
        return supernet

    def layer_name(self, position: int, state: int, choice: int) -> str:
        """The name of a layer of the supernet, under which `state_dict` knows it."""
        return f"op_grid.{position}.{state}.{choice}"

    def weights(self, alphas: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Softmax over each position's grid: arrays (S_l, K) float64 that sum to 1."""
        if [np.shape(a) for a in alphas] != self._alpha_shapes or not all(np.isfinite(a).all() for a in alphas):
            seen = [f"{np.shape(a)}{'' if np.isfinite(a).all() else ' with NaN or infinity'}" for a in alphas]
            raise ConfigError("are no alphas of this space", where=self.name, seen=seen, allowed=self._alpha_shapes)
        return [softmax(np.asarray(a, "float64")).reshape(-1, self.num_choices) for a in alphas]

    def graph(self, alphas: Sequence[np.ndarray]) -> nx.DiGraph:
        """The graph of all paths, with the softmax weights on its edges; see `path_search.build`."""
        return path_search.build(self.weights(alphas), self.lattice[1])

    def extract(
        self,
        alphas: Sequence[np.ndarray],
        strategy: str = "longest",
        name: str | None = None,
        costs: Costs | None = None,
        limit: float | None = None,
    ) -> Path:
        """The Path that a strategy finds, by default the one with the largest sum of softmax weights.

        Args:
            alphas: L arrays (S_l, *sizes of the axes).
            strategy: a name in `path_search.STRATEGIES`.
            costs, limit: Costs and the most that the network may cost; of all paths within it, the longest.

        Raises:
            ConfigError: when no path is within the limit, for an unknown strategy or alphas of another shape, or for
                a limit with a strategy that knows none.
        """
        if strategy not in path_search.STRATEGIES:
            allowed = ", ".join(path_search.STRATEGIES)
            raise ConfigError("unknown strategy", where="strategy", seen=strategy, allowed=allowed)
        if limit is not None and strategy != "longest":
            problem = "within a limit the longest path is found, and no other strategy can be chosen"
            raise ConfigError(problem, where="strategy", seen=strategy, allowed="longest")
        if limit is not None:
            return self.path([cuboid_costs.longest_within(self, self.weights(alphas), costs, limit)], name)
        return self.path([path_search.choices(path_search.STRATEGIES[strategy](self.graph(alphas)))], name)

    def extract_routes(
        self,
        alphas: Sequence[np.ndarray],
        routes: int,
        cost: Callable[[Path], float] | None = None,
        limit: float | None = None,
    ) -> Path:
        """The Path of several routes with the largest sum of softmax weights (§5), no choice in two of them.

        Args:
            alphas: L arrays (S_l, *sizes of the axes).
            routes: how many; within a limit the most.
            cost, limit: Path → what its network costs, and the most that it may cost.

        Raises:
            ConfigError: for more routes than there are, or when not even one is within the limit.
        """
        paths = self.graph(alphas)
        if limit is None:
            return self._of_nodes(path_search.flow_paths(paths, routes))
        return self._of_nodes(
            path_search.within_budget(paths, lambda found: cost(self._of_nodes(found)), limit, routes)
        )

    def _of_nodes(self, found):
        """The Path of paths as lists of nodes."""
        return self.path([path_search.choices(nodes) for nodes in found])

    def decisions(self, alphas: Sequence[np.ndarray]) -> dict[str, list]:
        """Each position: the logits of its grid (S_l·K,), and the kinds of the choices."""
        kinds = [self.kind(choice) for choice in self.choices]
        grids = [np.ravel(a) for a in alphas]
        return {"grids": [(grid, kinds * (len(grid) // len(kinds))) for grid in grids]}

    def kinds_of(self, architecture: Path) -> list[str]:
        """The kinds of the choices of a Path."""
        return [self.kind(choice) for route in architecture.routes for choice in route[1:]]

    def kind(self, choice: tuple) -> str:
        """What a choice is to the collapse watch: "none", "skip", "pool" or "conv"."""
        return "conv"

    def sample(self, seed: int, name: str | None = None) -> Path:
        """A random Path: the stem and every choice equally likely, a function of `seed` alone."""
        generator = np.random.default_rng(seed)
        route = [generator.integers(len(self.stem_choices))]
        route += generator.integers(self.num_choices, size=len(self.positions)).tolist()
        routes = (tuple([self.stem_choices[route[0]], *(self.choices[k] for k in route[1:])]),)
        return Path(self.name, routes, name)

    def network(
        self, architecture: Path, input_shape: Shape = (32, 32, 3), num_classes: int = 10, **options: Any
    ) -> network.PathNetwork:
        """The final network of a Path: a plain keras.Model; see `network.PathNetwork`."""
        return network.PathNetwork(self, architecture, input_shape, num_classes, **options)

    # --- budgets: see `costs` ---

    def state_shapes(self, input_shape: Shape) -> list[list[Shape]]:
        """The shapes of all states for an image (H, W, C): L + 1 lists of S_l."""
        shapes = [[_output_shape(self.make_stem(choice), input_shape, choice) for choice in self.stem_choices]]
        for position, outcomes in enumerate(self.lattice[1]):
            after = {}
            for targets, shape in zip(outcomes, shapes[-1]):
                for target, choice in zip(targets, self.choices):
                    found = _output_shape(self.make_layer(position, choice), shape, choice)
                    if after.setdefault(target, found) != found:
                        problem = "choices whose outputs have one shape on large images, and two on these"
                        raise ConfigError(problem, where=f"position {position}", seen=found, allowed=after[target])
            shapes.append([after[target] for target in sorted(after)])
        for shape in shapes[-1]:
            made = _output_shape(self.make_head(), shape, ())
            if len(made) != 3:
                seen, allowed = (None, *made), "(None, H, W, C)"
                raise ConfigError("the head makes no images", where="head", seen=seen, allowed=allowed)
        return shapes

    def costs(self, measure: Measure, input_shape: Shape = (32, 32, 3), num_classes: int = 10) -> Costs:
        """What each choice adds to the final network, for `extract` and `expected_cost`."""
        return cuboid_costs.costs(self, measure, input_shape, num_classes)

    def cost_of(self, architecture: Path, costs: Costs) -> float:
        """The sum of what the choices of a Path of one route cost."""
        (route,) = architecture.routes
        return cuboid_costs.cost_of(self, self.route(route), costs)

    def expected_cost(self, alphas: Sequence[Any], costs: Costs) -> Any:
        """The mean cost of a random path, a scalar with a gradient."""
        return cuboid_costs.expected_cost(self, alphas, costs)

    # --- pictures ---

    def draw(self, architecture: Path, alphas: Sequence[Sequence[np.ndarray]], place: Place, title: str) -> None:
        """`path.png`, the path in its HyperCuboid after Fig. 6, and `alphas.png`, the last weights of all choices."""
        from sharpkeras.view import hypercuboid  # nothing else of a space needs matplotlib

        routes, weights = [self.route(route) for route in architecture.routes], self.weights(alphas[-1])
        hypercuboid.draw_path(routes, self.lattice, self.choices, weights, place("path.png"), title=title)
        hypercuboid.draw_weights(weights, self.choices, place("alphas.png"), title=f"weights of {title}")

    # --- paths as indices ---

    def path(self, routes: Sequence[Sequence[tuple[int, int]]], name: str | None = None) -> Path:
        """The Path of routes, each a list of (state, choice) indices, one per position; see `path_search.choices`."""
        named = tuple((self.stem_choices[route[0][0]], *(self.choices[k] for _, k in route)) for route in routes)
        return Path(self.name, named, name)

    def route(self, route: tuple, where: str = "path") -> list[tuple[int, int]]:
        """A route of a Path as (state, choice) indices, one per position.

        Raises:
            ConfigError: for another number of positions, or a choice that this cuboid does not have.
        """
        stem, *steps = route
        if len(steps) != len(self.positions):
            allowed = f"{len(self.positions)} positions"
            raise ConfigError("a path of another length", where=where, seen=len(steps), allowed=allowed)
        state, found = _index(self.stem_choices, self.stem_axes, stem, f"{where}[0]"), []
        for position, step in enumerate(steps):
            choice = _index(self.choices, self.axes, step, f"{where}[{position + 1}]")
            found.append((state, choice))
            state = int(self.lattice[1][position][state, choice])
        return found


def _label(value):
    """What JSON says of a value: itself, or its name."""
    value = value.item() if isinstance(value, np.generic) else value
    plain = is_label(value) or isinstance(value, float)
    return value if plain else getattr(value, "__name__", type(value).__name__)


def _plain_name(name):
    """The name of a space, which stands in the file of every path."""
    if name is None:
        raise ConfigError("a space needs a name", where="name", seen=None, allowed="a plain file name")
    return check_name(name, "name")


def _axes(axes, where):
    if not isinstance(axes, Mapping):
        raise ConfigError("axes are a mapping", where=where, seen=axes, allowed="name → values to choose from")
    if len(axes) > MAX_AXES or not all(isinstance(axis, str) for axis in axes):
        allowed = f"at most {MAX_AXES}, each with a text for its name"
        raise ConfigError("axes that the file of a path cannot hold", where=where, seen=list(axes), allowed=allowed)
    return {axis: _labelled(values, f"{where}.{axis}") for axis, values in axes.items()}


def _labelled(values, where):
    """Label → value; the label of what JSON has no word for is its name."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigError("one value is no axis", where=where, seen=values, allowed="several, such as a tuple")
    if isinstance(values, dict):
        labelled = dict(values)
    else:
        pairs = [(_label(value), value) for value in values]
        labelled = dict(pairs)
        if len(labelled) != len(pairs):
            seen = [label for label, _ in pairs]
            raise ConfigError("two values with one label", where=where, seen=seen, next_step="give a mapping of labels")
    for label in labelled:
        if not is_label(label):
            raise ConfigError("a label that JSON has no word for", where=where, seen=label, allowed="text or a number")
    if not labelled:
        raise ConfigError("an axis without a value", where=where, seen=values, allowed="at least one value")
    return labelled


def _grid(axes):
    """All combinations as tuples of (axis, label), the last axis running fastest."""
    choices = [()]
    for axis, values in axes.items():
        choices = [(*choice, (axis, label)) for choice in choices for label in values]
    return choices


def _made(function, arguments, choice, name):
    """The layer that a function makes, named afterwards, so that the function need not know of names."""
    try:
        layer = function(**arguments)
    except Exception as error:
        raise ConfigError(f"this choice cannot be made: {error}", seen=dict(choice)) from error
    if any(getattr(part, "data_format", None) == "channels_first" for part in layer._flatten_layers()):
        raise ConfigError(
            "this choice reads channels first, where states have them last",
            seen=dict(choice),
            next_step='give its layers data_format="channels_last", or set '
            'keras.config.set_image_data_format("channels_last") before they are made',
        )
    layer.name = name or layer.name
    return layer


def _values(axes, choice):
    return {axis: axes[axis][label] for axis, label in choice}


def _output_shape(layer, shape, choice):
    """(H, W, C) behind a layer; raises ConfigError when it cannot be applied, or makes no state."""
    try:
        made = layer.compute_output_shape((None, *shape))
    except Exception as error:
        raise ConfigError(f"this choice cannot read a state of shape {shape}: {error}", seen=dict(choice)) from error
    sizes = list(made) if isinstance(made, (tuple, list)) else []
    if len(sizes) < 2 or sizes[0] is not None or not all(isinstance(size, int) for size in sizes[1:]):
        problem = f"this choice makes no state of one of shape {shape}, but {made}"
        allowed = "one tensor with the batch first, of sizes that are known: (None, …)"
        raise ConfigError(problem, seen=dict(choice), allowed=allowed)
    return tuple(sizes[1:])


def _index(choices, axes, choice, where):
    """The index of a choice whatever the order of its axes."""
    wanted = dict(choice)
    if wanted.keys() != axes.keys():
        raise ConfigError("other axes", where=where, seen=sorted(wanted), allowed=sorted(axes))
    for axis, label in wanted.items():
        if label not in axes[axis]:
            near = difflib.get_close_matches(str(label), [str(known) for known in axes[axis]], n=1)
            hint = f"did you mean {near[0]}?" if near else None
            allowed = ", ".join(str(known) for known in axes[axis])
            raise ConfigError("no such choice", where=f"{where}.{axis}", seen=label, allowed=allowed, next_step=hint)
    return choices.index(tuple((axis, wanted[axis]) for axis in axes))
