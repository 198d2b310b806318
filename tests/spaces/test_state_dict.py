"""Official state dicts into models: what fits sets every weight, and what does not is named."""

import keras
import numpy as np
import pytest

from sharpkeras.errors import RunError
from sharpkeras.paper import published
from sharpkeras.primitives import OPS, PRIMITIVES
from sharpkeras.spaces import state_dict
from sharpkeras.spaces.cell.network import CellNetwork
from sharpkeras.spaces.cell.space import CellSpace


def network(**changes):
    sizes = dict(input_shape=(32, 32, 3), num_classes=4, init_channels=4, num_cells=4, auxiliary=True)
    genotype = changes.pop("genotype", published.genotype("SHARP_DARTS"))
    return CellNetwork(genotype, "sharp", "cifar", **{**sizes, **changes})


def supernet(ops="darts"):
    names = tuple(OPS[ops])  # every primitive there is
    return CellSpace(names, ops, num_nodes=2, num_concatenated=2).supernet((8, 8, 3), 4, init_channels=2, num_cells=3)


MODELS = {
    "cifar": network,
    "imagenet": lambda: CellNetwork(
        published.genotype("NASNet-A"),
        "darts",
        "imagenet",
        (224, 224, 3),
        4,
        init_channels=4,
        num_cells=4,
        auxiliary=True,
    ),
    "amoeba": lambda: network(genotype=published.genotype("AmoebaNet-A")),
    "supernet-darts": supernet,
    "supernet-sharp": lambda: supernet("sharp"),
}


def weights(model):
    """Every variable but drop path's rate and random state."""
    return [v for v in model.weights if v.name not in ("drop_path_rate", "seed_generator_state")]


def random_state(model):
    """A state dict of this model's keys and shapes, filled with random numbers."""
    rng = np.random.default_rng(0)
    return {
        key: rng.uniform(0.5, 1.5, array.shape).astype("float32") for key, array in state_dict.state_dict(model).items()
    }


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture
def state(model):
    return random_state(model)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_every_weight_is_set_and_comes_back(make):
    model = make()
    for variable in weights(model):
        variable.assign(np.full(variable.shape, np.nan))
    state = random_state(model)
    state_dict.load_state(model, state)
    assert all(np.isfinite(variable.numpy()).all() for variable in weights(model))
    back = state_dict.state_dict(model)
    assert back.keys() == state.keys()
    for key, array in state.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)


def test_keys_and_layouts_are_pytorchs(model):
    shapes = {key: array.shape for key, array in state_dict.state_dict(model).items()}
    assert shapes["stem.0.weight"] == (12, 3, 3, 3)
    assert shapes["stem.1.running_var"] == (12,)
    assert shapes["cells.0.preprocess0.op.1.weight"] == (4, 12, 1, 1)
    assert shapes["cells.0._ops.0.op.1.weight"] == (4, 1, 3, 3)  # depthwise
    assert shapes["cells.0._ops.0.op.2.weight"] == (32, 4, 1, 1)
    assert shapes["cells.1._ops.1.conv_1.weight"] == (4, 8, 1, 1)
    assert shapes["cells.2.preprocess0.conv_2.weight"] == (8, 16, 1, 1)
    assert shapes["auxiliary_head.features.5.weight"] == (768, 128, 2, 2)
    assert shapes["classifier.weight"] == (4, 64) and shapes["classifier.bias"] == (4,)
    assert next(iter(shapes)) == "stem.0.weight"


def test_keys_of_a_supernet_are_pytorchs():
    names = tuple(OPS["darts"])
    shapes = {key: array.shape for key, array in state_dict.state_dict(supernet()).items()}
    pool, dilated, skip = (names.index(name) for name in ("max_pool_3x3", "dil_conv_5x5", "skip_connect"))
    assert shapes[f"cells.0._ops.0._ops.{pool}.1.running_mean"] == (2,)
    assert shapes[f"cells.0._ops.4._ops.{dilated}.op.1.weight"] == (2, 1, 5, 5)
    assert shapes[f"cells.1._ops.0._ops.{skip}.conv_1.weight"] == (2, 4, 1, 1)
    assert f"cells.1._ops.4._ops.{skip}.conv_1.weight" not in shapes  # its source is a node: stride 1
    assert not any(".weight" in key and ".bn." in key for key in shapes)  # BatchNorms of a search have no scale


def test_the_layout_is_transposed_not_reshaped(model, state):
    state_dict.load_state(model, state)
    kernel = model.get_layer("stem.0").kernel.numpy()
    assert kernel[2, 1, 0, 5] == state["stem.0.weight"][5, 0, 2, 1]
    assert model.get_layer("classifier").kernel.numpy()[7, 3] == state["classifier.weight"][3, 7]


def test_num_batches_tracked_and_module_are_ignored(model, state):
    decorated = {f"module.{key}": array for key, array in state.items()}
    decorated["module.stem.1.num_batches_tracked"] = np.array(7)
    state_dict.load_state(model, decorated)
    np.testing.assert_array_equal(state_dict.state_dict(model)["stem.1.weight"], state["stem.1.weight"])


def refused(model, state):
    before = [variable.numpy() for variable in weights(model)]
    with pytest.raises(RunError) as caught:
        state_dict.load_state(model, state)
    assert caught.value.exit_code == 5
    for variable, old in zip(weights(model), before):
        np.testing.assert_array_equal(variable.numpy(), old)  # nothing is half loaded
    return str(caught.value)


def test_an_unknown_key_is_named(model, state):
    state["cells.9.surprise.weight"] = np.zeros(3)
    assert "1 unused keys (cells.9.surprise.weight)" in refused(model, state)


def test_a_missing_key_is_named(model, state):
    del state["stem.1.running_var"]
    assert "1 unset variables (stem.1.running_var)" in refused(model, state)


def test_a_wrong_shape_is_named(model, state):
    state["classifier.weight"] = state["classifier.weight"].T
    message = refused(model, state)
    assert "classifier.weight" in message and "(64, 4)" in message


def test_the_state_of_another_genotype_is_refused(model):
    message = refused(model, random_state(network(genotype=published.genotype("DARTS_V1"))))
    assert "unused keys" in message and "unset variables" in message and " more" in message


def test_a_layer_of_other_people_has_the_name_that_keras_gives_it():
    images = keras.Input((8, 8, 3))
    stranger = keras.Model(images, keras.layers.PReLU(name="stranger")(images))
    state = {"stranger.0.alpha": np.arange(8 * 8 * 3, dtype="float32").reshape(8, 8, 3)}
    state_dict.load_state(stranger, state)
    np.testing.assert_array_equal(state_dict.state_dict(stranger)["stranger.0.alpha"], state["stranger.0.alpha"])


def test_a_variable_without_a_name_is_noticed(model):
    variable = model.add_weight(shape=(2,), name="astray")
    try:
        with pytest.raises(RunError, match="no official name is known for 1 variables"):
            state_dict.state_slots(model)
    finally:
        model._untrack_variable(variable)


def test_a_stacked_variable_gets_each_edge_its_row():
    model = CellSpace(PRIMITIVES["darts"], "darts", num_nodes=2, num_concatenated=2).supernet((8, 8, 3), 4, 2, 3)
    state = random_state(model)
    state_dict.load_state(model, state)
    for key, slot in state_dict.state_slots(model).items():
        if slot.row is not None:
            value = slot.variable.numpy()[slot.row]
            np.testing.assert_array_equal(value, np.transpose(state[key], slot.axes), err_msg=key)
