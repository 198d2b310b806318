"""The edges of a search cell in a loop, as JAX takes them: XLA compiles one mixed operation, not one for each edge.

Written out, the gradients of a cell of 14 edges take XLA half a minute to compile, as a loop two seconds. A pass keeps
the states alone; for the gradient each edge is computed again.
"""

from collections.abc import Sequence
from typing import Any

from keras import ops

from sharpkeras.backend import fused_ops as kernels
from sharpkeras.layers import strided_shape
from sharpkeras.spaces.cell import topology
from sharpkeras.spaces.cell.stacked_primitives import CellState, ForwardPass, StackedBatchNorm


class EdgePass(ForwardPass):
    """The forward pass of one edge, whose row of each stack of variables comes from the loop.

    Args:
        rows: id of a variable → its part for this edge.
        known: statistics of the batch, where the edge was computed before.
    """

    def __init__(
        self, training: bool, dtype: str, rows: dict[int, Any], known: dict[StackedBatchNorm, tuple[Any, Any]]
    ) -> None:
        super().__init__(training, dtype)
        self._row_of, self._known = rows, known
        self.seen: dict[StackedBatchNorm, tuple[Any, Any]] = {}

    def kernel(self, variable: Any, row: int) -> Any:
        return ops.cast(self._row_of[id(variable)], self.dtype)

    def moving_statistics(self, norm: StackedBatchNorm, row: int) -> tuple[Any, Any]:
        return self._row_of[id(norm.mean)], self._row_of[id(norm.variance)]

    def normalize_batch(self, norm: StackedBatchNorm, inputs: Any, weight: Any = None) -> tuple[Any, tuple[Any, Any]]:
        if norm not in self._known:
            return super().normalize_batch(norm, inputs, weight)
        channels, statistics = inputs.shape[-1], self._known[norm]
        weight = self._constant(ops.ones, channels) if weight is None else weight
        offset = self._constant(ops.zeros, channels)
        return kernels.normalize_again(inputs, weight, offset, *statistics, norm.epsilon), statistics

    def remember(self, norm: StackedBatchNorm, row: int, statistics: tuple[Any, Any]) -> None:
        self.seen[norm] = statistics


class EdgeLoop:
    """One run of a cell.

    Args:
        cell: a SearchCell without a LayerPerEdge.
        mixing_weights: (E, P).
        training: whether to normalise by the batch, and to move the averages towards it.
    """

    def __init__(self, cell: Any, mixing_weights: Any, training: bool) -> None:
        self._cell, self._training = cell, training
        self._weights = ops.cast(mixing_weights, kernels.at_least_float32(cell.compute_dtype))
        self._seen: dict[StackedBatchNorm, list[tuple[Sequence[int], Any, Any]]] = {}

    def mix(self, older: Any, newer: Any) -> Any:
        """The cell's output (B, H', W', C') of its two preprocessed states, (B, H, W, C) each."""
        cell, inputs = self._cell, ops.stack((older, newer))
        edges = [(edge, source, 2 + node) for node, pairs in enumerate(cell.nodes) for edge, source in pairs]
        strides = 2 if cell.plan.reduction else 1
        nodes = ops.zeros((len(cell.nodes), *strided_shape(older.shape, (strides, strides), cell.filters)), older.dtype)
        if cell.plan.reduction:
            nodes = self._add([(edge, source, node - 2) for edge, source, node in edges if source < 2], inputs, nodes)
            nodes = self._add(
                [(edge, source - 2, node - 2) for edge, source, node in edges if source >= 2], None, nodes
            )
            states = dict(enumerate(nodes, 2))
        else:
            states = dict(enumerate(self._add(edges, None, ops.concatenate((inputs, nodes)))))
        self._update_moving_statistics()
        return topology.concatenate(*[states[index] for index in cell.concat])

    def _add(self, edges: list[tuple[int, int, int]], sources: Any, nodes: Any) -> Any:
        """The nodes, to each added what its edges bring: edges are (edge, source, node), in order."""
        if not edges:
            return nodes
        cell, numbers = self._cell, [edge for edge, _, _ in edges]
        norms: list[StackedBatchNorm] = []  # in the order in which an edge meets them
        stacks = {
            id(variable): ops.take(
                ops.convert_to_tensor(variable.value), [branch.row(edge) for edge in numbers], axis=0
            )
            for branch in cell.branches
            if branch is not None and branch.row(numbers[0]) is not None
            for variable in branch.variables_on(self._training)
        }

        def mixed(tensor: Any, rows: tuple[Any, dict[int, Any]], known: list[Any] | None) -> tuple[Any, list[Any]]:
            weights, values = rows
            run = EdgePass(self._training, cell.compute_dtype, values, dict(zip(norms, known or ())))
            state = CellState(tensor, run)
            scales = [ops.broadcast_to(weights[p], (cell.filters,)) for p in range(len(cell.branches))]
            pairs = zip(scales, cell.branches)
            edge = numbers[0]  # whose stride all have; its row is that of the loop
            terms = [b.apply(run, state, edge, cell.strides[edge], w) for w, b in pairs if b is not None]
            norms[:] = run.seen
            return kernels.add(*terms) if terms else ops.zeros_like(nodes[0]), list(run.seen.values())

        weights = ops.take(self._weights, numbers, axis=0)
        pairs = [(source, node) for _, source, node in edges]
        nodes, statistics = kernels.loop_over_edges(mixed, pairs, sources, nodes, (weights, stacks))
        for norm, (means, variances) in zip(norms, statistics):
            self._seen.setdefault(norm, []).append((numbers, means, variances))
        return nodes

    def _update_moving_statistics(self) -> None:
        for norm, parts in self._seen.items():
            numbers, means, variances = zip(*parts)
            order = sorted(range(sum(map(len, numbers))), key=sum(numbers, []).__getitem__)
            norm.update(*(ops.take(ops.concatenate(part), order, axis=0) for part in (means, variances)))
