"""The tables of spaces and architectures, and what a NetworkSpec makes of an architecture and a recipe."""

import subprocess
import sys

import pytest

from sharpkeras.errors import ConfigError
from sharpkeras.paper import published
from sharpkeras.recipes import SearchRecipe, TrainRecipe, network_sizes
from sharpkeras.runs import architectures
from sharpkeras.spaces import ARCHITECTURES, CELL, SPACES, Architecture, SearchSpace, find_space, of_recipe
from sharpkeras.spaces.hypercuboid.path import Path
from sharpkeras.spaces.network_spec import NetworkSpec

TABLES_ALONE = """
import sys
from sharpkeras import recipes, spaces, weighting
assert not {"keras", "tensorflow", "jax", "matplotlib", "networkx"} & set(sys.modules)
"""


def test_the_tables_are_read_without_keras():
    subprocess.run([sys.executable, "-c", TABLES_ALONE], check=True, timeout=60)


@pytest.mark.parametrize("name", SPACES)
def test_a_row_of_a_space(name):
    space = SPACES[name].load()
    assert SearchSpace in space.__mro__ and space().name == name
    assert SPACES[name].architecture in ARCHITECTURES and SPACES[name].summary
    assert set(SPACES[name].searched_sizes) <= set(space.network_settings) <= TrainRecipe().as_dict().keys()


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_row_of_an_architecture(kind):
    found = ARCHITECTURES[kind].load()
    assert Architecture in found.__mro__ and found.kind == kind
    assert any(f'"{field}"' in found.expected for field in ARCHITECTURES[kind].fields)


@pytest.mark.parametrize("name", ["SHARP_DARTS", "MULTI_CHANNEL_MAX_W_PATH"])
def test_an_architecture_is_read_by_its_fields(name):
    found = published.architecture(name)
    assert architectures.from_dict(found.as_dict()) == found
    assert found.facts()["name"] == name and not found.findings()


def test_a_list_of_primitives_is_a_cell_space():
    assert find_space("sharp") is find_space("skip_connect,max_pool_3x3") is SPACES[CELL]
    space = of_recipe(SearchRecipe(space="skip_connect, max_pool_3x3", num_nodes=2))
    assert space.primitive_names == ("skip_connect", "max_pool_3x3") and space.num_nodes == space.num_concatenated == 2


def test_a_network_has_no_layers_for_some_settings():
    path = published.path("MULTI_CHANNEL_HANDMADE_PATH")
    with pytest.raises(ConfigError, match="the network of a path has none") as raised:
        NetworkSpec(TrainRecipe(drop_path=0.2), (8, 8, 1), 10).build(path)
    assert raised.value.where == "drop_path"


def test_a_path_names_its_space():
    path = Path("mine", (((), (("filters", 4),)),))
    with pytest.raises(ConfigError, match="a path of a space that only Python knows") as raised:
        network_sizes().build(path)
    assert raised.value.seen == "mine" and raised.value.allowed == "multichannel"


def test_a_network_is_counted_without_its_auxiliary_head():
    genotype = published.genotype("DARTS_V2")
    sizes = {"init_channels": 4, "num_cells": 3}
    plain, headed = (NetworkSpec(TrainRecipe(**sizes, auxiliary_weight=w), [32, 32, 3], 10) for w in (0.0, 0.4))
    assert plain.cost(genotype) == headed.cost(genotype) and plain != headed
    assert headed.build(genotype).count_params() > plain.build(genotype).count_params()
    assert plain == NetworkSpec(TrainRecipe(**sizes), (32, 32, 3), 10) and len({plain, headed}) == 2


def test_costs_are_those_of_a_space():
    with pytest.raises(ValueError, match="NetworkSpec"):
        network_sizes().costs(lambda layer, shape: 1.0)
