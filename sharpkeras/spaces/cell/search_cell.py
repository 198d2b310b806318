"""A search cell computed fast: the same as `MixedOp` on each edge, by `stacked_primitives`.

Tested equal to the clear form; `benchmarks/search_step.py` measures it.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from sharpkeras import primitives
from sharpkeras.backend import fused_ops as kernels
from sharpkeras.layers import (
    BatchNormalization,
    Composite,
    LayerSequence,
    ResizablePool,
    adopt,
    strided_shape,
)
from sharpkeras.spaces.cell import topology
from sharpkeras.spaces.cell.edge_loop import EdgeLoop
from sharpkeras.spaces.cell.stacked_primitives import (
    SHARED_POOLS,
    STACKED,
    CellState,
    ForwardPass,
    LayerPerEdge,
    SharedPool,
    StackedSequence,
    StackedSkip,
)
from sharpkeras.spaces.state_dict import Slot, layer_slots


class SearchCell(Composite):
    """A cell in which every edge carries every primitive: `MixedOp` on each edge, computed fast.

    Args:
        plan: CellPlan.
        primitive_names: P published names.
        num_nodes: intermediate nodes.
        num_concatenated: how many of the last nodes make the output.
        ops: op table.
        functions: those that all cells of a supernet share (`fused_ops.recorded_functions`); None is none.

    Inputs: the states of the two cells before, (B, H, W, C) each, and the mixing weights (E, P).
    """

    def __init__(
        self,
        plan: topology.CellPlan,
        primitive_names: Sequence[str],
        num_nodes: int = 4,
        num_concatenated: int = 4,
        ops: str = "sharp",
        functions: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # the mixing weights come as they are
        self.plan, self.filters, self.primitive_names, self.ops = plan, plan.filters, tuple(primitive_names), ops
        self.nodes = topology.all_edges(num_nodes)
        self.concat = topology.last_states(num_nodes, num_concatenated)
        self.strides = {e: topology.edge_strides(plan.reduction, j) for node in self.nodes for e, j in node}
        older, newer = topology.preprocessing(plan)
        self.preprocess0, self.preprocess1 = older(plan.filters, affine=False), newer(plan.filters, affine=False)
        adopt(self, self.followers())
        self.functions = functions
        self.edge_layers = []  # of primitives that no branch knows how to compute on all edges at once

    def build(self, older_shape: tuple[int | None, ...], newer_shape: tuple[int | None, ...]) -> None:
        self.preprocess0.build(older_shape)
        self.preprocess1.build(newer_shape)
        inputs = (*newer_shape[:-1], self.filters)
        self.branches = [self._branch(p, name, inputs) for p, name in enumerate(self.primitive_names)]

    def _branch(self, p: int, name: str, inputs: tuple[int | None, ...]) -> Any:
        """What computes a primitive on all edges; None for `none`, which adds nothing."""
        primitive, place = primitives.lookup(name, self.ops), f"{p}.{name}"
        if primitive.kind == "none":
            return None
        if primitive.kind == "skip":
            strided = [edge for edge, strides in self.strides.items() if strides == 2]
            return StackedSkip(self, place, {edge: row for row, edge in enumerate(strided)})
        layers = {s: primitives.build(name, self.ops, self.filters, s, affine=False) for s in (1, 2)}
        if primitive.kind == "pool":
            pools = {s: layer.steps[0] if isinstance(layer, ResizablePool) else layer for s, layer in layers.items()}
            if isinstance(pools[1], SHARED_POOLS):
                return SharedPool(self, place, pools, len(self.strides))
        elif isinstance(layers[1], LayerSequence) and all(isinstance(step, STACKED) for step in layers[1].steps):
            return StackedSequence(self, place, layers, len(self.strides))
        return self._layer_per_edge(p, name, inputs, primitive.kind == "pool")

    def _layer_per_edge(self, p: int, name: str, inputs: tuple[int | None, ...], is_pool: bool) -> LayerPerEdge:
        """The branch of a primitive whose layer is none of those above."""
        inner = strided_shape(inputs, (2, 2) if self.plan.reduction else (1, 1), self.filters)
        make = functools.partial(primitives.build, name, self.ops, self.filters, affine=False)
        layers = {edge: make(strides, name=f"{p}.{name}.{edge}") for edge, strides in self.strides.items()}
        norms = {edge: BatchNormalization(center=False, scale=False) for edge in layers if is_pool}
        self.edge_layers = [*self.edge_layers, *adopt(self, [*layers.values(), *norms.values()])]
        for edge, layer in layers.items():
            reads_input = self.strides[edge] == 2 or not self.plan.reduction
            outputs = layer(keras.KerasTensor(inputs if reads_input else inner))  # which builds it and what it holds
            if is_pool:
                norms[edge](outputs)
        return LayerPerEdge(layers, norms)

    def call(self, older: Any, newer: Any, mixing_weights: Any, training: bool | None = None) -> Any:
        training = training and self.trainable  # a frozen cell normalises by its moving statistics, and keeps them
        inputs = self.preprocess0(older, training=training), self.preprocess1(newer, training=training)
        if kernels.loops() and not self.edge_layers:
            return EdgeLoop(self, mixing_weights, bool(training)).mix(*inputs)
        if not (training and self._can_be_recorded(inputs)):
            return self._mix(None, *inputs, mixing_weights, training=training)
        mix, structure = functools.partial(self._mix, training=True), (self.filters, self.plan.reduction)
        others = {id(variable) for layer in (self.preprocess0, self.preprocess1) for variable in layer.variables}
        variables = [variable for variable in self.variables if id(variable) not in others]
        return self.functions.call(structure, mix, variables, *inputs, mixing_weights)

    def _can_be_recorded(self, inputs):
        """Whether every operation of the cell has a gradient in a recording."""
        is_static = all(None not in tensor.shape for tensor in inputs)
        return self.functions is not None and is_static and not self.edge_layers and self.compute_dtype != "float64"

    def _mix(self, recording, older, newer, mixing_weights, training):
        """The sum of all primitives on all edges; see `backend.recorded_function`."""
        run = ForwardPass(training, self.compute_dtype, recording)
        scales = self._scales(run, mixing_weights)

        def apply(edge, state):
            pairs = zip(scales[edge], self.branches)
            terms = [b.apply(run, state, edge, self.strides[edge], w) for w, b in pairs if b is not None]
            return run.apply(kernels.add, *terms) if terms else None

        new_state = functools.partial(CellState, run=run)
        states = (older, newer), self.nodes, apply, self.concat, new_state, lambda state: state.tensor
        outputs, _ = topology.run_cell(*states, call=run.apply)
        if training:
            run.update_moving_statistics()
        return outputs

    def _scales(self, run, mixing_weights):
        """The mixing weights as BatchNorm takes a scale: E lists of P vectors (C,), cut once for the whole cell."""
        shape = (len(self.strides) * len(self.branches), self.filters)
        dtype = kernels.at_least_float32(self.compute_dtype)

        def repeat(weights):
            column = ops.reshape(ops.cast(weights, dtype), (-1, 1))
            return ops.unstack(ops.broadcast_to(column, shape), num=shape[0])

        rows = run.rows(repeat, mixing_weights)
        return [rows[edge * len(self.branches) : (edge + 1) * len(self.branches)] for edge in range(len(self.strides))]

    def state_slots(self, name: str) -> Iterator[tuple[str, Slot]]:
        """Where the arrays of the cell go, by its official name."""
        yield from layer_slots(self.preprocess0, f"{name}.preprocess0")
        yield from layer_slots(self.preprocess1, f"{name}.preprocess1")
        for p, branch in enumerate(self.branches):
            for edge in self.strides if branch is not None else ():
                yield from branch.state_slots(f"{name}._ops.{edge}._ops.{p}", edge)

    def compute_output_shape(
        self, older_shape: tuple[int | None, ...], newer_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        strides = 2 if self.plan.reduction else 1
        return strided_shape(newer_shape, (strides, strides), len(self.concat) * self.filters)
