"""`.keras` files of models that use sharpkeras: what loads them, and what comes back."""

import importlib
import re
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

from sharpkeras import layers, serialization
from sharpkeras.data.autoaugment import NUM_DRAWS, AutoAugment
from sharpkeras.optimizers import SGD, Adam
from sharpkeras.schedule import CosinePowerAnnealing
from sharpkeras.spaces.cell.genotype import Genotype
from sharpkeras.spaces.cell.network import CellNetwork
from sharpkeras.spaces.cell.supernet import CellSupernet
from sharpkeras.spaces.hypercuboid.multichannel import MultiChannelNet
from sharpkeras.training.training_model import TrainingModel

PAIRS = (("sep_conv_3x3", 0), ("skip_connect", 1), ("max_pool_3x3", 0), ("dil_conv_3x3", 2))
GENOTYPE = Genotype(PAIRS, (3,), PAIRS, (3,))


def images(size=32, batch=4):
    return np.random.normal(size=(batch, size, size, 3)).astype("float32")


def cell_network(**sizes):
    return CellNetwork(GENOTYPE, num_classes=3, **{"init_channels": 4, "num_cells": 3, "auxiliary": True, **sizes})


def path_network(**sizes):
    space = MultiChannelNet((4, 8), num_stages=1, final_filters=8)
    return space.network(space.sample(0), num_classes=3, **sizes)


NETWORKS = {"cells": cell_network, "path": path_network}


def test_every_class_that_keras_saves_is_in_the_table():
    found = {}
    for module, names in serialization.CLASSES.items():
        for name in names:
            known_as = serialization.NAMES_IN_FILES.get(name, name)
            found[f"sharpkeras>{known_as}"] = getattr(importlib.import_module(f"sharpkeras.{module}"), name)
    known = keras.saving.get_custom_objects()
    assert {name: known[name] for name in known if name.startswith("sharpkeras>")} == found


LOAD = """
import sys
order, file, array, expected = sys.argv[1:]
if order == "sharpkeras first":
    import sharpkeras
    assert not {"keras", "tensorflow", "jax"} & set(sys.modules)
    import keras
else:
    import keras
    import sharpkeras
import numpy as np
x, model = np.load(array), keras.saving.load_model(file)
np.testing.assert_array_equal(model(x), np.load(expected))
assert type(model.optimizer).__module__ == "sharpkeras.optimizers", type(model.optimizer)
assert type(model.optimizer._learning_rate).__module__ == "sharpkeras.schedule"
model.fit(x, np.zeros(len(x)), verbose=0)
"""


@pytest.mark.parametrize("order", ("sharpkeras first", "keras first"))
def test_a_model_loads_in_a_fresh_process_after_import_sharpkeras_alone(order, tmp_path):
    inputs = keras.Input((None, None, 3))
    features = layers.FactorizedReduce(6)(layers.SharpSepConv(4, strides=2)(inputs))
    features = keras.layers.GlobalAveragePooling2D()(layers.DropPath(0.3)(layers.ResizablePool(8)(features)))
    model = keras.Model(inputs, keras.layers.Dense(3)(features))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(SGD(CosinePowerAnnealing(0.1, 0.0, 10)), loss)
    x, files = images(12), [tmp_path / name for name in ("model.keras", "x.npy", "expected.npy")]
    model.fit(x, np.zeros(len(x)), verbose=0)
    model.save(files[0])
    np.save(files[1], x)
    np.save(files[2], model(x))
    done = subprocess.run([sys.executable, "-c", LOAD, order, *map(str, files)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("policy", ("float32", "mixed_bfloat16"))
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_trained_network_is_saved_and_loaded(kind, policy, tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        network = NETWORKS[kind]()
    finally:
        keras.config.set_dtype_policy(before)
    x = images()
    if kind == "cells":
        network.drop_path_rate.assign(0.5)
    for variable in network.variables:
        if "moving" in variable.path:
            variable.assign(np.random.uniform(0.5, 1.5, variable.shape))
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    assert type(loaded) is type(network)
    assert [w.shape for w in loaded.weights] == [w.shape for w in network.weights]
    for old, new in zip(network.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(old, new)
    for training in (False, True):  # in training the same paths are dropped
        expected, found = network(x, training=training), loaded(x, training=training)
        assert expected.keys() == found.keys()
        for old, new in zip(keras.tree.flatten(expected), keras.tree.flatten(found)):
            np.testing.assert_array_equal(old, new)
    computing = [
        [layer for layer in model._flatten_layers() if type(layer) is not keras.layers.InputLayer]
        for model in (network, loaded)
    ]
    assert len({tuple(layer.dtype_policy.name for layer in layers) for layers in computing}) == 1
    for model in (
        network.inference_model(),
        network.without_auxiliary(),
        loaded.inference_model(),
        loaded.without_auxiliary(),
    ):
        np.testing.assert_array_equal(keras.tree.flatten(model(x))[0], network(x)["logits"])
    with zipfile.ZipFile(tmp_path / "network.keras") as archive:
        assert b"_parts" not in archive.read("model.weights.h5")


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_loaded_network_is_trained_on(kind, tmp_path):
    network, x, labels = NETWORKS[kind](), images(), np.int32([0, 1, 2, 0])
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    losses = []
    for model in (network, loaded):
        model.remat = model is loaded  # it has its stages
        if kind == "cells":
            model.drop_path_rate.assign(0.2)
        step = TrainingModel(model, SGD(0.1, 0.9)).compiled_step()
        losses.append([float(step((x, labels))["train_loss"]) for _ in range(3)])
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_within_a_model_and_a_clone(kind, tmp_path):
    network, x = NETWORKS[kind](), images()
    network.trainable = False
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, keras.layers.Softmax()(network(inputs)["logits"]))
    model.save(tmp_path / "model.keras")
    clone = keras.models.clone_model(network)
    for layer in network.layers:
        clone.get_layer(layer.name).set_weights(layer.get_weights())
    for again in (model, keras.saving.load_model(tmp_path / "model.keras")):
        before = again.get_weights()
        np.testing.assert_array_equal(again(x, training=True), model(x))
        for old, new in zip(before, again.get_weights()):
            if old.dtype != "uint32":  # the state of drop path
                np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(clone(x)["logits"], network(x)["logits"])


def test_files_know_the_classes_of_the_cell_space_by_their_first_names():
    supernet = CellSupernet(("none", "skip_connect"), num_cells=2, init_channels=4)
    for model, name in ((cell_network(), "Network"), (supernet, "Supernet")):
        config = keras.saving.serialize_keras_object(model)
        assert config["registered_name"] == f"sharpkeras>{name}"
        assert re.fullmatch(rf"{name.lower()}(_\d+)?", config["config"]["name"])
        config["class_name"] = name  # which was the name of the class
        assert type(keras.saving.deserialize_keras_object(config)) is type(model)


def test_a_network_without_a_name_has_the_next_number():
    keras.backend.clear_session()
    assert [cell_network().name for _ in range(2)] == ["network", "network_1"]


def test_a_network_for_images_of_unknown_size(tmp_path):
    network = cell_network(input_shape=(None, None, 3), auxiliary=False)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    fixed = cell_network(input_shape=(13, 13, 3), auxiliary=False)
    fixed.set_weights(network.get_weights())
    for size in (13, 32):
        np.testing.assert_array_equal(network(images(size))["logits"].shape, (4, 3))
    x = images(13)
    np.testing.assert_array_equal(network(x)["logits"], fixed(x)["logits"])
    np.testing.assert_array_equal(network(x)["logits"], loaded(x)["logits"])
    with pytest.raises(Exception, match="auxiliary head does not fit"):
        cell_network(input_shape=(None, None, 3))


def test_augmentation_and_optimizers_come_back(tmp_path):
    inputs = keras.Input((8, 8, 3)), keras.Input((NUM_DRAWS,))
    model = keras.Model(inputs, AutoAugment("cifar10")(*inputs))
    model.compile(Adam(1e-3, l2=0.1))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    values = [np.random.randint(0, 256, (5, 8, 8, 3)).astype("float32"), np.random.rand(5, NUM_DRAWS)]
    np.testing.assert_array_equal(model(values), loaded(values))
    assert loaded.optimizer.get_config() == model.optimizer.get_config()


def test_what_trains_is_not_saved():
    model = TrainingModel(cell_network(), SGD(0.1))
    with pytest.raises(NotImplementedError, match="save its network"):
        model.get_config()
