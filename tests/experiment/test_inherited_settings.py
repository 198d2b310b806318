"""What is trained next reads the images of its search, by its backend, unless something else was asked for."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest
from support.command_line import make_images, sharpkeras
from support.found import make_found

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("these commands run on the default backend", allow_module_level=True)

import sharpkeras as sk
from sharpkeras.experiment import inherited_settings
from sharpkeras.recipes import TRAININGS, SearchRecipe, TrainRecipe
from sharpkeras.runs import architectures
from sharpkeras_cli import options

DIGITS = TRAININGS["digits"].settings
OF_SEARCH = {"dataset": "folder:photos", "limit": 30, "image_size": 10, "ops": "darts"}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A search on class folders in `search`."""
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "photos" / "train", {"cat": 20, "dog": 20}, size=(12, 12))
    make_found(tmp_path / "search", SearchRecipe(**OF_SEARCH, space="darts", num_nodes=2, batch_size=8))
    return tmp_path


def asked_for(*words, monkeypatch):
    """The TrainRecipe that `train` would run, and what was said."""
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(sk, "train", lambda *_, recipe, **__: seen.append(recipe) or sys.exit(0))
        result = sharpkeras("train", *words)
    assert result.code == 0, result.err
    return seen[0], result.err


def values(recipe):
    return {name: getattr(recipe, name) for name in OF_SEARCH}


def test_the_images_and_layers_of_the_search_are_those_of_the_training(monkeypatch):
    recipe, said = asked_for("search", monkeypatch=monkeypatch)
    assert values(recipe) == OF_SEARCH
    assert "note: dataset folder:photos, limit 30, image_size 10, ops darts: as search has it" in said
    assert recipe.batch_size == 8 and recipe.seed == DIGITS.seed and recipe.precision == DIGITS.precision
    assert recipe == inherited_settings.training_recipe("search")  # in Python the same


def test_flags_and_files_go_before_it(monkeypatch):
    recipe, said = asked_for("search", "--dataset", "digits", "--set", "image_size=none", monkeypatch=monkeypatch)
    assert values(recipe) == {**OF_SEARCH, "dataset": "digits", "image_size": None}
    assert "note: trains on digits, and not on folder:photos as search did" in said
    assert "limit 30, ops darts: as search has it" in said
    Path("settings.json").write_text('{"limit": 20}')
    recipe, _ = asked_for("search", "--config", "settings.json", monkeypatch=monkeypatch)
    assert recipe.limit == 20 and recipe.dataset == "folder:photos"


def test_a_recipe_that_is_named_brings_its_images_which_is_said(monkeypatch):
    recipe, said = asked_for("search", "--recipe", "sharpdarts", monkeypatch=monkeypatch)
    assert recipe == dataclasses.replace(TRAININGS["sharpdarts"].settings, ops="darts")  # what the names stand for
    assert "note: trains on cifar10, and not on folder:photos as search did" in said


def test_a_training_is_repeated_by_its_own_recipe(place, monkeypatch):
    """A run of `train` is an architecture too: it was trained on the digits all the same."""
    recipe = TrainRecipe(**OF_SEARCH, init_channels=2, num_cells=2, epochs=1, warmup_epochs=0, batch_size=8)
    sk.train(architectures.architecture("search"), place / "train", recipe=recipe)
    again, _ = asked_for("train", "--out", "again", monkeypatch=monkeypatch)
    assert again == recipe
    counted = sharpkeras("cost", "train")
    assert counted.out.endswith("Next: sharpkeras evaluate train\n")


def test_the_digits_are_nothing_to_speak_of(place, monkeypatch):
    make_found(place / "plain", SearchRecipe(space="darts", num_nodes=2))
    recipe, said = asked_for("plain", monkeypatch=monkeypatch)
    assert recipe == DIGITS and "note" not in said


def test_a_trial_of_a_trial_has_images_of_the_same_size(place, monkeypatch):
    make_found(place / "trial", SearchRecipe(space="darts").smoke())
    recipe, _ = asked_for("trial", "--smoke", monkeypatch=monkeypatch)
    assert recipe.dataset == "generated:digits"


def test_the_backend_is_that_of_the_search_unless_one_is_named(place, monkeypatch):
    make_found(place / "by-jax", SearchRecipe(space="darts", num_nodes=2), backend="jax")
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    chosen = []
    monkeypatch.setattr(options, "choose_backend", lambda name, device: chosen.append(name) or sys.exit(0))
    for words in (["by-jax"], ["by-jax", "--backend", "tensorflow"], ["search"], ["DARTS_V2"]):
        result = sharpkeras("train", *words)
        assert ("note: backend jax is that of by-jax" in result.err) == (words == ["by-jax"])
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    sharpkeras("train", "by-jax")
    assert chosen == ["jax", "tensorflow", "tensorflow", None, "tensorflow"]


def test_what_is_extracted_is_trained_by_the_backend_of_its_search(place):
    """A file says nothing of the search, so the line that trains it does."""
    make_found(place / "by-jax", SearchRecipe(space="darts", num_nodes=2), backend="jax")
    for run, flags in (("by-jax", " --backend jax"), ("search", "")):
        result = sharpkeras("extract", run, "--out", f"{run}.json")
        assert result.code == 0, result.err
        assert result.out.splitlines()[-1].endswith(flags) and ("--backend" in result.out) == bool(flags)


@pytest.mark.parametrize("backend", ["torch", 3, None])
def test_a_backend_that_a_stranger_wrote_is_none(place, backend):
    recipe = json.loads(Path("search/recipe.json").read_text())
    Path("search/recipe.json").write_text(json.dumps({**recipe, "backend": backend}))
    assert options.backend_of("search") is None
