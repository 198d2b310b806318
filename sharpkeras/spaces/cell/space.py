"""The cell space of DARTS and sharpDARTS (§3, Table 1)."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import keras
import numpy as np
from keras import ops as kops
from scipy.special import softmax

from sharpkeras import primitives, weighting
from sharpkeras.errors import ConfigError, UsageError
from sharpkeras.spaces import CELL, SPACES, Costs, SearchSpace, best_within
from sharpkeras.spaces.architecture import Place
from sharpkeras.spaces.cell import topology
from sharpkeras.spaces.cell.costs import costs as cell_costs
from sharpkeras.spaces.cell.genotype import Genotype
from sharpkeras.spaces.cell.network import CellNetwork, check_size
from sharpkeras.spaces.cell.supernet import CellSupernet
from sharpkeras.spaces.search_space import Measure

ALPHA_DEVIATION = 1e-3
KINDS = ("normal", "reduce")  # the order of the alphas and of the mixing weights


@dataclass(frozen=True)
class CellSpace(SearchSpace[Genotype]):
    """Which primitives stand on the edges of a cell, and how their outputs are weighted.

    Args:
        primitive_names: P published names; `primitives.PRIMITIVES` has the lists of the paper.
        ops: op table, "sharp" or "darts".
        weighting: "scalar" or "max_w" (Eq. 3).
        num_nodes: intermediate nodes of a cell; a node of index i has 2 + i incoming edges, E in all.
        num_concatenated: how many of the last nodes make a cell's output.

    Raises:
        ConfigError: for an unknown or repeated primitive, or fewer than two.
    """

    primitive_names: tuple = primitives.PRIMITIVES["darts"]
    ops: str = "sharp"
    weighting: str = "scalar"
    num_nodes: int = 4
    num_concatenated: int = 4

    name = CELL
    network_settings = ("stem", "ops", "init_channels", "num_cells", "mid_channels")

    def __post_init__(self) -> None:
        for index, name in enumerate(self.primitive_names):
            primitives.lookup(name, self.ops, where=f"primitives[{index}]")
        if len(set(self.primitive_names)) != len(self.primitive_names) or len(self.primitive_names) < 2:
            raise ConfigError("expected at least two different primitives", seen=list(self.primitive_names))
        if not 1 <= self.num_concatenated <= self.num_nodes:
            raise ConfigError("more states concatenated than nodes", seen=self.num_concatenated, allowed=self.num_nodes)

    # --- from and for recipes ---

    @classmethod
    def from_recipe(cls, recipe: Any) -> Self:
        """The space of a list of primitives, by its name in `primitives.PRIMITIVES` or with commas between them."""
        names = primitives.PRIMITIVES.get(recipe.space)
        if names is None and "," not in recipe.space:
            lists = [*primitives.PRIMITIVES, *(name for name in SPACES if name != CELL)]
            allowed = f"{', '.join(lists)}, or primitives with commas between them"
            raise UsageError("unknown search space", where="`space`", seen=recipe.space, allowed=allowed)
        names = names or tuple(name.strip() for name in recipe.space.split(","))
        return cls(names, recipe.ops, recipe.weighting, recipe.num_nodes, num_concatenated=recipe.num_nodes)

    @classmethod
    def of_architecture(cls, architecture: Genotype, recipe: Any) -> Self:
        """The space of all primitives of the recipe's op table."""
        num_nodes = len(architecture.normal) // 2
        return cls(tuple(primitives.OPS[recipe.ops]), recipe.ops, num_nodes=num_nodes, num_concatenated=num_nodes)

    @classmethod
    def size_in_words(cls, recipe: Any) -> str:
        return f"{recipe.init_channels} channels, {recipe.num_cells} cells, {recipe.ops} ops"

    def supernet_options(self, recipe: Any) -> dict[str, Any]:
        return {"init_channels": recipe.init_channels, "num_cells": recipe.num_cells}

    def extract_options(self, recipe: Any) -> dict[str, Any]:
        return {"skip_none": recipe.skip_none}

    def network_options(self, recipe: Any) -> dict[str, Any]:
        training = {"auxiliary": recipe.auxiliary_weight > 0, "drop_path_seed": recipe.seed}
        return {**self.cost_options(recipe), **training}

    def cost_options(self, recipe: Any) -> dict[str, Any]:
        sizes = {name: getattr(recipe, name) for name in ("stem", "init_channels", "num_cells")}
        return {**sizes, "mid_filters": recipe.mid_channels}

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, **dataclasses.asdict(self)}

    # --- the search ---

    @property
    def num_edges(self) -> int:
        return sum(2 + node for node in range(self.num_nodes))

    @property
    def primitive_kinds(self) -> tuple[str, ...]:
        """The kind of each of the P primitives: "none", "skip", "pool" or "conv"."""
        return tuple(primitives.lookup(name, self.ops).kind for name in self.primitive_names)

    def decisions(self, alphas: Sequence[np.ndarray]) -> dict[str, list]:
        """Each edge by the kind of its cell: its logits (P,), and the kinds of the primitives."""
        return {name: [(edge, self.primitive_kinds) for edge in cell] for name, cell in zip(KINDS, alphas)}

    def kinds_of(self, architecture: Genotype) -> list[str]:
        """The kinds of the primitives of a Genotype."""
        return [primitives.lookup(name, self.ops).kind for name, _ in architecture.normal + architecture.reduce]

    def init_alphas(self, seed: int) -> list[np.ndarray]:
        """Two arrays (E, P) of logits, normal and reduction cells: 1e-3 times a standard normal."""
        shape = (len(KINDS), self.num_edges, len(self.primitive_names))
        return list(np.random.default_rng(seed).normal(scale=ALPHA_DEVIATION, size=shape).astype("float32"))

    def mixing_weights(self, alphas: Sequence[Any]) -> list[Any]:
        """Softmax over each edge's primitives, then the weighting: two tensors (E, P) of the alphas' type."""
        return [weighting.WEIGHTINGS[self.weighting](kops.softmax(a, axis=-1)) for a in alphas]

    def supernet(
        self,
        input_shape: tuple[int, int, int] = (32, 32, 3),
        num_classes: int = 10,
        init_channels: int = 16,
        num_cells: int = 8,
    ) -> CellSupernet:
        """The built CellSupernet of this space for images (H, W, C)."""
        check_size(input_shape, "cifar", auxiliary=False)
        nodes = (self.num_nodes, self.num_concatenated)
        supernet = CellSupernet(self.primitive_names, self.ops, num_classes, init_channels, num_cells, *nodes)
        supernet.build((None, *input_shape))
        return supernet

    def extract(
        self,
        alphas: Sequence[np.ndarray],
        skip_none: bool = True,
        name: str | None = None,
        costs: Costs | None = None,
        limit: float | None = None,
    ) -> Genotype:
        """The Genotype of the strongest primitives: two edges per node, ranked by their strongest primitive.

        Args:
            alphas: two arrays (E, P), normal and reduction cells.
            skip_none: True leaves `none` out of both choices, as DARTS does; False lets it win.
            costs, limit: Costs and the most that the network may cost; of all genotypes within it, the one whose
                weights have the largest sum. Without a limit that is the genotype above.

        Raises:
            ConfigError: when no genotype is within the limit.
        """
        concat = topology.last_states(self.num_nodes, self.num_concatenated)
        weights = [self._weights(np.asarray(a, "float64"), skip_none) for a in alphas]
        if limit is None:
            normal, reduce = (self._strongest(cell) for cell in weights)
        else:
            normal, reduce = self._strongest_within(weights, costs, limit)
        return Genotype(normal, concat, reduce, concat, name)

    def _weights(self, alphas: Any, skip_none: bool) -> Any:
        """Softmax (E, P); -1 for what is never chosen."""
        weights = softmax(alphas, axis=-1)
        if skip_none and "none" in self.primitive_names:
            weights[:, self.primitive_names.index("none")] = -1.0
        return weights

    def _strongest(self, weights: Any) -> Any:
        pairs = []
        for node in topology.all_edges(self.num_nodes):
            strongest = sorted(node, key=lambda edge: -weights[edge[0]].max())[:2]  # stable: ties to the earlier source
            pairs += [(self.primitive_names[int(weights[edge].argmax())], source) for edge, source in strongest]
        return tuple(pairs)

    def _strongest_within(self, weights: Any, costs: Any, limit: float) -> Any:
        """Both cells at once, since they share the budget: a slab of options for each node of each."""
        slabs, options = [], []
        for cell, table in zip(weights, costs.choices):
            for node in topology.all_edges(self.num_nodes):
                edges = [edge for edge, _ in node]
                sources, names, scores, added = best_within.pair_options(cell[edges], table[edges])
                options.append((sources, names, cell[edges]))
                nowhere = np.zeros(len(scores), int)
                slabs.append(best_within.Slab(nowhere, nowhere, scores, added))
        slabs[0] = slabs[0]._replace(costs=slabs[0].costs + costs.fixed)
        chosen = best_within.best_within(slabs, limit)
        nodes = [self._node(*option, index) for option, index in zip(options, chosen)]
        return tuple(sum(cell, ()) for cell in (nodes[: self.num_nodes], nodes[self.num_nodes :]))

    def _node(self, sources: np.ndarray, names: np.ndarray, weights: Any, index: int) -> Any:
        """The two (primitive, source) pairs of an option, the stronger one first."""
        pairs = sorted(zip(sources[index], names[index]), key=lambda pair: -weights[pair])
        return tuple((self.primitive_names[name], int(source)) for source, name in pairs)

    def costs(self, measure: Measure, input_shape: tuple[int, int, int], num_classes: int, **options: Any) -> Costs:
        """What each choice adds to the final CellNetwork; see `costs.costs`."""
        return cell_costs(self, measure, input_shape, num_classes, **options)

    def cost_of(self, architecture: Genotype, costs: Costs) -> float:
        """The sum of what the choices of a Genotype cost."""
        nodes, total = topology.all_edges(self.num_nodes), costs.fixed
        for pairs, table in zip((architecture.normal, architecture.reduce), costs.choices):
            for number, (name, source) in enumerate(pairs):
                edge, _ = nodes[number // 2][source]
                total += table[edge, self.primitive_names.index(name)]
        return float(total)

    def expected_cost(self, alphas: Sequence[Any], costs: Costs) -> Any:
        """The mean cost of a random genotype, a scalar with a gradient: the alphas weigh the primitives of an edge.

        Each node keeps two of its n edges, any two equally likely, so that an edge counts 2/n; `none` is never drawn.
        Where all alphas are equal this is the mean cost of what `sample` draws.
        """
        kept = np.concatenate([[2 / len(node)] * len(node) for node in topology.all_edges(self.num_nodes)])  # (E,)
        dtype = keras.backend.standardize_dtype(alphas[0].dtype)
        never = np.where(np.array(self.primitive_names) == "none", -np.inf, 0.0).astype(dtype)
        total = kops.convert_to_tensor(costs.fixed, dtype)
        for logits, table in zip(alphas, costs.choices):
            weights = kops.softmax(logits + never, axis=-1)  # (E, P)
            total = total + kops.sum(weights * (kept[:, None] * table).astype(dtype))
        return total

    def sample(self, seed: int, name: str | None = None) -> Genotype:
        """A random Genotype, as DARTS draws its random baseline: two sources and their primitives for every node.

        The sources of a node are two different ones of those before it, its primitives any but `none`; all equally
        likely, and a function of `seed` alone.
        """
        generator = np.random.default_rng(seed)
        concat = topology.last_states(self.num_nodes, self.num_concatenated)
        normal, reduce = (self._sample_cell(generator) for _ in KINDS)
        return Genotype(normal, concat, reduce, concat, name)

    def _sample_cell(self, generator: Any) -> Any:
        names, pairs = [name for name in self.primitive_names if name != "none"], []
        for node in range(self.num_nodes):
            sources = sorted(generator.permutation(2 + node)[:2].tolist())
            pairs += [(names[generator.integers(len(names))], source) for source in sources]
        return tuple(pairs)

    def network(
        self,
        architecture: Genotype,
        input_shape: tuple[int, int, int] = (32, 32, 3),
        num_classes: int = 10,
        **options: Any,
    ) -> CellNetwork:
        """The CellNetwork of a Genotype, with this space's op table."""
        return CellNetwork(architecture, self.ops, input_shape=input_shape, num_classes=num_classes, **options)

    # --- pictures ---

    def draw(self, architecture: Genotype, alphas: Sequence[Sequence[np.ndarray]], place: Place, title: str) -> None:
        """`cells.png`, and the weights of all edges as `alphas_normal.png` and `alphas_reduce.png`."""
        from sharpkeras.view import curves  # nothing else of a space needs matplotlib

        architecture.draw(place, title)
        for kind, name in enumerate(KINDS):
            by_epoch = np.array([epoch[kind] for epoch in alphas])  # (T, E, P)
            heading = f"{name.replace('reduce', 'reduction')} cell"
            curves.draw_alphas(by_epoch, self.primitive_names, place(f"alphas_{name}.png"), title=heading)
