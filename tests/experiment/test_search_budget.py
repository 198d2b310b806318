"""HyperCuboids and budgets by command: search, train, export, read other architectures off, stay within a budget."""

import contextlib
import json
import os
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from support.command_line import sharpkeras

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("these runs are TensorFlow's", allow_module_level=True)

import sharpkeras as sk
from sharpkeras import recipes, spaces
from sharpkeras.errors import ConfigError, RunError, UsageError
from sharpkeras.experiment.search_budget import Budget
from sharpkeras.layers import SharpSepConv
from sharpkeras.paper import published
from sharpkeras.recipes import SearchRecipe, TrainRecipe
from sharpkeras.runs import architectures
from sharpkeras.spaces.hypercuboid.space import HyperCuboid
from sharpkeras.spaces.network_spec import NetworkSpec

ROOT = Path(__file__).parents[2]
DATA = ["--dataset", "generated:digits", "--limit", "40", "--batch-size", "8"]
CUBOID = ["--init-channels", "2", "--num-scales", "2", "--num-cells", "1", "--final-filters", "8", "--cutout-px", "0"]
CELL = ["search", *DATA, "--init-channels", "2", "--num-cells", "3", "--num-nodes", "1", "--space", "darts"]


@pytest.fixture(scope="module")
def cuboid(tmp_path_factory):
    """A search of MultiChannelNet at its smallest."""
    folder = tmp_path_factory.mktemp("cuboid")
    with contextlib.chdir(folder):
        result = sharpkeras("search", "multichannel-max-w", *DATA, *CUBOID, "--epochs", "2", "--out", "search")
    assert result.code == 0, result.err
    (folder / "search.txt").write_text(result.out)
    return folder


def load_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


# --- a path, by command ---


def test_a_search_of_multichannel_leaves_its_files(cuboid):
    files = {path.name for path in (cuboid / "search").iterdir()}
    assert {"path.json", "path.png", "alphas.png", "collapse.png", "metrics.png", "checkpoints"} <= files
    assert "genotype.json" not in files and "cells.png" not in files
    path = load_json(cuboid / "search" / "path.json")
    assert path["space"] == "multichannel" and [len(route) for route in path["routes"]] == [3]
    epochs = [load_json(file) for file in sorted((cuboid / "search" / "epochs").iterdir())]
    assert [np.shape(grid) for grid in epochs[0]["alphas"]] == [(2, 2, 2), (2, 2, 2)]
    assert {"kind": "path", **epochs[1]["path"]} == path and epochs[0]["alphas"] != epochs[1]["alphas"]
    rows = [json.loads(line) for line in (cuboid / "search" / "metrics.jsonl").read_text().splitlines()]
    assert rows[1]["entropy_grids"] <= np.log(8) + 1e-9 and rows[1]["found_addmults"] > 0


def test_its_path_is_trained_evaluated_and_exported(cuboid, monkeypatch):
    monkeypatch.chdir(cuboid)
    training = ["--warmup-epochs", "0", "--epochs", "1", "--final-filters", "8"]
    trained = sharpkeras("train", "search", *DATA, *training, "--out", "train", "--json")
    assert trained.code == 0, trained.err
    counted = sharpkeras("cost", "search", "--input-size", "8", "--final-filters", "8", "--json").json
    assert trained.json["addmults_paper"] < counted["addmults_paper"]  # of gray images, and of colour ones
    assert sharpkeras("evaluate", "train").code == 0
    assert sharpkeras("export", "train", "--out", "path.onnx").code == 0
    exported = {"kind": "path", **load_json(cuboid / "path.json")["path"]}
    assert exported == load_json(cuboid / "search" / "path.json")
    compared = sharpkeras("compare", "search", "train")
    assert compared.code == 0 and "entropy, positions of a hypercuboid" in compared.out


def test_the_recipes_of_table_4_name_published_paths():
    rows = {name: row for name, row in recipes.TRAININGS.items() if row.printed and row.printed[0] == 4}
    assert [row.architecture for row in rows.values()] == [
        "MULTI_CHANNEL_SCALAR_PATH",
        "MULTI_CHANNEL_HANDMADE_PATH",
        "MULTI_CHANNEL_MAX_W_PATH",
    ]
    assert all(row.settings.auxiliary_weight == row.settings.drop_path == 0 for row in rows.values())
    assert {recipes.SEARCHES[f"multichannel-{name}"].settings.weighting for name in ("scalar", "max-w")} == {
        "scalar",
        "max_w",
    }


def test_a_path_has_no_auxiliary_head(tmp_path):
    arguments = ["train", "multichannel-handmade", "--smoke", "--out", tmp_path / "run"]
    result = sharpkeras(*arguments, "--auxiliary-weight", "0.4")
    assert result.code == 3 and "auxiliary_weight" in result.err and not (tmp_path / "run").exists()


def test_a_random_path_is_drawn(tmp_path):
    sizes = ["--init-channels", "4", "--num-scales", "3", "--num-cells", "2"]
    result = sharpkeras("sample", "--space", "multichannel", *sizes, "--out", tmp_path / "random.json")
    assert result.code == 0
    found = architectures.architecture(tmp_path / "random.json")
    assert len(found.routes[0]) == 5 and {dict(c)["filters"] for c in found.routes[0]} <= {4, 8, 16}


# --- other architectures of a search ---


@pytest.mark.parametrize("strategy", ["longest", "greedy_top_down", "greedy_bottom_up", "beam", "exhaustive"])
def test_every_strategy_finds_a_path(cuboid, tmp_path, strategy):
    out = tmp_path / "found.json"
    result = sharpkeras("extract", cuboid / "search", "--strategy", strategy, "--out", out, "--json")
    assert result.code == 0, result.err
    assert {"kind": "path", **result.json["path"]} == load_json(out)
    if strategy in ("longest", "exhaustive"):
        assert load_json(out)["routes"] == load_json(cuboid / "search" / "path.json")["routes"]


def test_several_routes_make_one_network(cuboid, tmp_path):
    one, three = (
        sharpkeras("extract", cuboid / "search", "--routes", n, "--out", tmp_path / f"{n}.json", "--json").json
        for n in (1, 3)
    )
    assert three["path"]["routes"][0] == one["path"]["routes"][0] and len(three["path"]["routes"]) == 3
    assert three["parameters"] > one["parameters"]
    network = architectures.architecture(tmp_path / "3.json")
    assert NetworkSpec(TrainRecipe(final_filters=8), (8, 8, 1), 10).cost(network).parameters == three["parameters"]


def test_as_many_routes_as_fit(cuboid, tmp_path):
    costs = [
        sharpkeras("extract", cuboid / "search", "--routes", n, "--out", tmp_path / f"{n}.json", "--json").json
        for n in (1, 2, 3)
    ]
    between = (costs[1]["addmults_paper"] + costs[2]["addmults_paper"]) // 2
    arguments = ["extract", cuboid / "search", "--routes", 8, "--max-addmults", between, "--json"]
    found = sharpkeras(*arguments, "--out", tmp_path / "fit.json").json
    assert len(found["path"]["routes"]) == 2 and found["addmults_paper"] == costs[1]["addmults_paper"]


def test_a_budget_afterwards(cuboid, tmp_path):
    arguments = ["extract", cuboid / "search", "--json", "--overwrite", "--out", tmp_path / "found.json"]
    free = sharpkeras(*arguments).json["addmults_paper"]
    refused = sharpkeras(*arguments, "--max-addmults", "1")
    assert refused.code == 3 and "budget" in refused.err
    least = int(re.search(r"at least ([\d,]+)", refused.err)[1].replace(",", ""))
    cheapest = sharpkeras(*arguments, "--max-addmults", least).json["addmults_paper"]
    assert cheapest == least <= free
    assert sharpkeras(*arguments, "--max-addmults", least - 1).code == 3


def test_other_epochs_have_other_alphas_and_files_are_kept(cuboid, tmp_path):
    out = tmp_path / "found.json"
    assert sharpkeras("extract", cuboid / "search", "--epoch", 1, "--out", out).code == 0
    first = load_json(cuboid / "search" / "epochs" / "0000.json")["path"]["routes"]
    assert load_json(out)["routes"] == first
    assert sharpkeras("extract", cuboid / "search", "--out", out).code == 5  # it is there
    assert sharpkeras("extract", cuboid / "search", "--epoch", 9, "--out", tmp_path / "x.json").code == 5
    assert sharpkeras("extract", tmp_path, "--out", tmp_path / "x.json").code == 5


def test_a_budget_has_an_extraction_of_its_own(cuboid, tmp_path):
    for option in (["--max-addmults", "1M"], ["--routes", "2"]):
        result = sharpkeras("extract", cuboid / "search", "--strategy", "beam", *option, "--out", tmp_path / "x.json")
        assert result.code == 2 and "--strategy" in result.err and not (tmp_path / "x.json").exists()


def test_a_genotype_is_no_path(finished, tmp_path):
    for option in (["--strategy", "beam"], ["--routes", "2"]):
        result = sharpkeras("extract", finished / "search", *option, "--out", tmp_path / "x.json")
        assert result.code == 2 and "genotype" in result.err
    result = sharpkeras("extract", finished / "search", "--out", tmp_path / "same.json", "--json")
    found = load_json(finished / "search" / "genotype.json")
    assert {"kind": "genotype", **result.json["genotype"]} == found


# --- a budget from the beginning ---


@pytest.fixture(scope="module")
def budgeted(tmp_path_factory):
    """A search of cells within a budget between the cheapest genotype and a random one."""
    folder = tmp_path_factory.mktemp("budgeted")
    with contextlib.chdir(folder):
        result = sharpkeras(*CELL, "--epochs", "2", "--max-addmults", "600K", "--out", "search")
    assert result.code == 0, result.err
    (folder / "search.txt").write_text(result.out)
    return folder


def test_a_budgeted_search_stays_within_it(budgeted):
    rows = [json.loads(line) for line in (budgeted / "search" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["found_addmults"] <= 600_000 < row["expected_addmults"] for row in rows)
    assert all(row["penalty"] > 0 for row in rows)
    settings = load_json(budgeted / "search" / "recipe.json")["settings"]
    assert settings["max_addmults"] == 600_000 and settings["cost_of"] == "digits"
    found = architectures.architecture(budgeted / "search")
    training = recipes.TRAININGS["digits"].settings
    exact = NetworkSpec(training, (8, 8, 1), 10).cost(found).addmults_paper
    assert exact == rows[-1]["found_addmults"]
    assert f"{exact:,} AddMults (budget 600,000" in (budgeted / "search.txt").read_text()


def test_a_budget_that_nothing_fits_into_is_told_before_the_search(tmp_path):
    result = sharpkeras(*CELL, "--max-addmults", "1K", "--out", tmp_path / "run")
    assert result.code == 3 and "no architecture is within the budget" in result.err and "at least" in result.err
    assert "addmults of the network" in result.err and "8×8×1" in result.err and "--cost-of" in result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--max-addmults", "1M", "--max-parameters", "1M"], "more than one budget"),
        (["--max-latency-ms", "5"], "latency_table"),
        (["--max-addmults", "1M", "--cost-of", "sharpdart"], "unknown training recipe"),
        (["--max-addmults", "1.5X"], "is not a valid integer"),
        (["--max-addmults", "0"], "max-addmults"),
        (["--cost-weight", "-1"], "cost-weight"),
        (["--max-latency-ms", "nan"], "max-latency-ms"),
        (["--penalty", "money"], "penalty"),
    ],
)
def test_wrong_budgets(tmp_path, flags, words):
    result = sharpkeras(*CELL, *flags, "--out", tmp_path / "run")
    assert result.code in (2, 3) and words in result.err and not (tmp_path / "run").exists()


def test_the_penalty_is_the_excess_over_the_budget_and_without_one_the_whole():
    space = spaces.of_recipe(SearchRecipe())
    equal = [np.zeros((14, 9), "float32")] * 2
    for settings, expected in (
        ({"max_addmults": 1_000_000}, lambda mean: 0.1 * (mean / 1e6 - 1)),
        ({"max_addmults": 10**9}, lambda mean: 0.0),
        ({"penalty": "parameters", "cost_weight": 0.5}, lambda mean: 0.5),
    ):
        recipe = SearchRecipe(**settings, cost_of="digits")
        budget = Budget.of(recipe, space, (8, 8, 1), 10)
        mean = float(budget.expected_cost(equal))
        assert float(budget.penalty(equal)) == pytest.approx(expected(mean), rel=1e-5)
    assert Budget.of(SearchRecipe(), space, (8, 8, 1), 10).costs is None


def test_the_network_of_a_path_has_the_final_filters_of_the_recipe_that_a_budget_names(cuboid, tmp_path):
    """Else those of the search, which the training that is proposed next has too."""
    for cost_of in ([], ["--cost-of", "multichannel-max-w"]):
        budget = [*cost_of, "--max-addmults", "100M", "--out", tmp_path / "found.json", "--overwrite"]
        result = sharpkeras("extract", cuboid / "search", *budget)
        counted = int(re.findall("([0-9,]+) parameters", result.out)[-1].replace(",", ""))
        training = shlex.split(result.out.strip().splitlines()[-1])[2:]
        small = ("--batch-size", 8, "--cutout-px", 0, "--warmup-epochs", 0)
        trained = sharpkeras(*training, *small, "--dry-run", "--json")
        assert trained.code == 0, trained.err
        assert trained.json["parameters"] == counted


# --- cuboids of one's own ---


def test_another_kind_of_recipe_or_architecture_is_named(tmp_path):
    with pytest.raises(UsageError, match="SearchRecipe"):
        sk.search(TrainRecipe(), tmp_path / "run")
    with pytest.raises(UsageError, match="TrainRecipe"):
        sk.train(published.architecture("DARTS_V1"), tmp_path / "run", recipe=SearchRecipe())
    with pytest.raises(UsageError, match="no architecture"):
        sk.train(TrainRecipe(), tmp_path / "run")


def test_a_cuboid_of_ones_own_goes_all_the_way(tmp_path, monkeypatch):
    """Each step needs the cuboid, and says so."""
    monkeypatch.chdir(tmp_path)
    grid = HyperCuboid({"filters": (8, 16), "kernel_size": (3, 5)}, SharpSepConv, [{"strides": 1}, {"strides": 2}])
    path = sk.search(SearchRecipe(max_addmults=1_000_000).smoke(), "runs/grid", space=grid)
    sk.train(path, "runs/grid-network", recipe=TrainRecipe().smoke(), space=grid)
    sk.evaluate("runs/grid-network", space=grid)
    sk.export("runs/grid-network", "exported/grid.onnx", space=grid)
    assert load_json(tmp_path / "runs" / "grid" / "path.json")["space"] == grid.name
    assert (tmp_path / "runs" / "grid-network" / "weights.safetensors").is_file()
    result = sharpkeras("evaluate", tmp_path / "runs" / "grid-network")
    assert result.code == 3 and "space=" in result.err
    with pytest.raises(RunError, match="space that only Python knows"):
        sk.extract(tmp_path / "runs" / "grid", tmp_path / "x.json")
    other = HyperCuboid({"filters": (8, 16)}, SharpSepConv)
    with pytest.raises(RunError, match="another recipe"):
        sk.search(SearchRecipe().smoke(), tmp_path / "runs" / "grid", space=other)
    with pytest.raises(ConfigError, match="another space"):
        sk.evaluate(tmp_path / "runs" / "grid-network", space=other)
    with pytest.raises(ConfigError):
        other.route(architectures.architecture(tmp_path / "runs" / "grid").routes[0])


def test_the_example_block_is_searched_and_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples"))
    import block

    block.main(SearchRecipe().smoke(), TrainRecipe().smoke(), str(tmp_path))
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if "test error" in line] == ["found", "sharp", "random"]
    sharp = block.SHARP_SEP_CONV
    network = block.BLOCK.network(sharp, (8, 8, 16), 10)
    kinds = [type(layer).__name__ for step in network.layers[2:6] for layer in step.layers]
    assert kinds == ["ReLU", "DepthwiseConv2D", "Conv2D", "BatchNormalization"] * 2
    assert "block" in sys.modules
