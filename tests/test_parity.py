"""Parity with the official PyTorch code: every file of golden numbers, built from what it says about itself.

    SHARPKERAS_GOLDEN=folder python -m pytest tests/test_parity.py        (default: tests/golden)
    KERAS_BACKEND=jax python -m pytest tests/test_parity.py

`.npz` files hold weights, inputs and numbers computed in float64, and in `meta` how to build the model; `.json` files
hold lists of genotypes with their cost. A file that cannot be built fails.
"""

import json
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from support.gradients import compiled, cross_entropy, float64, global_norm, gradient, to_numpy

from sharpkeras.measure.cost import count
from sharpkeras.optimizers import SGD, Adam
from sharpkeras.paper import published
from sharpkeras.searching import bilevel
from sharpkeras.searching.search_model import SearchModel
from sharpkeras.spaces import state_dict
from sharpkeras.spaces.cell import genotype as genotypes
from sharpkeras.spaces.cell.network import CellNetwork
from sharpkeras.spaces.cell.space import CellSpace
from sharpkeras.spaces.hypercuboid import multichannel
from sharpkeras.spaces.hypercuboid.multichannel import MultiChannelNet

GOLDEN = Path(os.environ.get("SHARPKERAS_GOLDEN") or Path(__file__).parent / "golden")
FILES = sorted(path for path in GOLDEN.iterdir() if path.name != "README.md") if GOLDEN.is_dir() else []

FORWARD = 1e-4  # max |difference| / max |golden|
GRADIENT = 1e-3


class Trajectory(NamedTuple):
    """How near the steps of a search are: rounding grows from one to the next, so that only float64 can follow all.

    forward: of losses and classifier, max |difference| / max |golden|.
    first_order: of the alphas, absolute.
    second_order: of the alphas' change, ‖difference‖ / ‖change‖: it comes from a finite difference.
    """

    forward: float
    first_order: float
    second_order: float


FLOAT64 = Trajectory(1e-6, 1e-6, 1e-4)  # every step
FLOAT32 = Trajectory(1e-4, 1e-5, 0.05)  # the first step; Adam's is a sign, which rounding may flip near zero
# BatchNorm in an auxiliary head may see two values per channel, and amplifies their rounding as no other layer does:
# the gradients of final networks are compared in float64, much closer, and in float32 as far as rounding lets them.
GRADIENT_FLOAT64 = 1e-6
GRADIENT_AMPLIFIED = 1e-2

PER_STEP = (  # what a `bilevel` file holds of each step
    *("x_train", "y_train", "x_valid", "y_valid", "train_loss"),
    *("alphas_normal_after", "alphas_reduce_after", "classifier_weight_after"),
)

COST_SETTINGS = {"cifar": ((32, 32, 3), 10), "imagenet": ((224, 224, 3), 1000)}


def test_there_are_golden_numbers():
    assert FILES, f"no files in {GOLDEN}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_parity(path, monkeypatch):
    assert path.suffix in (".npz", ".json"), f"what is {path.name}?"
    if path.suffix == ".json":
        rows = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(rows, list) and rows
        for row in rows:
            check_cost(row)
        return
    golden = dict(np.load(path, allow_pickle=False))
    meta = json.loads(str(golden.pop("meta")))
    monkeypatch.setattr(bilevel, "FINITE_DIFFERENCE_R", meta.get("finite_difference_r", bilevel.FINITE_DIFFERENCE_R))
    CHECKS[meta["kind"]](meta, golden)


def check_final(meta, golden):
    numbers = final_numbers(meta, golden)
    assert numbers.pop("params") == meta["params"]
    assert set(numbers) == {name for name in golden if not name.startswith("state/")} - {"x", "y"}
    gradients = {name: numbers.pop(name) for name in ("grad_stem", "grad_norm")}
    close(numbers, golden, FORWARD)
    close(gradients, golden, GRADIENT_AMPLIFIED)
    with float64():
        precise = final_numbers(meta, golden)
    close({name: precise[name] for name in gradients}, golden, GRADIENT_FLOAT64)


def final_numbers(meta, golden):
    """Everything that a `final` file holds, computed by our network in the present precision."""
    network, x, y = final_network(meta, golden)
    inference = compiled(lambda: network(x, training=False)["logits"])()
    others = [variable.value for variable in network.non_trainable_variables]
    heads = {"logits": "train_logits"} | ({"auxiliary": "aux_logits"} if meta["auxiliary"] else {})

    def loss(weights):
        outputs, _ = network.stateless_call(weights, others, x, training=True)
        value = cross_entropy(y, outputs["logits"])
        if meta["auxiliary"]:
            value += meta["auxiliary_weight"] * cross_entropy(y, outputs["auxiliary"])
        return value, {name: outputs[head] for head, name in heads.items()}

    value, logits, slope = gradient(loss, [variable.value for variable in network.trainable_variables])
    return {
        "eval_logits": to_numpy(inference),
        **logits,
        "loss": value,
        **weight_gradients(network, golden, slope),
        "params": count(network.without_auxiliary()).parameters,
    }


def final_network(meta, golden):
    if "architecture" in meta:
        genotype = genotypes.Genotype.from_dict(meta["architecture"], ops=meta["ops"])
    else:
        genotype = published.genotype(meta["genotype"])
    x, y = golden["x"], golden["y"].astype("int32")
    network = CellNetwork(
        genotype,
        ops=meta["ops"],
        stem=meta["input"],
        input_shape=x.shape[1:],
        num_classes=meta["num_classes"],
        init_channels=meta["init_channels"],
        num_cells=meta["layers"],
        mid_filters=meta.get("mid_channels"),
        auxiliary=meta["auxiliary"],
    )
    state_dict.load_state(network, state(golden))
    return network, x, y


def check_supernet(meta, golden):
    space, supernet = supernet_of(meta, golden, golden["x"].shape[1:])
    x, y = golden["x"], golden["y"].astype("int32")
    others = [variable.value for variable in supernet.non_trainable_variables]
    alphas = [golden["alphas_normal"].astype("float32"), golden["alphas_reduce"].astype("float32")]

    def loss(argument):
        inputs = [x, space.mixing_weights(argument[:2])]
        logits, _ = supernet.stateless_call(argument[2:], others, inputs, training=True)
        return cross_entropy(y, logits), logits

    value, logits, slope = gradient(loss, [*alphas, *(variable.value for variable in supernet.trainable_variables)])
    close({"loss": value, "train_logits": logits}, golden, FORWARD)
    close({"grad_alphas_normal": slope[0], "grad_alphas_reduce": slope[1]}, golden, GRADIENT)
    close(weight_gradients(supernet, golden, slope[2:]), golden, GRADIENT)

    golden_alphas = [golden["alphas_normal"], golden["alphas_reduce"]]
    assert space.extract(golden_alphas) == genotypes.Genotype.from_dict(meta["genotype"])
    assert space.extract(golden_alphas, skip_none=False) == genotypes.Genotype.from_dict(meta["genotype_with_none"])
    assert parameters(supernet) == meta["params"]


def check_bilevel(meta, golden):
    check_steps(meta, {name: golden[name][:1] if name in PER_STEP else golden[name] for name in golden}, FLOAT32)
    with float64():
        check_steps(meta, golden, FLOAT64)


def check_steps(meta, golden, tolerance):
    """The search from the golden weights and alphas on, step by step."""
    names = ("alphas_normal", "alphas_reduce")
    model = search_model(meta, golden)
    step = model.compiled_step()
    batches = [golden[name] for name in ("x_train", "y_train", "x_valid", "y_valid")]
    for index, (x_train, y_train, x_valid, y_valid) in enumerate(zip(*batches)):
        logs = step(((x_train, y_train.astype("int32")), (x_valid, y_valid.astype("int32"))))
        step.sync()
        assert relative(logs["train_loss"], golden["train_loss"][index]) <= tolerance.forward
        classifier = np.transpose(model.supernet.classifier.kernel.numpy())
        assert relative(classifier, golden["classifier_weight_after"][index]) <= tolerance.forward
        ours = flat(variable.numpy() for variable in model.alphas)
        after = flat(golden[f"{name}_after"][index] for name in names)
        if meta["order"] == 1:
            assert np.abs(ours - after).max() <= tolerance.first_order
        else:
            change = after - flat(golden[name] for name in names)
            assert np.linalg.norm(ours - after) <= tolerance.second_order * np.linalg.norm(change)


def search_model(meta, golden):
    space, supernet = supernet_of(meta, golden, golden["x_train"].shape[2:])
    sgd, adam = dict(meta["weight_optimizer"]), dict(meta["arch_optimizer"])
    assert (sgd.pop("name"), adam.pop("name")) == ("sgd", "adam")
    sgd["l2"], sgd["global_clipnorm"] = sgd.pop("weight_decay"), sgd.pop("clip_global_norm")
    model = SearchModel(space, supernet, SGD(**sgd), Adam(**adam), meta["order"])
    for variable, name in zip(model.alphas, ("alphas_normal", "alphas_reduce")):
        variable.assign(golden[name])
    return model


def check_multichannel(meta, golden):
    space = MultiChannelNet(
        meta["channel_choices"], meta["layers"], meta["primitives"], meta["final_filters"], meta["weighting"]
    )
    x, y = golden["x"], golden["y"].astype("int32")
    supernet = space.supernet(x.shape[1:], meta["num_classes"])
    state_dict.load_state(supernet, state(golden))
    others = [variable.value for variable in supernet.non_trainable_variables]
    alphas = [golden["alphas"][stride, stage] for stage in range(meta["layers"]) for stride in range(2)]

    def loss(argument):
        inputs = [x, space.mixing_weights(argument[: len(alphas)])]
        logits, _ = supernet.stateless_call(argument[len(alphas) :], others, inputs, training=True)
        return cross_entropy(y, logits), logits

    weights = [variable.value for variable in supernet.trainable_variables]
    value, logits, slope = gradient(loss, [*(a.astype("float32") for a in alphas), *weights])
    close({"loss": value, "train_logits": logits}, golden, FORWARD)
    by_stage = np.array(slope[: len(alphas)]).reshape(meta["layers"], 2, *alphas[0].shape)
    close({"grad_alphas": by_stage.swapaxes(0, 1)}, golden, GRADIENT)
    close({"grad_norm": global_norm(slope[len(alphas) :])}, golden, GRADIENT)
    path = space.extract(alphas)
    assert space.node_names(path) == meta["longest_path"]
    assert multichannel.from_node_names(meta["longest_path"]) == path


CHECKS = {
    "final": check_final,
    "supernet": check_supernet,
    "bilevel": check_bilevel,
    "multichannel": check_multichannel,
}


def check_cost(row):
    input_shape, num_classes = COST_SETTINGS[row["kind"]]
    network = CellNetwork(
        genotypes.Genotype.from_dict(row["genotype"]),
        ops=row.get("ops", "sharp"),
        stem=row["kind"],
        input_shape=input_shape,
        num_classes=num_classes,
        init_channels=row["init_channels"],
        num_cells=row["layers"],
        mid_filters=row["mid_channels"],
        auxiliary=True,
    )
    cost = count(network.without_auxiliary())
    assert parameters(network) == row["params_with_auxiliary"]
    assert cost.parameters == row["params"]
    assert cost.addmults_conv_dense == row["conv_linear_macs"]
    assert cost.addmults_paper == row["paper_addmults"]


def supernet_of(meta, golden, input_shape):
    space = CellSpace(tuple(meta["primitives"]), meta["ops"], meta["weighting"], meta["nodes"], meta["concat"])
    supernet = space.supernet(input_shape, meta["num_classes"], meta["init_channels"], meta["layers"])
    state_dict.load_state(supernet, state(golden))
    return space, supernet


def state(golden):
    return {name.removeprefix("state/"): array for name, array in golden.items() if name.startswith("state/")}


def weight_gradients(model, golden, slope):
    """The gradient of the first parameter in PyTorch's layout, and the norm of that of all."""
    slot = state_dict.state_slots(model)[next(iter(state(golden))).removeprefix("module.")]
    first = [variable is slot.variable for variable in model.trainable_variables].index(True)
    return {"grad_stem": np.transpose(slope[first], np.argsort(slot.axes)), "grad_norm": global_norm(slope)}


def parameters(model):
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def flat(arrays):
    return np.concatenate([np.ravel(array) for array in arrays])


def relative(ours, golden):
    ours = np.asarray(ours, "float64")
    assert ours.shape == golden.shape
    return np.abs(ours - golden).max() / np.abs(golden).max()


def close(ours, golden, tolerance):
    """Every array is as near as `tolerance`; the message shows all distances."""
    distances = {name: float(relative(array, golden[name])) for name, array in ours.items()}
    assert all(distance <= tolerance for distance in distances.values()), distances  # and so none is NaN
