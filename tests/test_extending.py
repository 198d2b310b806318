"""A user's own rows in every table, used from the search to the exported file: no line of the package is changed.

The rows are in `support/extensions.py`, for anyone to copy.
"""

import importlib
import inspect
import json
import os
import sys

import keras
import numpy as np
import pytest
from support.command_line import sharpkeras

import sharpkeras as sk
from sharpkeras import inspection
from sharpkeras.data import DATASETS
from sharpkeras.errors import ConfigError
from sharpkeras.primitives import PRIMITIVES, SHARP_OPS
from sharpkeras.recipes import SEARCHES, TRAININGS, SearchRecipe
from sharpkeras.spaces import ARCHITECTURES, SPACES, of_recipe
from sharpkeras.spaces.hypercuboid.multichannel import MultiChannelNet
from sharpkeras.spaces.hypercuboid.path_search import STRATEGIES
from sharpkeras.weighting import WEIGHTINGS

TABLES = (SPACES, ARCHITECTURES, DATASETS, SEARCHES, TRAININGS, PRIMITIVES, SHARP_OPS, WEIGHTINGS, STRATEGIES)
TINY = ["--limit", "80", "--batch-size", "16", "--init-channels", "2", "--epochs", "1", "--ignore-memory-check"]
CHAIN = ["--num-cells", "2", *TINY]


def done(*arguments):
    result = sharpkeras(*arguments)
    assert result.code == 0, result.err
    return result


@pytest.fixture(scope="module", autouse=True)
def extensions():
    """The module with the rows, which are gone again afterwards: other tests know what the tables hold."""
    before = [dict(table) for table in TABLES]
    yield importlib.import_module("support.extensions")
    del sys.modules["support.extensions"]
    for table, rows in zip(TABLES, before):
        table.clear()
        table.update(rows)


@pytest.fixture(scope="module")
def chain(extensions, tmp_path_factory):
    """`search/`, `train/` and `model.onnx` of the recipe, the dataset, the space and the weighting of the module."""
    folder = tmp_path_factory.mktemp("chain")
    before = os.getcwd()
    os.chdir(folder)
    try:
        done("search", "stripes", *CHAIN, "--out", "search")
        done("train", "search", "--recipe", "stripes", *TINY, "--out", "train")
        done("evaluate", "train")
        done("export", "train", "--out", "model.onnx")
    finally:
        os.chdir(before)
    return folder


def read(path):
    return json.loads(path.read_text())


def test_a_space_takes_at_most_60_lines(extensions):
    classes = (extensions.Chain, extensions.ChainSpace)
    lines = [line for part in classes for line in inspect.getsource(part).splitlines() if line.strip()]
    assert len(lines) + 2 <= 60  # and a row in either table


def test_a_space_is_searched(extensions, chain):
    settings = read(chain / "search" / "recipe.json")["settings"]
    assert [settings[name] for name in ("dataset", "space", "weighting")] == ["stripes", "chain", "squared"]
    found = sk.architecture(chain / "search")
    assert isinstance(found, extensions.Chain) and len(found.chain) == 2
    assert read(chain / "search" / "chain.json") == {"kind": "chain", **found.as_dict()}
    pictures = {path.name for path in (chain / "search").glob("*.png")}
    assert pictures == {"alphas.png", "collapse.png", "metrics.png"}


def test_what_it_finds_is_trained_evaluated_and_exported(chain):
    recipe = read(chain / "train" / "recipe.json")
    assert {"kind": "chain", **recipe["chain"]} == read(chain / "search" / "chain.json")
    assert recipe["settings"]["dataset"] == "stripes"
    assert read(chain / "train" / "evaluation.json")["n"] == 240
    report = read(chain / "model.json")
    assert report["chain"] == recipe["chain"] and report["classes"] == ["rows", "columns", "diagonal"]
    assert report["largest_difference"] < 1e-3


def test_every_other_command_knows_it(chain, monkeypatch):
    monkeypatch.chdir(chain)
    assert "chain of primitives" in done("inspect", "search/chain.json").out
    assert inspection.inspect("search").facts["state"] == "finished"
    assert not [finding for finding in inspection.inspect("train").findings if "missing" in finding]
    assert "init_channels 2" in done("cost", "train").out
    found = done("extract", "search", "--out", "again.json", "--json").json
    assert {"kind": "chain", **found["chain"]} == read(chain / "search" / "chain.json")
    assert sharpkeras("extract", "search", "--routes", "2").code == 2
    compared = done("compare", "search", "train", "--picture", "collapse.png", "--json").json
    assert compared["searches"][0]["last"]["entropy_chain"] > 0 and compared["trainings"][0]["parameters"] > 0
    assert "entropy, chain, nats" in done("compare", "search").out
    assert done("list", "--json").json["spaces"]["chain"] == "one primitive at each position of a chain"
    drawn = done("sample", "--space", "chain", "--num-cells", "3", "--out", "random.json", "--json").json
    assert len(drawn["genotypes"][0]["genotype"]["chain"]) == 3


def test_the_weights_of_its_networks_have_names(chain):
    done("train", chain / "search", "--recipe", "stripes", "--init", chain / "train", *TINY, "--out", chain / "more")


def test_budgets_need_costs_of_a_space(tmp_path):
    result = sharpkeras("search", "stripes", *CHAIN, "--max-addmults", "1M", "--out", tmp_path / "run")
    assert result.code == 3 and "does not say what its choices cost" in result.err


def test_python_takes_a_space_that_has_no_row(extensions, chain, tmp_path):
    space = extensions.ChainSpace(3, names=("skip_connect", "gated_conv_3x3"))
    recipe = SearchRecipe(**{**SEARCHES["stripes"].settings.as_dict(), "limit": 80, "init_channels": 2})
    found = sk.search(recipe, tmp_path / "search", space=space)
    assert set(found.chain) <= {"skip_connect", "gated_conv_3x3"}
    assert read(tmp_path / "search" / "recipe.json")["space"] == {"name": "chain"}


# --- the other rows, in the spaces of the package ---


def test_a_primitive_and_a_layer_in_cells(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = ["--num-cells", "2", *TINY]
    done("search", "--space", "gated", "--num-nodes", "1", "--weighting", "squared", *cells, "--out", "search")
    gated = [["gated_conv_3x3", 0], ["gated_conv_3x3", 1]]
    fields = {"normal": gated, "normal_concat": [2], "reduce": gated, "reduce_concat": [2]}
    (tmp_path / "gated.json").write_text(json.dumps(fields))
    done("train", "gated.json", "--dataset", "stripes", *cells, "--warmup-epochs", "0", "--out", "train")
    done("evaluate", "train")
    done("export", "train", "--out", "model.onnx")
    assert (tmp_path / "train" / "cells.png").exists()


def test_a_cell_computes_a_primitive_from_outside_as_the_mixed_operation_does(extensions):
    from sharpkeras.spaces.cell.search_cell import SearchCell
    from sharpkeras.spaces.cell.topology import CellPlan

    names = extensions.PRIMITIVES["gated"]
    cell = SearchCell(CellPlan(0, 4, True, False), names, num_nodes=2, num_concatenated=2)
    cell.build((None, 8, 8, 4), (None, 8, 8, 4))
    states = [np.random.default_rng(seed).normal(size=(2, 8, 8, 4)).astype("float32") for seed in range(2)]
    weights = np.zeros((5, len(names)), "float32")
    weights[:, names.index("gated_conv_3x3")], weights[:, names.index("avg_pool_2x2")] = 0.5, 0.25
    outputs = cell(*states, weights, training=False)
    inputs = cell.preprocess0(states[0]), cell.preprocess1(states[1])
    gated, pooled = (cell.branches[names.index(name)] for name in ("gated_conv_3x3", "avg_pool_2x2"))

    def mixed(edge, state):
        return 0.5 * gated.layers[edge](state) + 0.25 * pooled.norms[edge](pooled.layers[edge](state))

    first = mixed(0, inputs[0]) + mixed(1, inputs[1])
    second = mixed(2, inputs[0]) + mixed(3, inputs[1]) + mixed(4, first)
    np.testing.assert_allclose(outputs, keras.ops.concatenate([first, second], axis=-1), atol=1e-5)
    assert len({id(variable) for variable in cell.trainable_variables if "gated" in variable.path}) == 5


def test_a_path_strategy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = MultiChannelNet((2, 4), num_stages=1)
    alphas = [2000 * a for a in space.init_alphas(1)]
    weights, widest = space.weights(alphas), space.extract(alphas, strategy="widest")
    (route,) = [space.route(route) for route in widest.routes]
    weakest = min(w[step] for w, step in zip(weights, route))
    every = [min(w[step] for w, step in zip(weights, space.route(p.routes[0]))) for p in map(space.sample, range(300))]
    assert weakest == pytest.approx(max(every))
    sizes = ["--num-cells", "1", "--num-scales", "2", "--final-filters", "8"]
    done("search", "--space", "multichannel", *sizes, *TINY, "--out", "search")
    assert done("extract", "search", "--strategy", "widest", "--out", "widest.json", "--json").json["path"]["routes"]


def test_a_hypercuboid_with_a_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    budget = ["--space", "blocks", "--weighting", "squared", "--max-parameters", "1M"]
    done("search", *budget, *TINY, "--out", "search")
    assert read(tmp_path / "search" / "path.json")["space"] == "blocks"
    assert {path.name for path in (tmp_path / "search").glob("*.png")} >= {"path.png", "alphas.png"}
    assert "Next: sharpkeras train" in done("inspect", "search/path.json").out
    done("train", "search", *TINY, "--warmup-epochs", "0", "--out", "train")
    done("evaluate", "train")
    assert "of one size" in done("cost", "train").out


def test_rows_are_names_on_the_command_line():
    for command, words in (("search", ("squared",)), ("extract", ("widest",)), ("list", ())):
        out = done(command, "--help").out
        assert all(word in out for word in words)
    listed = done("list", "--json").json
    assert "stripes" in listed["datasets"] and listed["spaces"]["gated"][-1] == "gated_conv_3x3"
    assert {"search stripes", "train stripes"} <= set(listed["recipes"])


def test_settings_take_the_names_of_rows(extensions):
    assert of_recipe(SearchRecipe(space="gated", weighting="squared")).primitive_names == extensions.PRIMITIVES["gated"]
    with pytest.raises(ConfigError, match="scalar, max_w, squared"):
        SearchRecipe(weighting="cubed")
