"""HyperCuboids: supernet, weights, costs, budgets and files, each against brute force, the clear form or a network."""

import functools
import itertools
import json
import re

import keras
import numpy as np
import pytest
from keras import ops
from support.gradients import gradient

import sharpkeras as sk
from sharpkeras import layers, weighting
from sharpkeras.errors import ConfigError
from sharpkeras.io import json_files
from sharpkeras.layers import AveragePool, ConvBN, FactorizedReduce, Identity, ReLUConvBN, ResizablePool, SharpSepConv
from sharpkeras.measure import cost
from sharpkeras.optimizers import SGD, Adam
from sharpkeras.paper import published
from sharpkeras.recipes import TrainRecipe
from sharpkeras.runs import architectures
from sharpkeras.searching.search_model import SearchModel
from sharpkeras.spaces.cell.genotype import Genotype
from sharpkeras.spaces.hypercuboid import multichannel
from sharpkeras.spaces.hypercuboid import path as paths
from sharpkeras.spaces.hypercuboid.multichannel import MultiChannelNet
from sharpkeras.spaces.hypercuboid.path import Path
from sharpkeras.spaces.hypercuboid.space import HyperCuboid
from sharpkeras.spaces.hypercuboid.supernet import CuboidState, apply
from sharpkeras.spaces.state_dict import load_state, state_dict

SHAPE, CLASSES, BATCH = (8, 8, 3), 4, 3
FILTERS = 4
narrow_stem, narrow_head = functools.partial(ConvBN, FILTERS), functools.partial(ReLUConvBN, 6)


def foreign(kind, filters=FILTERS, strides=1, **options):
    """A layer that Keras has, or one of ours: an axis can hold anything that a function understands."""
    if kind is None:
        return Identity(**options)
    if kind == "convolution":
        return keras.layers.Conv2D(filters, 3, strides, padding="same", activation="relu", **options)
    if kind == "sequential":
        steps = [keras.layers.LayerNormalization(), keras.layers.Conv2D(filters, 1, strides), keras.layers.ReLU()]
        return keras.Sequential(steps, **options)
    return kind(filters, strides=strides, **options)


CUBOIDS = {
    "one state": HyperCuboid(
        axes={"kernel_size": (3, 5), "mid_multiplier": (1, 2)},
        layer=functools.partial(SharpSepConv, FILTERS),
        positions=[{}, {"strides": 2}],
        stem=narrow_stem,
        head=narrow_head,
        weighting="scalar",
    ),
    "multichannel": MultiChannelNet((2, 4), num_stages=1, final_filters=6),
    "sizes": HyperCuboid(
        axes={"kind": (None, "convolution", SharpSepConv), "strides": (1, 2)},
        layer=lambda kind, strides, **options: foreign(kind, strides=strides if kind else 1, **options),
        positions=2,
        stem=lambda bias, **options: keras.layers.Conv2D(FILTERS, 3, padding="same", use_bias=bias, **options),
        stem_axes={"bias": (True,)},
        head=narrow_head,
    ),
    "three axes": HyperCuboid(
        axes={"kind": ("sequential", ReLUConvBN, ResizablePool), "filters": {"few": 2, "many": 4}, "strides": (2,)},
        layer=foreign,
        positions=2,
        stem=ConvBN,
        stem_axes={"filters": (2, 3), "kernel_size": (1, 3)},
        head=narrow_head,
    ),
}
every_cuboid = pytest.mark.parametrize("name", CUBOIDS)


@pytest.fixture(scope="module")
def supernets():
    return functools.cache(lambda name: CUBOIDS[name].supernet(SHAPE, CLASSES))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(BATCH, *SHAPE)).astype("float32")


def randomize(model, seed=0):
    """New values for every weight and average: at the initial ones too much is 0 or 1 to be told apart."""
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        low, high = (0.5, 1.5) if variable.name in ("gamma", "moving_variance") else (-0.5, 0.5)
        variable.assign(generator.uniform(low, high, variable.shape))


def random_alphas(cuboid, seed=1):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=np.shape(a)).astype("float32") for a in cuboid.init_alphas(0)]


def routes_of(cuboid, path):
    return [cuboid.route(route) for route in path.routes]


def every_path(cuboid):
    """All paths of one route, by counting through every choice."""
    shapes, outcomes = cuboid.lattice
    for state, *picks in itertools.product(range(len(shapes[0])), *[range(cuboid.num_choices)] * len(outcomes)):
        route = []
        for choice, targets in zip(picks, outcomes):
            route.append((state, choice))
            state = int(targets[state, choice])
        yield cuboid.path([route])


def random_paths(cuboid, count):
    return [cuboid.sample(seed) for seed in range(count)]


def together(paths_of_one_route):
    """The multi-path sub-graph of some paths."""
    space = paths_of_one_route[0].space
    return Path(space, tuple(route for path in paths_of_one_route for route in path.routes))


# --- one-hot weights: a path's network is what the supernet becomes ---


def one_hot(cuboid, path):
    weights = [np.zeros(outcomes.shape, "float32") for outcomes in cuboid.lattice[1]]
    for route in routes_of(cuboid, path):
        for row, step in zip(weights, route):
            row[step] = 1.0
    return weights


def final_states(cuboid, path):
    return sorted({int(cuboid.lattice[1][-1][route[-1]]) for route in routes_of(cuboid, path)})


def renamed(cuboid, path):
    """The layers that a path has in the supernet, by name → their names in its network."""
    routes, names = routes_of(cuboid, path), {"classifier": "classifier"}
    names |= {f"stem.{s}": f"stem.{i}" for i, s in enumerate(sorted({route[0][0] for route in routes}))}
    names |= {f"base.{s}": f"base.{i}" for i, s in enumerate(final_states(cuboid, path))}
    for position, steps in enumerate(zip(*routes)):
        for number, step in enumerate(sorted(set(steps))):
            alone = len(set(steps)) == 1
            ours = f"op_grid.{position}" if alone else f"op_grid.{position}.{number}"
            names[cuboid.layer_name(position, *step)] = ours
    return names


def carried(supernet, cuboid, path):
    """The state dict of a path's network, from the supernet."""
    names, state = renamed(cuboid, path), state_dict(supernet)
    return {
        ours + key[len(theirs) :]: array
        for key, array in state.items()
        for theirs, ours in names.items()
        if key.startswith(f"{theirs}.")
    }


def logits_of_the_rest(supernet, cuboid, path, training):
    """What the heads of states that the path does not reach add to the logits: they read zeros, and have an offset."""
    shapes, total = cuboid.state_shapes(SHAPE)[-1], 0.0
    for state in set(range(len(shapes))) - set(final_states(cuboid, path)):
        outputs = supernet.heads[state](np.zeros((BATCH, *shapes[state]), "float32"), training=training)
        total = total + np.mean(outputs, axis=(1, 2)) @ supernet.classifier.kernel.numpy()
    return total


@every_cuboid
@pytest.mark.parametrize("count", (1, 3), ids=("one route", "three routes"))
def test_a_network_is_a_supernet_with_one_hot_weights(name, count, supernets, images):
    cuboid, supernet = CUBOIDS[name], supernets(name)
    path = together(random_paths(cuboid, count))
    network = cuboid.network(path, SHAPE, CLASSES)
    randomize(supernet)
    load_state(network, carried(supernet, cuboid, path))
    for training in (True, False):  # the first pass moves the averages that the second uses
        expected = ops.convert_to_numpy(supernet([images, one_hot(cuboid, path)], training=training))
        averages = carried(supernet, cuboid, path)
        outputs = ops.convert_to_numpy(network(images, training=training)["logits"])
        rest = logits_of_the_rest(supernet, cuboid, path, training)
        np.testing.assert_allclose(outputs + rest, expected, rtol=1e-4, atol=1e-4)
        moved = state_dict(network)
        assert moved.keys() == averages.keys()
        for key, array in averages.items():
            np.testing.assert_allclose(moved[key], array, rtol=1e-4, atol=1e-5, err_msg=key)
    assert np.std(expected) > 0.01  # the networks do answer something


def test_a_route_given_twice_is_a_route(images):
    cuboid = CUBOIDS["one state"]
    path = cuboid.sample(0)
    twice = cuboid.network(together([path, path]), SHAPE, CLASSES)
    assert twice.count_params() == cuboid.network(path, SHAPE, CLASSES).count_params()


# --- the fast form of a supernet's layer ---

OURS = {
    "SharpSepConv": lambda: SharpSepConv(FILTERS),
    "SharpSepConv strided": lambda: SharpSepConv(6, strides=2, mid_multiplier=2, affine=False),
    "DilConv": lambda: layers.DilConv(FILTERS),
    "SplitConv": lambda: layers.SplitConv(FILTERS),
    "ConvBNReLU": lambda: layers.ConvBNReLU(FILTERS),
    "ConvBN": lambda: ConvBN(FILTERS),
    "ReLUConvBN": lambda: ReLUConvBN(FILTERS, affine=False),
    "max pool": lambda: ResizablePool(FILTERS),
    "max pool 5": lambda: ResizablePool(FILTERS, pool_size=5),
    "max pool strided": lambda: ResizablePool(FILTERS, strides=2),
    "average pool": lambda: ResizablePool(FILTERS, "average"),
    "resized pool": lambda: ResizablePool(6),
    "FactorizedReduce": lambda: FactorizedReduce(FILTERS),
    "AveragePool": lambda: AveragePool(counted_padding=False),
    "Zero": lambda: layers.Zero(strides=2),
    "Identity": Identity,
}
FOREIGN = {
    "Conv2D": lambda: keras.layers.Conv2D(6, 3, padding="same", activation="relu"),
    "Sequential": lambda: keras.Sequential([keras.layers.Conv2D(4, 1), keras.layers.BatchNormalization()]),
    "Sequential with Dropout": lambda: keras.Sequential([keras.layers.Dropout(0.5, seed=1), keras.layers.ReLU()]),
    "BatchNormalization": keras.layers.BatchNormalization,
    "LayerNormalization": keras.layers.LayerNormalization,
    "Dropout": lambda: keras.layers.Dropout(0.5, seed=1),
    "Activation": lambda: keras.layers.Activation("tanh"),
    "ReLU": lambda: keras.layers.ReLU(negative_slope=0.5),
    "MaxPooling2D": lambda: keras.layers.MaxPooling2D(2),
}


def snapshot(layer):
    return [variable.numpy() for variable in layer.variables]


def restore(layer, values):
    for variable, value in zip(layer.variables, values):
        variable.assign(value)


@pytest.mark.parametrize("training", (True, False), ids=("training", "inference"))
def test_a_weighted_layer_is_weight_times_layer(training):
    # All read one state, so that a first step which is shared wrongly shows too.
    tensor, weight = np.random.normal(size=(BATCH, 8, 8, FILTERS)).astype("float32"), ops.convert_to_tensor(0.3)
    state = CuboidState(tensor)
    for name, make in (OURS | FOREIGN).items():
        layer = make()
        layer.build(tensor.shape)
        randomize(layer)
        before = snapshot(layer)
        expected = 0.3 * ops.convert_to_numpy(layer(tensor, training=training))
        after = snapshot(layer)
        restore(layer, before)  # the state of Dropout's generator too
        outputs = ops.convert_to_numpy(apply(layer, state, weight, training))
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5, err_msg=name)
        for ours, theirs in zip(snapshot(layer), after):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_first_step_is_computed_once_for_all_that_share_it(monkeypatch):
    calls, call = [], keras.layers.ReLU.call
    monkeypatch.setattr(keras.layers.ReLU, "call", lambda self, x: calls.append(self) or call(self, x))
    state = CuboidState(np.ones((BATCH, 8, 8, FILTERS), "float32"))
    for layer in (ReLUConvBN(4), ReLUConvBN(6, 3, 2), layers.DilConv(4), layers.SplitConv(4)):
        layer.build(state.tensor.shape)
        apply(layer, state, ops.convert_to_tensor(1.0))
    assert len(calls) == 1


class Scattered(layers.LayerSequence):
    """A composite of one's own that begins at random."""

    def __init__(self, filters, **options):
        steps = [keras.layers.Dropout(0.5), layers.Conv2D(filters)]
        super().__init__(steps, {"filters": filters}, **options)


def test_what_is_random_is_not_shared():
    state = CuboidState(np.ones((BATCH, 8, 8, FILTERS), "float32"))
    one, other = Scattered(2), Scattered(2)
    for layer in (one, other):
        layer.build(state.tensor.shape)
    other.steps[1].kernel.assign(one.steps[1].kernel)
    weight = ops.convert_to_tensor(1.0)
    outputs = [ops.convert_to_numpy(apply(layer, state, weight, training=True)) for layer in (one, other)]
    assert not np.allclose(*outputs)


# --- mixing weights ---


@every_cuboid
@pytest.mark.parametrize("kind", weighting.WEIGHTINGS)
def test_mixing_weights_are_the_papers_over_the_whole_grid(name, kind, monkeypatch):
    cuboid = CUBOIDS[name]
    monkeypatch.setattr(cuboid, "weighting", kind)
    alphas = random_alphas(cuboid)
    for logits, weights, soft in zip(alphas, cuboid.mixing_weights(alphas), cuboid.weights(alphas)):
        expected = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(soft, expected.reshape(soft.shape), rtol=1e-5)
        if kind == "max_w":  # Eq. 3
            expected = 1 - expected.max() + expected
            assert np.isclose(expected.max(), 1.0)
        assert weights.shape == (len(logits), cuboid.num_choices)
        np.testing.assert_allclose(weights, expected.reshape(weights.shape), rtol=1e-5)


def test_init_alphas_start_small_and_from_a_seed():
    cuboid = CUBOIDS["three axes"]
    first, again, other = cuboid.init_alphas(1), cuboid.init_alphas(1), cuboid.init_alphas(2)
    assert [a.shape for a in first] == [(4, 3, 2, 1), (2, 3, 2, 1)] and first[0].dtype == "float32"
    for a, b, c in zip(first, again, other):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
    alphas = MultiChannelNet().init_alphas(0)
    assert [a.shape for a in alphas] == [(4, 4, 2)] * 8 and np.std(alphas) == pytest.approx(1e-3, rel=0.2)


# --- costs ---

MEASURES = ("addmults_paper", "parameters")


@pytest.fixture(scope="module")
def costs():
    """(name of a cuboid, measure) → its Costs."""

    def of(name, measure):
        return CUBOIDS[name].costs(lambda layer, shape: getattr(cost.of_layer(layer, shape), measure), SHAPE, CLASSES)

    return functools.cache(of)


@every_cuboid
def test_the_cost_of_a_path_is_that_of_its_network(name, costs):
    cuboid = CUBOIDS[name]
    for path in random_paths(cuboid, 4):
        exact = cost.count(cuboid.network(path, SHAPE, CLASSES).without_auxiliary())
        for measure in MEASURES:
            assert cuboid.cost_of(path, costs(name, measure)) == getattr(exact, measure), (path, measure)
    tables = costs(name, "parameters").choices
    assert [table.shape for table in tables] == [a.shape for a in cuboid.init_alphas(0)]


def mean_cost(cuboid, alphas, costs):
    """The mean over all paths: the first grid draws stem and choice, each state its own choice from then on."""
    total = 0.0
    alphas = [np.reshape(a, (len(a), -1)).astype("float64") for a in alphas]
    for path in every_path(cuboid):
        first, *others = cuboid.route(path.routes[0])
        chance = np.exp(alphas[0][first]) / np.exp(alphas[0]).sum()
        for logits, (state, choice) in zip(alphas[1:], others):
            chance *= np.exp(logits[state, choice]) / np.exp(logits[state]).sum()
        total += chance * cuboid.cost_of(path, costs)
    return total


@every_cuboid
@pytest.mark.parametrize("measure", MEASURES)
def test_the_expected_cost_of_equal_alphas_is_the_mean_over_all_paths(name, measure, costs):
    cuboid, table = CUBOIDS[name], costs(name, measure)
    mean = np.mean([cuboid.cost_of(path, table) for path in every_path(cuboid)])
    equal = [np.full(np.shape(a), 0.7, "float32") for a in cuboid.init_alphas(0)]
    assert float(cuboid.expected_cost(equal, table)) == pytest.approx(mean, rel=1e-5)
    alphas = random_alphas(cuboid)
    assert float(cuboid.expected_cost(alphas, table)) == pytest.approx(mean_cost(cuboid, alphas, table), rel=1e-5)


def test_the_gradient_of_the_expected_cost_is_that_of_the_mean(costs):
    cuboid, table = CUBOIDS["multichannel"], costs("multichannel", "parameters")
    alphas = [a.astype("float64") for a in random_alphas(cuboid)]
    arrays = [a.astype("float32") for a in alphas]
    _, _, slopes = gradient(lambda values: (cuboid.expected_cost(values, table), ()), arrays)
    step = 1e-5
    for logits, slope in zip(alphas, slopes):
        for index in np.ndindex(logits.shape):
            ends = []
            for sign in (1, -1):
                logits[index] += sign * step
                ends.append(mean_cost(cuboid, alphas, table))
                logits[index] -= sign * step
            assert slope[index] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3, abs=1e-2)


# --- extraction, free and within a budget ---


def score(cuboid, path, weights):
    return sum(w[step] for w, step in zip(weights, cuboid.route(path.routes[0])))


@every_cuboid
@pytest.mark.parametrize("measure", MEASURES)
def test_extraction_finds_the_best_path_within_any_limit(name, measure, costs):
    cuboid, table = CUBOIDS[name], costs(name, measure)
    alphas = random_alphas(cuboid, seed=2)
    weights = cuboid.weights(alphas)
    scored = [(score(cuboid, p, weights), cuboid.cost_of(p, table), p) for p in every_path(cuboid)]
    by_cost = sorted(number for _, number, _ in scored)
    for limit in {by_cost[0], by_cost[len(by_cost) // 10], by_cost[len(by_cost) // 2] + 0.5, by_cost[-1]}:
        best = max(s for s, number, _ in scored if number <= limit)
        found = cuboid.extract(alphas, costs=table, limit=limit)
        assert cuboid.cost_of(found, table) <= limit
        assert score(cuboid, found, weights) == pytest.approx(best, abs=1e-12)
    assert cuboid.extract(alphas) == cuboid.extract(alphas, costs=table, limit=by_cost[-1]) == max(scored)[2]
    assert cuboid.extract(alphas, "exhaustive", name="found") == Path(cuboid.name, max(scored)[2].routes, "found")

    with pytest.raises(ConfigError) as caught:
        cuboid.extract(alphas, costs=table, limit=by_cost[0] - 1)
    assert caught.value.exit_code == 3 and f"{by_cost[0]:,.0f}" in caught.value.allowed


def test_a_sample_is_a_function_of_its_seed():
    cuboid = CUBOIDS["three axes"]
    assert cuboid.sample(3, "lucky") == cuboid.sample(3, "lucky") and cuboid.sample(3, "lucky").name == "lucky"
    drawn = {cuboid.sample(seed) for seed in range(600)}
    assert drawn == set(every_path(cuboid)) and len(drawn) == 4 * 6 * 6  # each can be drawn


# --- paths as files ---


def as_written(path):
    return json_files.loads(path.as_json(), "file")


@every_cuboid
def test_a_path_comes_back_from_its_file(name):
    cuboid = CUBOIDS[name]
    several = together(random_paths(cuboid, 3))
    for path in (cuboid.sample(0, "my-path_1.0"), several):
        again = paths.Path.from_dict(as_written(path))
        assert again == path and again.as_dict() == path.as_dict()
        assert routes_of(cuboid, again) == routes_of(cuboid, path)
        assert max(len(line) for line in path.as_json().splitlines()) < 100


def test_the_axes_of_a_choice_can_be_written_in_any_order():
    cuboid = CUBOIDS["multichannel"]
    path = cuboid.sample(0)
    turned = tuple(tuple(reversed(choice)) for choice in path.routes[0])
    assert turned != path.routes[0] and cuboid.route(turned) == cuboid.route(path.routes[0])


GOOD = {"space": "multichannel", "routes": [[{"filters": 2}, *[{"filters": 4, "primitive": "SharpSepConv"}] * 2]]}


def test_the_good_file_is_good():
    CUBOIDS["multichannel"].network(paths.Path.from_dict(GOOD), SHAPE, CLASSES)


def changed(change):
    fields = json.loads(json.dumps(GOOD))
    change(fields)
    return fields


BROKEN = {
    "no object": ([], "path", "expected a JSON object"),
    "no routes": (changed(lambda f: f.pop("routes")), "path", "missing routes"),
    "no space": (changed(lambda f: f.pop("space")), "path", "missing space"),
    "null space": (changed(lambda f: f.update(space=None)), "path: space", "name of a space"),
    "unknown key": (changed(lambda f: f.update(route=[])), "path", "unknown key 'route'"),
    "version": (changed(lambda f: f.update(schema_version=2)), "path: schema_version", "unknown version"),
    "name": (changed(lambda f: f.update(name="../etc")), "path: name", "plain file name"),
    "name of space": (changed(lambda f: f.update(space="a/b")), "path: space", "plain file name"),
    "no route": (changed(lambda f: f.update(routes=[])), "path: routes", "expected routes"),
    "routes as text": (changed(lambda f: f.update(routes="all")), "path: routes", "expected routes"),
    "many routes": (changed(lambda f: f.update(routes=f["routes"] * 65)), "path: routes", "expected routes"),
    "empty route": (changed(lambda f: f["routes"].append([])), "path: routes[1]", "expected choices"),
    "stem alone": (changed(lambda f: f["routes"].append([{}])), "path: routes[1]", "expected choices"),
    "long route": (changed(lambda f: f["routes"][0].extend([{}] * 256)), "path: routes[0]", "expected choices"),
    "lengths": (changed(lambda f: f["routes"].append(f["routes"][0][:2])), "path: routes", "different lengths"),
    "choice": (changed(lambda f: f["routes"][0].insert(1, 4)), "path: routes[0][1]", "expected a choice"),
    "many axes": (
        changed(lambda f: f["routes"][0].insert(1, {str(axis): 1 for axis in range(17)})),
        "path: routes[0][1]",
        "expected a choice",
    ),
    "label": (changed(lambda f: f["routes"][0][1].update(filters=[4])), "path: routes[0][1].filters", "a label"),
    "NaN": (
        changed(lambda f: f["routes"][0][1].update(filters=float("nan"))),
        "path: routes[0][1].filters",
        "a label",
    ),
}


@pytest.mark.parametrize(
    "axes, positions, where",
    [
        ({"kernel_size": "3"}, 1, "axes.kernel_size"),
        ({"kernel_size": 3}, 1, "axes.kernel_size"),
        ([("kernel_size", (3, 5))], 1, "axes"),
        ({"kernel_size": (3, 5)}, [{}, {"kernel_size": 3}], "positions[1]"),
    ],
)
def test_axes_are_values_to_choose_from(axes, positions, where):
    with pytest.raises(ConfigError) as caught:
        HyperCuboid(axes, SharpSepConv, positions)
    assert caught.value.where == where


def test_alphas_of_another_space_have_no_path():
    space = HyperCuboid({"filters": (4, 8)}, SharpSepConv, 2)
    for alphas in ([np.zeros((1, 2))], [np.zeros((1, 2)), np.full((2, 2), np.nan)], [np.zeros((2, 2))] * 2):
        with pytest.raises(ConfigError, match="no alphas of this space"):
            space.extract(alphas)
    with pytest.raises(ConfigError, match="unknown strategy"):
        space.extract(space.init_alphas(0), "dijkstra")
    with pytest.raises(ConfigError, match="no other strategy"):
        space.extract(space.init_alphas(0), "beam", limit=10**9)


@pytest.mark.parametrize("fields, where, problem", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_with_its_place(fields, where, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        paths.Path.from_dict(fields)
    assert caught.value.exit_code == 3 and caught.value.where == where


def step(change):
    return changed(lambda f: f["routes"][0][1].update(change))


FOREIGN_PATHS = {
    "axis": (step({"depth": 3}), "routes[0][1]", "other axes", None),
    "axis left out": (
        changed(lambda f: f["routes"][0][1].pop("filters")),
        "routes[0][1]",
        "other axes",
        None,
    ),
    "label": (step({"primitive": "SharpSepCon"}), "routes[0][1].primitive", "no such choice", "SharpSepConv?"),
    "number": (step({"filters": 5}), "routes[0][1].filters", "no such choice", None),
    "text for a number": (step({"filters": "4"}), "routes[0][1].filters", "no such choice", "did you mean 4?"),
    "stem": (changed(lambda f: f["routes"][0][0].update(filters=8)), "routes[0][0].filters", "no such choice", None),
    "short": (changed(lambda f: f["routes"][0].pop()), "routes[0]", "another length", None),
    "long": (changed(lambda f: f["routes"][0].append(f["routes"][0][1])), "routes[0]", "another length", None),
}


@pytest.mark.parametrize("fields, where, problem, hint", FOREIGN_PATHS.values(), ids=FOREIGN_PATHS)
def test_a_path_of_another_cuboid_is_refused_with_its_place(fields, where, problem, hint):
    with pytest.raises(ConfigError, match=problem) as caught:
        CUBOIDS["multichannel"].network(paths.Path.from_dict(fields), SHAPE, CLASSES)
    assert caught.value.exit_code == 3 and caught.value.where == where
    assert hint is None or hint in caught.value.next_step


def test_files_that_are_no_strict_json_are_refused(tmp_path):
    text = json.dumps(GOOD)
    file = tmp_path / "path.json"
    for broken in (
        text.replace('"filters": 2', '"filters": 2, "filters": 4'),
        text.replace('"filters": 2', '"filters": NaN'),
        text.replace('"filters": 2', '"filters": Infinity'),
        text[:-1],
        f"Path({text})",
    ):
        file.write_text(broken)
        for read in (paths.load, architectures.architecture):
            with pytest.raises(ConfigError) as caught:
                read(file)
            assert caught.value.exit_code == 3 and str(file) in caught.value.where
    file.write_text(text)
    assert paths.load(file) == paths.Path.from_dict(GOOD)


def test_architectures_come_from_files_and_by_name(tmp_path):
    path, genotype = CUBOIDS["multichannel"].sample(0, "mine"), published.genotype("DARTS_V2")
    for found in (path, genotype):
        file = tmp_path / f"{found.kind}.json"
        file.write_text(found.as_json())
        assert architectures.architecture(file) == architectures.architecture(str(file)) == found
    assert isinstance(architectures.architecture("DARTS_V2"), Genotype)
    assert architectures.architecture("MULTI_CHANNEL_MAX_W_PATH").kind == "path"
    with pytest.raises(ConfigError, match="unknown architecture") as caught:
        architectures.architecture("MULTI_CHANNEL_MAX_PATH")
    assert "MULTI_CHANNEL_MAX_W_PATH" in caught.value.next_step


def test_training_a_path_of_a_space_that_only_python_knows_needs_the_space(tmp_path):
    recipe = TrainRecipe(dataset="digits", limit=40, batch_size=8, epochs=1, warmup_epochs=0, auxiliary_weight=0.0)
    path = CUBOIDS["one state"].sample(0)
    with pytest.raises(ConfigError, match="only Python knows") as caught:
        sk.train(path, tmp_path / "run", recipe=recipe)
    assert caught.value.exit_code == 3 and caught.value.seen == "hypercuboid" and "space=" in caught.value.next_step


# --- axes of any kind ---


def test_states_are_the_shapes_that_choices_lead_to():
    shapes, outcomes = CUBOIDS["sizes"].lattice
    assert [[shape[0] for shape in states] for states in shapes] == [[256], [256, 128], [256, 128, 64]]
    # kind runs slower than strides; Identity ignores the strides
    assert outcomes[0].tolist() == [[0, 0, 0, 1, 0, 1]]
    assert outcomes[1].tolist() == [[0, 0, 0, 1, 0, 1], [1, 1, 1, 2, 1, 2]]
    assert CUBOIDS["sizes"].state_shapes(SHAPE) == [[(8, 8, 4)], [(8, 8, 4), (4, 4, 4)], [(s, s, 4) for s in (8, 4, 2)]]


def test_labels_of_values_are_their_names():
    assert CUBOIDS["sizes"].choices[::2] == [
        (("kind", None), ("strides", 1)),
        (("kind", "convolution"), ("strides", 1)),
        (("kind", "SharpSepConv"), ("strides", 1)),
    ]
    assert CUBOIDS["three axes"].choices[1] == (("kind", "sequential"), ("filters", "many"), ("strides", 2))
    assert isinstance(CUBOIDS["three axes"].make_layer(0, CUBOIDS["three axes"].choices[3]), ReLUConvBN)


def test_a_function_can_be_the_whole_axis():
    def doubled(**options):
        return keras.Sequential([SharpSepConv(4), SharpSepConv(4)], **options)

    cuboid = HyperCuboid({"block": (doubled, Identity)}, lambda block, **options: block(**options), 1, narrow_stem)
    assert cuboid.choices == [(("block", "doubled"),), (("block", "Identity"),)]
    network = cuboid.network(Path("hypercuboid", (((), (("block", "doubled"),)),)), SHAPE, CLASSES)
    assert [type(layer).__name__ for layer in network.layers][2] == "Sequential"


def test_layers_need_not_know_of_names():
    """`layer` gets a choice, `stem` one of its own, `head` nothing: no more is asked of a function."""
    cuboid = HyperCuboid(
        axes={"filters": (2, 3)},
        layer=lambda filters: SharpSepConv(filters),
        positions=1,
        stem=lambda: ConvBN(2),
        head=lambda: ReLUConvBN(4),
    )
    supernet, path = cuboid.supernet(SHAPE, CLASSES), cuboid.sample(0)
    randomize(supernet)
    load_state(cuboid.network(path, SHAPE, CLASSES), carried(supernet, cuboid, path))


class Pair(keras.layers.Layer):
    """A layer of one's own without `build`: Keras builds what it holds when it is first called."""

    def __init__(self, filters, **options):
        super().__init__(**options)
        self.filters = filters
        self.inner = keras.layers.Conv2D(filters, 3, padding="same")

    def call(self, inputs):
        return self.inner(inputs)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:3], self.filters)


@pytest.mark.filterwarnings("ignore:.build. was called")
def test_layers_need_not_know_how_to_be_built(images):
    supernet = HyperCuboid({"filters": (2, 3)}, Pair, 1, narrow_stem, head=narrow_head).supernet(SHAPE, CLASSES)
    before = len(supernet.trainable_variables)  # of which the optimizer is told
    supernet([images, [np.ones((1, 2), "float32")]])
    assert len(supernet.trainable_variables) == before


class Gained(keras.layers.Conv2D):
    """A convolution with a weight that no official module has."""

    def build(self, input_shape):
        super().build(input_shape)
        self.gain = self.add_weight(name="gain", shape=(self.filters,))

    def call(self, inputs):
        return super().call(inputs) * self.gain


def test_weights_of_ones_own_have_a_name_and_a_place():
    """Without one, a training came to its end and could not be saved."""
    make = functools.partial(Gained, kernel_size=3, padding="same")
    network = HyperCuboid({"filters": (2,)}, make, 1, narrow_stem, head=narrow_head)
    network = network.network(network.sample(0), SHAPE, CLASSES)
    randomize(network)
    state = state_dict(network)
    assert state["op_grid.0.2.gain"].shape == (2,) and state["op_grid.0.weight"].shape == (2, FILTERS, 3, 3)
    gain = next(variable for variable in network.weights if variable.name == "gain")
    gain.assign(gain * 0)
    load_state(network, state)
    np.testing.assert_array_equal(gain, state["op_grid.0.2.gain"])


class MakesParts(Pair):
    """A layer of one's own whose parts are made, and not built, when it is built."""

    def __init__(self, filters, **options):
        keras.layers.Layer.__init__(self, **options)
        self.filters = filters

    def build(self, input_shape):
        self.inner = keras.layers.Conv2D(self.filters, 3, padding="same")


def test_parts_that_are_made_in_build_are_trained(images):
    cuboid = HyperCuboid({"filters": (2, 3)}, MakesParts, 1, narrow_stem, head=narrow_head)
    supernet, network = cuboid.supernet(SHAPE, CLASSES), cuboid.network(cuboid.sample(0), SHAPE, CLASSES)
    before = [len(model.trainable_variables) for model in (supernet, network)]  # of which the optimizer is told
    supernet([images, [np.ones((1, 2), "float32")]])
    network(images)
    assert [len(model.trainable_variables) for model in (supernet, network)] == before
    assert sum("op_grid" in variable.path for variable in supernet.trainable_variables) == 4


def test_a_dense_layer_without_bias_has_its_weights_named():
    make = functools.partial(keras.layers.Dense, use_bias=False)
    supernet = HyperCuboid({"units": (2, 3)}, make, 1, narrow_stem, head=narrow_head).supernet(SHAPE, CLASSES)
    state = state_dict(supernet)
    assert "op_grid.0.0.1.weight" in state and "op_grid.0.0.1.bias" not in state
    load_state(supernet, state)


def never(**options):
    raise TypeError("no such layer")


REFUSED = {
    "no axis": (dict(axes={}), "needs an axis"),
    "no position": (dict(positions=0), "needs an axis"),
    "no value": (dict(axes={"filters": ()}), "without a value"),
    "same twice": (dict(axes={"filters": (4, 4)}), "two values with one label"),
    "equal numbers": (dict(axes={"filters": (1, True)}), "two values with one label"),
    "partials": (dict(axes={"block": [functools.partial(ConvBN, 2), functools.partial(ConvBN, 3)]}), "one label"),
    "stem": (dict(stem_axes={"filters": (4, 4)}), "two values with one label"),
    "label that JSON has not": (dict(axes={"filters": {(1, 2): 4}}), "label"),
    "a name that is no file name": (dict(name="my grid"), "plain file name"),
    "a name of a path": (dict(name="../grid"), "plain file name"),
    "no name": (dict(name=None), "needs a name"),
    "an axis without a text": (dict(axes={3: (4, 8)}), "cannot hold"),
    "more axes than a file holds": (dict(axes={f"axis_{n}": (1,) for n in range(17)}), "cannot hold"),
    "more positions than a file holds": (dict(positions=256), "more positions"),
    "label that is not finite": (dict(axes={"filters": (float("nan"), 2)}), "label"),
}


@pytest.mark.parametrize("arguments, problem", REFUSED.values(), ids=REFUSED)
def test_a_cuboid_refuses_axes_that_a_path_could_not_name(arguments, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        HyperCuboid(**{"axes": {"filters": (2, 4)}, "layer": SharpSepConv, **arguments})
    assert caught.value.exit_code == 3


UNFIT = {
    "made": dict(axes={"filters": (2, 3)}, layer=FactorizedReduce),  # an even number alone
    "made at all": dict(axes={"filters": (2,)}, layer=never),
    "known": dict(axes={"depth": (2,)}, layer=SharpSepConv),
    "read": dict(
        axes={"filters": (2,)}, layer=lambda **o: keras.layers.Dense(2), stem=lambda **o: keras.layers.Flatten()
    ),
    "read by convolutions": dict(axes={"pool": (2, 300)}, layer=lambda pool, **o: keras.layers.Conv2D(2, pool, **o)),
}


@pytest.mark.parametrize("arguments", UNFIT.values(), ids=UNFIT)
def test_a_choice_that_can_not_be_made_or_read_a_state_is_named(arguments):
    with pytest.raises(ConfigError) as caught:
        HyperCuboid(**arguments).supernet(SHAPE, CLASSES)
    assert caught.value.exit_code == 3 and caught.value.seen is not None


def test_sizes_that_part_on_small_images_are_named():
    """256 pixels halve alike under every rule; 7 do not: Keras' pool leaves 3 of them and a strided convolution 4."""
    layers_of = {"pool": lambda **o: keras.layers.MaxPooling2D(2, **o), "convolution": lambda **o: ConvBN(4, 3, 2, **o)}
    cuboid = HyperCuboid({"block": layers_of}, lambda block, **options: block(**options), 1, narrow_stem)
    assert len(cuboid.lattice[0][-1]) == 1
    for use in (cuboid.supernet, cuboid.state_shapes):
        with pytest.raises(ConfigError):
            use((7, 7, 3))


# --- the published paths ---


@pytest.mark.parametrize("name", published.path_names())
def test_a_published_path_is_read_and_written(name):
    names = published._paper("genotypes.json")["path_genotypes"][name]
    path = published.path(name)
    assert MultiChannelNet().node_names(path) == names and path.name == name
    assert paths.Path.from_dict(as_written(path)) == path
    small = multichannel.of_path(path)
    assert set(small.filters) <= {32, 64, 128, 256} and len(small.positions) == 8


def test_there_are_nine_published_paths():
    assert len(published.path_names()) == 9


@pytest.mark.parametrize(
    "name, parameters, addmults",
    (("SCALAR", 862890, 18248192), ("HANDMADE", 1035882, 15714816), ("MAX_W", 1033802, 65092096)),
)
def test_the_networks_of_table_4_have_their_size(name, parameters, addmults):
    path = published.path(f"MULTI_CHANNEL_{name}_PATH")
    counted = cost.count(multichannel.of_path(path).network(path).without_auxiliary())
    assert (counted.parameters, counted.addmults_paper) == (parameters, addmults)


@pytest.mark.parametrize("change", ("gap", "order", "filters", "stem", "nothing"))
def test_node_names_that_are_no_path_are_refused(change):
    names = list(published._paper("genotypes.json")["path_genotypes"]["MULTI_CHANNEL_SCALAR_PATH"])
    choices = [i for i, node in enumerate(names) if "c_in" in node]
    if change == "gap":
        del names[choices[1]]
    elif change == "order":
        names[choices[0]], names[choices[1]] = names[choices[1]], names[choices[0]]
    elif change == "filters":
        names[choices[1]] = re.sub(r"c_in_\d+", "c_in_16", names[choices[1]])
    elif change == "stem":
        names.remove(next(node for node in names if node.startswith("Conv3x3")))
    else:
        names = []
    with pytest.raises(ConfigError) as caught:
        multichannel.from_node_names(names, "mine")
    assert caught.value.exit_code == 3 and caught.value.where == "mine"


def test_a_path_that_is_none_of_multichannelnet_is_refused():
    half_a_stage = Path("multichannel", (((("filters", 2),), (("filters", 4), ("primitive", "SharpSepConv"))),))
    for path in (CUBOIDS["one state"].sample(0), half_a_stage):
        with pytest.raises(ConfigError, match="no path of MultiChannelNet"):
            multichannel.of_path(path)


# --- the search ---


@pytest.fixture(scope="module")
def batches():
    generator = np.random.default_rng(1)
    return tuple(
        (generator.normal(size=(6, *SHAPE)).astype("float32"), generator.integers(0, CLASSES, 6).astype("int32"))
        for _ in range(2)
    )


def searched(count, batches, penalty_weight=None, arch_learning_rate=0.05):
    """A SearchModel after some steps, its alphas before, its expected cost before and after, and the last logs."""
    cuboid = HyperCuboid({"filters": (2, 4)}, ReLUConvBN, 2, narrow_stem, head=narrow_head)
    table = cuboid.costs(lambda layer, shape: cost.of_layer(layer, shape).parameters, SHAPE, CLASSES)
    penalty = None if penalty_weight is None else lambda alphas: penalty_weight * cuboid.expected_cost(alphas, table)
    supernet = cuboid.supernet(SHAPE, CLASSES)
    randomize(supernet)
    model = SearchModel(cuboid, supernet, SGD(0.025), Adam(arch_learning_rate), penalty=penalty)
    before = [a.numpy() for a in model.alphas]
    step = model.compiled_step()
    for _ in range(count):
        logs = step(batches)
    step.sync()
    costs = [float(cuboid.expected_cost(alphas, table)) for alphas in (before, [a.numpy() for a in model.alphas])]
    return model, before, costs, logs


def test_a_huge_penalty_lowers_the_expected_cost(batches):
    model, before, costs, logs = searched(5, batches, penalty_weight=100.0)
    assert all(np.all(a.numpy() != b) for a, b in zip(model.alphas, before))
    assert costs[1] < costs[0] and float(logs["penalty"]) == pytest.approx(100 * costs[1], rel=0.05)


def test_a_penalty_moves_the_alphas_and_leaves_the_weights_step_alone(batches):
    # So small a step of the alphas, which comes first, that the weights do not notice it.
    plain, before, _, logs = searched(1, batches, arch_learning_rate=1e-7)
    punished, *_ = searched(1, batches, penalty_weight=1e3, arch_learning_rate=1e-7)
    assert "penalty" not in logs
    for model in (plain, punished):
        assert all(np.all(a.numpy() != b) for a, b in zip(model.alphas, before))
    assert any(np.any(a.numpy() != b.numpy()) for a, b in zip(plain.alphas, punished.alphas))
    start = plain.space.supernet(SHAPE, CLASSES)
    randomize(start)
    for ours, theirs, first in zip(plain.supernet.weights, punished.supernet.weights, start.weights):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6)
        assert not np.allclose(ours.numpy(), first.numpy(), rtol=1e-5, atol=1e-6), first.path
