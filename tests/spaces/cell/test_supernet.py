"""The supernet: its fast cell equals the clear form, and a network is what a supernet becomes with one-hot weights."""

import keras
import numpy as np
import pytest
from support.gradients import compiled, cross_entropy, gradient, to_numpy

from sharpkeras import weighting
from sharpkeras.backend.fused_ops import recorded_functions
from sharpkeras.errors import ConfigError, DataError
from sharpkeras.primitives import OPS, PRIMITIVES
from sharpkeras.spaces import state_dict
from sharpkeras.spaces.cell import topology
from sharpkeras.spaces.cell.genotype import Genotype
from sharpkeras.spaces.cell.mixed_op import MixedOp
from sharpkeras.spaces.cell.network import CellNetwork
from sharpkeras.spaces.cell.search_cell import SearchCell
from sharpkeras.spaces.cell.space import CellSpace

FILTERS, NODES, BATCH = 4, 2, 3

# Every published list in the op tables that know all its names, and for each table a list of what those leave out.
LISTS = {
    f"{ops}-{name}": (ops, names)
    for ops, table in OPS.items()
    for name, names in PRIMITIVES.items()
    if set(names) <= set(table)
}
LISTS |= {
    f"{ops}-rest": (
        ops,
        ("skip_connect", *(name for name in table if not any(name in names for names in PRIMITIVES.values()))),
    )
    for ops, table in OPS.items()
}


class ClearCell(keras.layers.Layer):
    """A search cell as the paper writes it: a MixedOp on each edge."""

    def __init__(self, cell):
        super().__init__()
        self.cell_nodes, self.cell_concat = cell.nodes, cell.concat
        self.preprocess0 = type(cell.preprocess0)(cell.filters, affine=False)
        self.preprocess1 = type(cell.preprocess1)(cell.filters, affine=False)
        self.mixed = [
            MixedOp(cell.primitive_names, cell.filters, cell.strides[edge], cell.ops) for edge in sorted(cell.strides)
        ]

    def call(self, older, newer, mixing_weights, training=None):
        def apply(edge, state):
            return self.mixed[edge](state, mixing_weights[edge], training=training)

        inputs = self.preprocess0(older, training=training), self.preprocess1(newer, training=training)
        return topology.run_cell(inputs, self.cell_nodes, apply, self.cell_concat)[0]


def clear_slots(clear):
    """Official key → Slot of a ClearCell."""
    slots = {}
    for name in ("preprocess0", "preprocess1"):
        slots |= dict(state_dict.layer_slots(getattr(clear, name), name))
    for edge, mixed in enumerate(clear.mixed):
        for p, (layer, norm) in enumerate(zip(mixed.layers, mixed.norms)):
            name = f"_ops.{edge}._ops.{p}"
            slots |= dict(state_dict.layer_slots(layer, name))
            slots |= dict(state_dict.layer_slots(norm, f"{name}.1")) if norm else {}
    return slots


def fast_slots(cell):
    """Official key → Slot of a SearchCell, whose variables are stacked over edges."""
    return {key.removeprefix("cell."): slot for key, slot in cell.state_slots("cell")}


def by_key(slots, variables, arrays):
    """Official key → array, of arrays that lie as `variables` do; keys of other variables are left out."""
    places = {id(variable): index for index, variable in enumerate(variables)}
    found = {key: slot for key, slot in slots.items() if id(slot.variable) in places}
    return {
        key: arrays[places[id(slot.variable)]] if slot.row is None else arrays[places[id(slot.variable)]][slot.row]
        for key, slot in found.items()
    }


def assert_near(ours, expected, tolerance=1e-4):
    """Equal but for float32's rounding, which BatchNorm amplifies: max |difference| against the largest value."""
    assert ours.keys() == expected.keys()
    largest = max(np.abs(array).max() for array in expected.values())
    for key, array in ours.items():
        assert np.abs(array - expected[key]).max() <= tolerance * largest, key


def training_pass(cell, inputs, target):
    """Outputs, gradients by inputs and by variables, and the other variables afterwards."""
    others = [variable.value for variable in cell.non_trainable_variables]
    count = len(inputs)

    def loss(argument):
        outputs, after = cell.stateless_call(argument[count:], others, *argument[:count], training=True)
        return keras.ops.sum(outputs * target), (outputs, after)

    argument = [*inputs, *(variable.value for variable in cell.trainable_variables)]
    _, (outputs, after), slope = gradient(loss, argument)
    return outputs, slope[:count], slope[count:], after


@pytest.mark.parametrize("ops, names", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("size", ((8, 8), (7, 6)), ids=str)
@pytest.mark.parametrize("reduction, after_reduction", ((False, True), (True, False)), ids=("normal", "reduction"))
def test_the_fast_cell_equals_the_clear_one(ops, names, size, reduction, after_reduction):
    plan = topology.CellPlan(0, FILTERS, reduction, after_reduction)
    cell = SearchCell(plan, names, NODES, NODES, ops, recorded_functions())
    older = np.random.normal(size=(BATCH, *(side * (1 + after_reduction) for side in size), 3)).astype("float32")
    newer = np.random.normal(size=(BATCH, *size, 5)).astype("float32")
    mixing_weights = np.random.uniform(0.2, 1.0, (len(cell.strides), len(names))).astype("float32")
    inputs = (older, newer, mixing_weights)
    cell.build(older.shape, newer.shape)
    cell.built = True
    clear = ClearCell(cell)
    clear(*inputs)

    fast, slow = fast_slots(cell), clear_slots(clear)
    assert fast.keys() == slow.keys()
    for key, slot in slow.items():
        source = fast[key].variable.numpy()
        slot.variable.assign(source if fast[key].row is None else source[fast[key].row])

    target = np.random.normal(size=cell.compute_output_shape(older.shape, newer.shape)).astype("float32")
    outputs, by_inputs, by_weights, after = training_pass(cell, inputs, target)
    expected, by_inputs_expected, by_weights_expected, after_expected = training_pass(clear, inputs, target)
    assert_near({"outputs": outputs}, {"outputs": expected})
    assert_near(dict(enumerate(by_inputs)), dict(enumerate(by_inputs_expected)))
    assert_near(
        by_key(fast, cell.trainable_variables, by_weights), by_key(slow, clear.trainable_variables, by_weights_expected)
    )
    moving = by_key(fast, cell.non_trainable_variables, after)
    assert_near(moving, by_key(slow, clear.non_trainable_variables, after_expected))
    assert any("running_mean" in key and np.any(array) for key, array in moving.items())

    for layer, values in ((cell, after), (clear, after_expected)):
        for variable, value in zip(layer.non_trainable_variables, values):
            variable.assign(value)
    inference = [to_numpy(compiled(lambda layer=layer: layer(*inputs, training=False))()) for layer in (cell, clear)]
    assert_near({"outputs": inference[0]}, {"outputs": inference[1]})


# --- one-hot weights ---

COMPARABLE = Genotype(
    normal=(("sep_conv_3x3", 0), ("skip_connect", 1), ("dil_conv_5x5", 2), ("sep_conv_5x5", 0)),
    normal_concat=(2, 3),
    reduce=(("skip_connect", 1), ("dil_conv_3x3", 0), ("skip_connect", 2), ("sep_conv_5x5", 1)),
    reduce_concat=(2, 3),
)


@pytest.mark.parametrize("ops", OPS)
def test_a_network_is_a_supernet_with_one_hot_weights(ops):
    # Comparable without pools, which have a BatchNorm behind them in the search alone, and without two pairs of one
    # node that read the same source, for which the supernet has one edge. The BatchNorms of a network have scale and
    # offset, here still at 1 and 0.
    space = CellSpace(PRIMITIVES["darts"], ops, num_nodes=2, num_concatenated=2)
    supernet = space.supernet((8, 8, 3), 5, init_channels=4, num_cells=3)
    network = CellNetwork(COMPARABLE, ops, "cifar", (8, 8, 3), 5, init_channels=4, num_cells=3)
    hot, edges = one_hot(space, COMPARABLE)
    copy_weights(supernet, network, space, edges)

    x = np.random.normal(size=(3, 8, 8, 3)).astype("float32")
    for training in (True, False):  # the first pass moves the averages that the second uses
        expected = supernet([x, hot], training=training)
        outputs = network(x, training=training)["logits"]
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)


def one_hot(space, genotype):
    """Mixing weights that leave the pairs of a genotype alone, and for each kind of cell pair → (edge, primitive)."""
    weights, places = [], []
    for reduction in (False, True):
        nodes, _ = genotype.cell(reduction)
        weights.append(np.zeros((space.num_edges, len(space.primitive_names)), "float32"))
        places.append([])
        for pairs, edges in zip(nodes, topology.all_edges(space.num_nodes)):
            for name, source in pairs:
                place = dict((j, edge) for edge, j in edges)[source], space.primitive_names.index(name)
                weights[-1][place] = 1.0
                places[-1].append(place)
    return weights, places


def copy_weights(supernet, network, space, edges):
    source, plans = state_dict.state_slots(supernet), {cell.name: cell.plan for cell in supernet.cells}
    for key, slot in state_dict.state_slots(network).items():
        if "._ops." in key:
            cell, rest = key.split("._ops.")
            index, rest = rest.split(".", 1)
            edge, p = edges[plans[cell].reduction][int(index)]
            key = f"{cell}._ops.{edge}._ops.{p}.{rest}"
        if key in source:
            value = source[key].variable.numpy()
            slot.variable.assign(value if source[key].row is None else value[source[key].row])
        else:
            assert slot.variable.name in ("gamma", "beta"), key


# --- alphas ---


@pytest.mark.parametrize("weights", weighting.WEIGHTINGS)
def test_the_gradient_reaches_every_alpha(weights):
    space = CellSpace(PRIMITIVES["darts"], "darts", weights, num_nodes=2, num_concatenated=2)
    supernet = space.supernet((8, 8, 3), 5, init_channels=4, num_cells=3)
    x, y = np.random.normal(size=(4, 8, 8, 3)).astype("float32"), np.arange(4)

    def loss(alphas):
        return cross_entropy(y, supernet([x, space.mixing_weights(alphas)], training=True)), ()

    with keras.StatelessScope() if keras.backend.backend() == "jax" else keras.name_scope("eager"):
        _, _, slope = gradient(loss, space.init_alphas(0))
    assert all(np.isfinite(array).all() and np.all(array != 0) for array in slope)


def test_scalar_and_max_w_are_the_papers():
    alphas = np.random.normal(size=(2, 5, 8)).astype("float32")
    soft = np.exp(alphas) / np.exp(alphas).sum(-1, keepdims=True)
    np.testing.assert_allclose(CellSpace().mixing_weights(alphas), soft, rtol=1e-5)
    # Eq. 3: the strongest primitive of an edge enters with weight 1.
    expected = 1.0 - soft.max(-1, keepdims=True) + soft
    np.testing.assert_allclose(CellSpace(weighting="max_w").mixing_weights(alphas), expected, rtol=1e-5)
    assert np.allclose(expected.max(-1), 1.0)


def test_the_gradient_of_max_w_flows_through_the_maximum():
    weights = np.array([0.2, 0.5, 0.3], "float32")
    factors = np.array([3.0, 5.0, 7.0], "float32")
    _, _, (slope,) = gradient(lambda w: (keras.ops.sum(weighting.max_w(w[0]) * factors), ()), [weights])
    np.testing.assert_allclose(slope, factors - [0.0, factors.sum(), 0.0])


def test_alphas_start_small_and_from_a_seed():
    space = CellSpace(PRIMITIVES["sharp"])
    first, again, other = space.init_alphas(1), space.init_alphas(1), space.init_alphas(2)
    assert [a.shape for a in first] == [(14, 9), (14, 9)]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.std(first) == pytest.approx(1e-3, rel=0.2)


# --- what a supernet refuses, and its shape ---


@pytest.mark.parametrize(
    "arguments, seen",
    (
        ({"primitive_names": ("none", "sep_conv_9x9")}, "sep_conv_9x9"),
        ({"primitive_names": ("none", "none")}, ["none", "none"]),
        ({"primitive_names": ("skip_connect",)}, ["skip_connect"]),
        ({"primitive_names": ("none", "flood_conv_3x3"), "ops": "darts"}, "flood_conv_3x3"),
        ({"num_nodes": 2, "num_concatenated": 3}, 3),
    ),
)
def test_a_space_refuses_what_it_can_not_search(arguments, seen):
    with pytest.raises(ConfigError) as caught:
        CellSpace(**arguments)
    assert caught.value.seen == seen and caught.value.exit_code == 3


@pytest.mark.parametrize("sizes", ({"input_shape": (3, 8, 3)}, {"init_channels": 15}))
def test_a_supernet_refuses_sizes_that_do_not_fit(sizes):
    with pytest.raises((ConfigError, DataError), match="smaller than|even number"):
        CellSpace().supernet(**sizes)


def test_reduction_cells_stand_at_a_third_and_two_thirds():
    plans = topology.plan_cells(8, 16)
    assert [plan.index for plan in plans if plan.reduction] == [2, 5]
    assert [plan.filters for plan in plans] == [16, 16, 32, 32, 32, 64, 64, 64]
    assert [plan.index for plan in plans if plan.after_reduction] == [3, 6]
    assert topology.plan_cells(14, 48, after_reduction=True)[0].after_reduction
    assert topology.auxiliary_position(20) == 13


def test_a_mixed_op_comes_back_from_its_config():
    mixed, x, weights = (
        MixedOp(("none", "max_pool_3x3", "dil_conv_3x3"), 4, 2, "darts"),
        np.ones((2, 6, 6, 4)),
        np.ones(3),
    )
    mixed(x, weights)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(mixed))
    again(x, weights)
    again.set_weights(mixed.get_weights())
    np.testing.assert_array_equal(mixed(x, weights), again(x, weights))
