"""Memory of a step before it runs, what a process may take, the forecast of a run, and rematerialisation."""

import random
import resource
import types

import keras
import numpy as np
import pytest

from sharpkeras.data import batches as streams
from sharpkeras.engine.checkpointing import model_arrays
from sharpkeras.engine.epochs import CHECKPOINTS_ON_DISK
from sharpkeras.engine.step_model import backend_step
from sharpkeras.errors import ResourceError
from sharpkeras.experiment import forecast as forecasts
from sharpkeras.experiment.setup import RunSetup
from sharpkeras.measure.memory import available_bytes
from sharpkeras.optimizers import SGD, Adam
from sharpkeras.searching.search_model import SearchModel
from sharpkeras.spaces.cell.genotype import Genotype
from sharpkeras.spaces.cell.network import CellNetwork
from sharpkeras.spaces.cell.space import CellSpace
from sharpkeras.spaces.hypercuboid import multichannel
from sharpkeras.training.training_model import TrainingModel

SHAPE, CLASSES = (8, 8, 3), 5
PAIRS = (("sep_conv_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 0), ("dil_conv_3x3", 2))
GENOTYPE = Genotype(PAIRS, (2, 3), PAIRS, (2, 3))
NAMES = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3")

on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a graph of TensorFlow")


def cell_search(num_nodes=1, init_channels=4, num_cells=2):
    random.seed(0)
    space = CellSpace(NAMES, "darts", "max_w", num_nodes=num_nodes, num_concatenated=num_nodes)
    return search_model(space, space.supernet(SHAPE, CLASSES, init_channels, num_cells=num_cells))


def cuboid_search():
    random.seed(0)
    space = multichannel.MultiChannelNet([4, 8], weighting="max_w", num_stages=1, final_filters=8)
    return search_model(space, space.supernet(SHAPE, CLASSES))


def search_model(space, supernet):
    return SearchModel(space, supernet, SGD(0.05), Adam(0.01))


def cell_training():
    """With drop path, so that the second run of a cell has to draw what the first one drew."""
    random.seed(0)
    network = CellNetwork(GENOTYPE, "darts", input_shape=SHAPE, num_classes=CLASSES, init_channels=4, num_cells=2)
    network.drop_path_rate.assign(0.3)
    return TrainingModel(network, SGD(0.05))


def path_training():
    random.seed(0)
    space = multichannel.MultiChannelNet([4, 8], weighting="max_w", num_stages=1, final_filters=8)
    return TrainingModel(space.network(space.sample(0), SHAPE, CLASSES), SGD(0.05))


def batch(seed, size=8):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, *SHAPE)).astype("float32"), rng.integers(0, CLASSES, size).astype("int32")


def data_of(model, size=8):
    return (batch(0, size), batch(1, size)) if isinstance(model, SearchModel) else batch(0, size)


def network_of(model):
    return model.supernet if isinstance(model, SearchModel) else model.network


# --- the memory of a step ---


def graph_of(function, *arguments):
    import tensorflow as tf

    return tf.function(function, autograph=False).get_concrete_function(*arguments).graph


@on_tensorflow
def test_a_tensor_takes_memory_until_it_is_last_read():
    import tensorflow as tf

    def function(x):
        return tf.reduce_sum(tf.nn.relu(tf.nn.relu(tf.nn.relu(tf.nn.relu(x)))))  # never more than two at once

    one = 4 * 1000  # bytes of a tensor
    x = tf.zeros((1000,))
    peak, operations = backend_step().live_bytes(graph_of(function, x))
    assert 2 * one <= peak < 2 * one + 100  # beside scalars
    assert operations == len(graph_of(function, x).get_operations())
    peak, _ = backend_step().live_bytes(graph_of(lambda x: [tf.nn.relu(x) for _ in range(5)], x))
    assert peak == 5 * one  # results are still there at the end


@on_tensorflow
def test_the_same_memory_under_another_shape_counts_once():
    import tensorflow as tf

    def function(x):
        y = tf.nn.relu(x)
        return [tf.reshape(y, shape) for shape in ((10, 100), (100, 10), (1, 1000))]

    peak, _ = backend_step().live_bytes(graph_of(function, tf.zeros((1000,))))
    assert 4000 <= peak < 4000 + 100


@on_tensorflow
def test_a_function_that_is_called_adds_its_own_peak():
    import tensorflow as tf

    def function(x):
        return tf.cond(tf.reduce_sum(x) > 0, lambda: tf.nn.relu(tf.nn.relu(tf.nn.relu(x))), lambda: x)

    graph = graph_of(function, tf.zeros((1000,)))
    peak, operations = backend_step().live_bytes(graph)
    assert 2 * 4000 <= peak < 2 * 4000 + 100  # two inside, one of which becomes the result
    assert operations > len(graph.get_operations())


def test_the_memory_of_a_step_grows_with_the_batch_and_is_known_before_it_runs():
    model = cell_training()
    before = [variable.numpy().copy() for variable in model.variables]
    small, large = (model.compiled_step().peak_bytes(data_of(model, size)) for size in (8, 64))
    assert all(np.array_equal(old, variable) for old, variable in zip(before, model.variables))
    variables = sum(np.asarray(variable).nbytes for group in model.step_variables() for variable in group)
    images = 64 * np.prod(SHAPE) * 4
    assert variables < small < large - images


def test_a_step_is_traced_once_for_its_memory_and_for_itself():
    model, traced = cell_training(), []
    update = model.update
    model.update = lambda *arguments: traced.append(None) or update(*arguments)
    step = model.compiled_step()
    first = step.peak_bytes(data_of(model))
    losses = [float(step(data_of(model))["train_loss"]) for _ in range(2)]
    assert step.peak_bytes(data_of(model)) == first
    assert len(traced) == 1
    step.sync()
    other = cell_training()
    plain = other.compiled_step()
    assert losses == pytest.approx([float(plain(data_of(other))["train_loss"]) for _ in range(2)], rel=1e-5)


# --- what there is ---


def files(root, contents):
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


MACHINE = {"proc/meminfo": "MemTotal:       9000 kB\nMemAvailable:   8000 kB\n"}
SECOND = {  # a group below a group, the upper one with the narrower limit
    "proc/self/cgroup": "0::/outer/inner\n",
    "sys/fs/cgroup/outer/inner/memory.max": "max\n",
    "sys/fs/cgroup/outer/inner/memory.current": "1000\n",
    "sys/fs/cgroup/outer/memory.max": "500000\n",
    "sys/fs/cgroup/outer/memory.current": "300000\n",
    "sys/fs/cgroup/outer/memory.stat": "anon 1\ninactive_file 70000\nactive_file 5\n",
}
FIRST = {
    "proc/self/cgroup": "5:cpu:/a\n4:hugetlb,memory:/a\n0::/\n",
    "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "400000\n",
    "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "100000\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "100000\n",
}
IN_A_CONTAINER = {  # which sees its own group as the topmost one
    "proc/self/cgroup": "0::/seen/from/outside\n",
    "sys/fs/cgroup/memory.max": "600000\n",
    "sys/fs/cgroup/memory.current": "500000\n",
}


@pytest.mark.parametrize(
    ("contents", "expected"),
    (
        ({}, None),
        (MACHINE, 8_192_000),
        ({**MACHINE, **SECOND}, 270_000),
        ({**MACHINE, **FIRST}, 300_000),
        ({**MACHINE, **IN_A_CONTAINER}, 100_000),
        ({**MACHINE, **IN_A_CONTAINER, "sys/fs/cgroup/memory.current": "700000\n"}, 0),
    ),
)
def test_available_memory_is_the_least_of_what_is_left(tmp_path, contents, expected, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    assert available_bytes(files(tmp_path, contents)) == expected


def test_a_limit_of_addresses_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (5_000_000, resource.RLIM_INFINITY))
    status = {"proc/self/status": "Name:\tpython\nVmSize:\t    2000 kB\n"}
    assert available_bytes(files(tmp_path, {**MACHINE, **status})) == 5_000_000 - 2000 * 1024


def test_this_machine_has_memory():
    assert 10**7 < available_bytes() < 10**14


# --- the forecast ---


def forecast(model, images=20, **options):
    held_out = batch(2, images)
    made = RunSetup(
        model,
        data=lambda epoch, step: iter([data_of(model)] * 2),
        steps=3,
        held_out=lambda: streams.evaluation_batches(*held_out, 8),
        held_out_images=images,
    )
    return forecasts.forecast(made, epochs=4, **options)


@pytest.mark.parametrize("make", (cell_search, cell_training))
def test_a_forecast_adds_up_and_leaves_no_file(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = make()
    found = forecast(model, addmults=7)
    searches = isinstance(model, SearchModel)
    assert found.parameters == sum(np.prod(v.shape) for v in network_of(model).trainable_variables)
    assert found.alphas == (sum(np.prod(a.shape) for a in model.alphas) if searches else None)
    assert found.disk_bytes == CHECKPOINTS_ON_DISK * sum(array.nbytes for array in model_arrays(model).values())
    assert found.fits and found.peak_memory_bytes > found.disk_bytes / CHECKPOINTS_ON_DISK
    assert found.epoch_s == pytest.approx(3 * found.step_s + found.evaluation_s)
    assert found.evaluation_s > 0 and found.first_step_s > 0
    assert found.total_s > 4 * found.epoch_s - found.step_s
    assert found.as_dict()["addmults"] == 7
    assert not list(tmp_path.iterdir())


def test_a_forecast_runs_no_step_that_has_too_little_memory(monkeypatch):
    monkeypatch.setattr(forecasts, "memory_left", lambda: 1000)
    model = cell_training()
    before = [variable.numpy().copy() for variable in model.variables]
    found = forecast(model)
    assert not found.fits and found.as_dict()["fits"] is False
    assert found.step_s is found.total_s is found.first_step_s is None
    assert all(np.array_equal(old, variable) for old, variable in zip(before, model.variables))


class FakeStep:
    def peak_bytes(self, data):
        return 5_000_000_000


RECIPE = {"batch_size": 64, "init_channels": 16, "num_cells": 8}


@pytest.mark.parametrize(
    ("remat", "more", "expected"),
    (
        (False, {}, "add `remat`, or lower `batch_size`, `init_channels` or `num_cells`"),
        (False, {"accumulate": 1}, "lower `batch_size` (and a larger `accumulate`"),
        (True, {}, "lower `batch_size`, `init_channels`"),
    ),
)
def test_a_step_that_needs_too_much_is_refused_with_what_to_change(remat, more, expected, monkeypatch):
    monkeypatch.setattr(forecasts, "memory_left", lambda: 4_000_000_000)
    with pytest.raises(ResourceError) as caught:
        forecasts.refuse_too_large(types.SimpleNamespace(**RECIPE, **more), remat, FakeStep(), None)
    assert caught.value.exit_code == 7
    assert "batch size 64, 16 channels, 8 cells" in caught.value.seen and "5.0 GB" in caught.value.seen
    assert "4.0 GB" in caught.value.allowed
    assert expected in caught.value.next_step
    assert ("add `remat`" in caught.value.next_step) == (not remat)


@pytest.mark.parametrize("left", (None, 5_000_000_000))
def test_a_step_that_fits_or_is_not_known_to_be_too_large_is_not_refused(left, monkeypatch):
    monkeypatch.setattr(forecasts, "memory_left", lambda: left)
    forecasts.refuse_too_large(types.SimpleNamespace(**RECIPE), False, FakeStep(), None)


# --- rematerialisation ---


@pytest.mark.parametrize("make", (cell_search, cuboid_search, cell_training, path_training))
def test_what_is_computed_again_is_the_same(make):
    """Losses, gradients (by the weights and the optimizer's buffers) and moving statistics, after two steps."""
    results = []
    for remat in (False, True):
        model = make()
        network_of(model).remat = remat
        step = model.compiled_step()
        logs = [{name: float(value) for name, value in step(data_of(model)).items()} for _ in range(2)]
        step.sync()
        results.append((logs, model_arrays(model)))
    (plain_logs, plain), (logs, again) = results
    for expected, row in zip(plain_logs, logs):
        assert row == pytest.approx(expected, rel=1e-4)
    assert plain.keys() == again.keys()
    for name, expected in plain.items():
        np.testing.assert_allclose(again[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)


@on_tensorflow
def test_what_is_computed_again_takes_no_memory_in_between():
    import tensorflow as tf

    peaks = []
    for remat in (False, True):
        model = cell_search(num_nodes=3, num_cells=6)  # of which one is computed again at a time
        model.supernet.remat = remat
        images = tf.zeros((64, *SHAPE))

        def loss(images, model=model):
            weights = [variable.value for variable in model.supernet.trainable_variables]
            batch = images, tf.zeros(64, "int32")
            alphas = [variable.value for variable in model.alphas]
            return backend_step().gradient(lambda w: model.supernet_loss(w, alphas, batch), weights)[2]

        peaks.append(backend_step().live_bytes(graph_of(loss, images))[0])
    assert peaks[1] < 0.75 * peaks[0]


def test_an_evaluation_does_not_care():
    model = cell_training()
    batches = [(*batch(0), 8)]
    plain = model.logits(batches)
    model.network.remat = True
    np.testing.assert_array_equal(model.logits(batches), plain)
