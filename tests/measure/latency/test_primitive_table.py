"""Keys of the parts of a network: equal for equal layers, in every process; different for whatever changes the cost."""

import json
import subprocess
import sys

import keras
import pytest

from sharpkeras.errors import ConfigError
from sharpkeras.layers import Conv2D, ConvBN, FactorizedReduce, Identity, MaxPool, ReLUConvBN, SharpSepConv, Zero
from sharpkeras.measure.latency import primitive_table

SHAPE = (8, 8, 4)


class Bare(keras.layers.Layer):
    """A layer of one's own, whose configuration Keras writes by itself."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width


def classifier(classes=10):
    return keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(classes)])


def graph(filters=4):
    images = keras.Input(SHAPE)
    return keras.Model(images, Conv2D(filters)(images))


MAKERS = {
    "composite": lambda: SharpSepConv(4, 3, strides=2, mid_multiplier=4),
    "core": lambda: Conv2D(4, 3),
    "two branches": lambda: FactorizedReduce(4),
    "pool": lambda: MaxPool(strides=2),
    "skip": Identity,
    "sequential": classifier,
    "own": lambda: Bare(3),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_layers_of_one_configuration_have_one_key(make):
    # Keras counts names up: conv2d, conv2d_1, …
    assert primitive_table.key(make(), SHAPE) == primitive_table.key(make(), list(SHAPE))


def test_names_types_and_the_start_of_weights_do_not_matter():
    plain = primitive_table.key(Conv2D(4, 3), SHAPE)
    assert plain == primitive_table.key(Conv2D(4, 3, name="stem", dtype="mixed_bfloat16", trainable=False), SHAPE)
    assert plain == primitive_table.key(Conv2D(4, 3, kernel_initializer="zeros", kernel_regularizer="l2"), SHAPE)
    named = keras.Sequential(
        [keras.layers.GlobalAveragePooling2D(name="a"), keras.layers.Dense(10, name="b")], name="c"
    )
    assert primitive_table.key(named, SHAPE) == primitive_table.key(classifier(), SHAPE)


def test_whatever_changes_the_cost_changes_the_key():
    layers = [
        SharpSepConv(4),
        SharpSepConv(4, 5),
        SharpSepConv(4, strides=2),
        SharpSepConv(4, dilation_rate=2),
        SharpSepConv(4, mid_filters=2),
        SharpSepConv(4, affine=False),
        Conv2D(4),
        keras.layers.Conv2D(4, 1, use_bias=False),  # of the same name, with another padding
        ConvBN(4),
        ReLUConvBN(4),
        Identity(),
        Zero(),
        Bare(3),
        Bare(4),
        classifier(),
        classifier(9),
    ]
    keys = [primitive_table.key(layer, shape) for layer in layers for shape in (SHAPE, (8, 8, 2), (4, 8, 4))]
    assert len(set(keys)) == len(keys)


def test_a_key_is_short_json_that_a_reader_understands():
    assert json.loads(primitive_table.key(ConvBN(6), SHAPE)) == [
        "sharpkeras>ConvBN",
        {"affine": True, "filters": 6, "kernel_size": 3, "strides": 1},
        [8, 8, 4],
    ]
    assert json.loads(primitive_table.key(keras.layers.Dense(10), (4,)))[2] == [4]


def test_a_key_is_the_same_in_another_process():
    code = (
        "from sharpkeras.layers import SharpSepConv; from sharpkeras.measure.latency import primitive_table; "
        "SharpSepConv(2); print(primitive_table.key(SharpSepConv(4), (8, 8, 4)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == primitive_table.key(SharpSepConv(4), SHAPE), done.stderr


UNSPEAKABLE = {
    "lambda": lambda: keras.layers.Lambda(lambda x: 2 * x),
    "function": lambda: keras.layers.Conv2D(4, 1, activation=classifier),
    "inside": lambda: keras.Sequential([keras.layers.Lambda(lambda x: 2 * x)]),
    "graph": graph,
    "object": lambda: Bare(object()),
}


@pytest.mark.parametrize("make", UNSPEAKABLE.values(), ids=UNSPEAKABLE)
def test_a_layer_that_does_not_say_what_it_computes_has_no_key(make):
    with pytest.raises(ConfigError, match="does not say what it computes"):
        primitive_table.key(make(), SHAPE)
