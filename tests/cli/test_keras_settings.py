"""No setting of the user's Keras changes what a command answers or a run writes; Python is told where it may."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from support.command_line import sharpkeras
from support.keras_settings import HOSTILE, hostile_keras

from sharpkeras.errors import ConfigError
from sharpkeras.layers import SharpSepConv
from sharpkeras.measure import cost
from sharpkeras.optimizers import SGD
from sharpkeras.spaces.cell.genotype import Genotype
from sharpkeras.spaces.cell.network import CellNetwork
from sharpkeras.spaces.hypercuboid.multichannel import MultiChannelNet
from sharpkeras.spaces.hypercuboid.space import HyperCuboid
from sharpkeras.training.training_model import TrainingModel

ON_TENSORFLOW = os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow"
KERAS_JSON = {**HOSTILE, "backend": "torch", "nnx_enabled": True}
VARIABLES = {"KERAS_MAX_EPOCHS": "1", "KERAS_MAX_STEPS_PER_EPOCH": "1", "KERAS_NNX_ENABLED": "true"}
COMMANDS = """
import contextlib, io, sys
from sharpkeras_cli.main import main
for line in sys.argv[1:]:
    try:
        main(line.split())
    except SystemExit as ending:
        assert ending.code == 0, line
"""
LINES = (
    "cost SHARPSEPCONV_DARTS --json",
    "search --smoke --space skip_connect,max_pool_3x3,avg_pool_3x3,sep_conv_3x3 --out search",
    "train search --smoke --out train",
    "evaluate train --json",
    "export train --out model.onnx",
)
PAIRS = (("sep_conv_3x3", 0), ("skip_connect", 1), ("avg_pool_3x3", 0), ("dil_conv_3x3", 2))
GENOTYPE = Genotype(PAIRS, (3,), PAIRS, (3,))


@pytest.mark.slow
@pytest.mark.skipif(not ON_TENSORFLOW, reason="exports on TensorFlow")
def test_no_setting_of_keras_changes_a_command(tmp_path):
    """`cost` answered 417,762 parameters and 230,934,608 AddMults, and a search ended in a bug."""
    answers = {}
    for name, settings in {
        "plain": None,
        "hostile": KERAS_JSON,
        "broken": {"floatx": "bfloat16", "epsilon": 1},
    }.items():
        folder, home = tmp_path / name, tmp_path / f"keras of {name}"
        folder.mkdir(), home.mkdir()
        if settings:
            (home / "keras.json").write_text(json.dumps(settings))
        before = sorted(home.iterdir())
        lines = LINES if name != "broken" else LINES[:1]
        environment = {variable: value for variable, value in os.environ.items() if not variable.startswith("KERAS_")}
        environment |= {"KERAS_HOME": str(home), **(VARIABLES if settings else {})}
        command = [sys.executable, "-c", COMMANDS, *lines]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert sorted(home.iterdir()) == before  # nor does it write any
        first, _ = json.JSONDecoder().raw_decode(done.stdout)
        assert (first["parameters"], first["addmults_paper"], first["addmults_conv_dense"]) == (
            3_555_622,
            578_604_672,
            558_384_768,
        )
        answers[name] = results(folder)
    assert len(answers["plain"]) > 4
    assert answers["hostile"] == answers["plain"]


@pytest.mark.skipif(not ON_TENSORFLOW, reason="this command runs on the default backend")
def test_a_command_that_python_calls_has_its_own_settings():
    with hostile_keras():
        answer = sharpkeras("cost", "SHARPSEPCONV_DARTS", "--for", "cifar10", "--num-cells", "3", "--json")
        assert keras.config.floatx() == "float32" and keras.config.image_data_format() == "channels_last"
    assert (
        answer.json["parameters"]
        == sharpkeras("cost", "SHARPSEPCONV_DARTS", "--num-cells", "3", "--json").json["parameters"]
    )


def results(folder):
    """Name → checksum of the arrays, the architecture and the exported network of the runs in a folder."""
    kinds = ("*.safetensors", "architecture.json", "genotype.json", "model.onnx")
    files = sorted(path for kind in kinds for path in folder.rglob(kind))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


NETWORKS = {
    "cells": lambda: CellNetwork(GENOTYPE, num_classes=3, init_channels=4, num_cells=3, auxiliary=True),
    "ImageNet": lambda: CellNetwork(GENOTYPE, stem="imagenet", input_shape=(224, 224, 3), init_channels=4, num_cells=3),
    "path": lambda: path_network(),
}


def path_network():
    space = MultiChannelNet((4, 8), num_stages=1, final_filters=8)
    return space.network(space.sample(0), num_classes=3)


@pytest.mark.parametrize("kind", NETWORKS)
def test_no_setting_of_keras_changes_a_network(kind):
    plain = NETWORKS[kind]()
    x = np.random.normal(size=(2, *plain.input_shape[1:])).astype("float32")
    weights, sizes = plain.get_weights(), cost.count(plain.without_auxiliary())
    expected = [plain(x, training=training) for training in (False, True)]
    with hostile_keras():
        other = NETWORKS[kind]()
        assert cost.count(other.without_auxiliary()) == sizes
        other.set_weights(weights)
        for training in (False, True):
            found = other(x, training=training)
            for old, new in zip(keras.tree.flatten(expected[training]), keras.tree.flatten(found)):
                np.testing.assert_array_equal(old, new)


def test_no_setting_of_keras_changes_what_a_path_costs():
    space = MultiChannelNet((4, 8), num_stages=1, final_filters=8)

    def measure(layer, shape):
        return cost.of_layer(layer, shape).addmults_paper

    expected = space.costs(measure)
    with hostile_keras():
        found = space.costs(measure)
    assert found.fixed == expected.fixed
    for old, new in zip(expected.choices, found.choices):
        np.testing.assert_array_equal(old, new)


def test_a_layer_with_its_channels_first_is_no_choice():
    def convolution(filters):
        return keras.Sequential([keras.layers.Conv2D(filters, 3, padding="same"), keras.layers.ReLU()])

    space = HyperCuboid(axes={"filters": (4, 8)}, layer=convolution, positions=1)
    with hostile_keras(), pytest.raises(ConfigError) as caught:
        space.supernet((8, 8, 3))
    assert 'set_image_data_format("channels_last")' in caught.value.next_step
    assert HyperCuboid(axes={"filters": (4, 8)}, layer=SharpSepConv, positions=1).supernet((8, 8, 3))


def test_training_in_half_precision_by_floatx_is_refused():
    network = NETWORKS["cells"]()
    with hostile_keras(), pytest.raises(ConfigError) as caught:
        TrainingModel(network, SGD(0.1))
    assert caught.value.seen == "float16" and "set_floatx('float32')" in caught.value.next_step
    TrainingModel(network, SGD(0.1))


def test_where_the_commands_send_keras_is_no_folder():
    assert Path(os.devnull).exists() and not Path(os.devnull).is_dir()
