"""How cells are wired: the only place that knows (Fig. 2, and the official code where the paper is silent).

The supernet and the final network differ in what stands on an edge, never in where the edges go.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from keras import ops

from sharpkeras.backend.fused_ops import add
from sharpkeras.layers import FactorizedReduce, ReLUConvBN

STEM_MULTIPLIER = 3  # the CIFAR stem has 3·C channels


@dataclass(frozen=True)
class CellPlan:
    """A cell's place in the stack: its width, and which of the two cells it stands between reduce."""

    index: int
    filters: int
    reduction: bool
    after_reduction: bool

    @property
    def kind(self) -> str:
        return "reduce" if self.reduction else "normal"


def plan_cells(num_cells: int, init_channels: int, after_reduction: bool = False) -> list[CellPlan]:
    """Cells L//3 and 2L//3 are reduction cells; the channels double there.

    Args:
        num_cells: L.
        init_channels: width of the first cell.
        after_reduction: True for ImageNet, whose stem halves the image between the two states it hands on.

    Returns:
        A list of CellPlan.
    """
    plans, filters = [], init_channels
    for index in range(num_cells):
        reduction = index in (num_cells // 3, 2 * num_cells // 3)
        filters *= 2 if reduction else 1
        plans.append(CellPlan(index, filters, reduction, after_reduction))
        after_reduction = reduction
    return plans


def preprocessing(plan: CellPlan) -> tuple[type[FactorizedReduce | ReLUConvBN], type[ReLUConvBN]]:
    """The layers that bring the older and the newer state to the cell's width.

    If a reduction lies between the two, the older one is also brought to the newer one's size.
    """
    return FactorizedReduce if plan.after_reduction else ReLUConvBN, ReLUConvBN


def auxiliary_position(num_cells: int) -> int:
    """The cell whose output the auxiliary head reads: the second reduction."""
    return 2 * num_cells // 3


def all_edges(num_nodes: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Every edge a cell can have, grouped by node: ((edge, source), …) per node, edges counted through."""
    nodes, edge = [], 0
    for node in range(num_nodes):
        nodes.append(tuple((edge + source, source) for source in range(2 + node)))
        edge += 2 + node
    return tuple(nodes)


def edge_strides(reduction: bool, source: int) -> int:
    """In a reduction cell the edges that leave the cell's two inputs have stride 2."""
    return 2 if reduction and source < 2 else 1


def last_states(num_nodes: int, num_concatenated: int) -> tuple[int, ...]:
    """The states a searched cell concatenates: its last nodes."""
    return tuple(range(2 + num_nodes - num_concatenated, 2 + num_nodes))


def run_cell(
    inputs: Sequence[Any],
    nodes: Sequence[Sequence[tuple[Any, int]]],
    apply: Callable[[Any, Any], Any],
    concat: Sequence[int],
    new_state: Callable[[Any], Any] = lambda tensor: tensor,
    tensor: Callable[[Any], Any] = lambda state: state,
    call: Callable[..., Any] = lambda function, *tensors: function(*tensors),
) -> tuple[Any, list[Any]]:
    """Runs a cell: each node is the sum over its edges, the output the concatenation of some states.

    Args:
        inputs: the two preprocessed states, (B, H, W, C) each.
        nodes: per node a tuple of (edge, source).
        apply: (edge, state) → (B, H', W', C), or None for an edge that adds nothing.
        concat: indices of the states to concatenate.
        new_state: wraps a tensor that becomes a state (the supernet keeps its ReLU and pools there).
        tensor: the way back.
        call: calls a function of tensors (the supernet keeps a record of them there).

    Returns:
        (B, H', W', len(concat)·C), and the tensors of states that nothing reads: the official code computes and counts
        them all the same.
    """
    states = [new_state(value) for value in inputs]
    for node in nodes:
        terms = [apply(edge, states[source]) for edge, source in node]
        states.append(new_state(call(add, *[term for term in terms if term is not None])))
    read = {source for node in nodes for _, source in node} | set(concat)
    unread = [tensor(state) for index, state in enumerate(states) if index not in read]
    return call(concatenate, *[tensor(states[index]) for index in concat]), unread


def concatenate(*tensors: Any) -> Any:
    """Tensors (B, H, W, C) side by side in their channels."""
    return ops.concatenate(tensors, axis=-1)
