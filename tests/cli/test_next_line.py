"""What search and extract print is what the network has that their Next line trains, typed as it stands."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys

import pytest
from support.command_line import make_images, sharpkeras
from support.found import make_found

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("these commands run on the default backend", allow_module_level=True)

import sharpkeras as sk
from sharpkeras.data import load
from sharpkeras.experiment import builders, search_budget
from sharpkeras.recipes import SEARCHES, TRAININGS, SearchRecipe, training_of
from sharpkeras.runs import RunDirectory
from sharpkeras.spaces.network_spec import NetworkSpec
from sharpkeras_cli import options

CELLS = {"space": "darts", "num_nodes": 2}
CUBOID = {"space": "multichannel", "init_channels": 2, "num_scales": 2, "num_cells": 1, "final_filters": 24}
IMAGES = {
    "digits": {"dataset": "digits", "limit": 100, "batch_size": 16},
    "colour": {"dataset": "generated:cifar10", "batch_size": 16},
    "folder": {"dataset": "folder:photos", "image_size": 10, "batch_size": 8},
}
IMAGENET = ((224, 224, 3), 1000)  # of a recipe of ImageNet, which nobody has here


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 20), ("test", 3)):
        make_images(tmp_path / "photos" / split, {"cat": count, "dog": count, "emu": count}, size=(12, 12))
    return tmp_path


@pytest.fixture(autouse=True)
def small_rows(monkeypatch):
    """Networks of three cells instead of up to twenty: what is held here is that two of them are the same."""
    for name, row in TRAININGS.items():
        if row.settings.num_cells > 3:
            small = dataclasses.replace(row.settings, num_cells=3, init_channels=4)
            monkeypatch.setitem(TRAININGS, name, dataclasses.replace(row, settings=small))


def trained_next(out, monkeypatch):
    """Parameters and AddMults of the network that the last line of an output trains; the images are loaded anew."""
    program, *words = shlex.split(out.strip().splitlines()[-1].removeprefix("Next: "))
    assert program == "sharpkeras" and words[0] == "train"
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(sk, "train", lambda found, *_, recipe, **__: seen.append((recipe, found)) or sys.exit(0))
        result = sharpkeras(*words)
    assert result.code == 0, result.err
    recipe, found = seen[0]
    sizes = IMAGENET
    if recipe.dataset != "imagenet":
        dataset = load(recipe.dataset, "train", limit=recipe.limit, **builders.image_options(recipe))
        sizes = dataset.images.shape[1:], len(dataset.class_names)
        builders.image_preparation(recipe, dataset)  # which refuses a cutout that is larger than they are
        NetworkSpec(recipe, *sizes).build(found)  # and this an auxiliary head that does not fit
        assert len(dataset.images) * (1 - recipe.held_out) >= recipe.batch_size
    cost = NetworkSpec(recipe, *sizes).cost(found)
    return cost.parameters, cost.addmults_paper


def printed(out):
    numbers = re.search(r"^([\d,]+) parameters, ([\d,]+) AddMults", out, re.MULTILINE).groups()
    return tuple(int(number.replace(",", "")) for number in numbers)


CASES = [
    ("digits", CELLS, []),
    ("digits", CELLS, ["--cost-of", "sharpdarts"]),  # cutout, auxiliary head and batch are too large for these images
    ("digits", CELLS, ["--cost-of", "sharpdarts-imagenet-96"]),
    ("digits", CUBOID, []),
    ("digits", CUBOID, ["--cost-of", "multichannel-max-w"]),
    ("digits", CUBOID, ["--cost-of", "sharpdarts"]),  # a path has no auxiliary head and no drop path
    ("colour", CELLS, ["--cost-of", "sharpsepconv-darts"]),
    ("colour", {**CELLS, "ops": "darts"}, []),
    ("colour", CUBOID, []),
    ("folder", CELLS, []),
    ("folder", CELLS, ["--cost-of", "sharpdarts"]),
    ("folder", CELLS, ["--cost-of", "sharpdarts-imagenet-32"]),
    ("folder", CUBOID, []),
]


@pytest.mark.parametrize(("images", "space", "cost_of"), CASES)
def test_extract_counts_what_is_trained_next_with_and_without_a_budget(place, monkeypatch, images, space, cost_of):
    make_found(place / "search", SearchRecipe(**{**IMAGES[images], **space}))
    free = sharpkeras("extract", "search", *cost_of, "--out", "free.json")
    assert free.code == 0, free.err
    parameters, addmults = printed(free.out)
    assert trained_next(free.out, monkeypatch) == (parameters, addmults)
    limit = addmults - 1  # so that another architecture is found
    bounded = sharpkeras("extract", "search", *cost_of, "--max-addmults", limit, "--out", "bounded.json")
    assert bounded.code == 0, bounded.err
    assert printed(bounded.out)[1] <= limit
    assert trained_next(bounded.out, monkeypatch) == printed(bounded.out)


SEARCHED = [
    ("digits", "digits", CELLS),
    ("sharpdarts", "digits", CELLS),
    ("sharpdarts", "folder", CELLS),
    ("darts", "colour", CELLS),
    ("multichannel-max-w", "colour", CUBOID),
    ("multichannel-max-w", "folder", CUBOID),
]


@pytest.mark.parametrize(("row", "images", "space"), SEARCHED)
def test_a_budget_of_search_is_that_of_what_is_trained_next(place, monkeypatch, row, images, space):
    """By the command and in Python alike: nothing but the row and the settings decides which network is meant."""
    settings = {**IMAGES[images], **space, "max_addmults": 10**12, "cutout_px": 0, "epochs": 1}
    recipe = dataclasses.replace(SEARCHES[row].settings, **settings)
    make_found(place / "search", recipe)
    flags = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    result = sharpkeras("search", row, *flags, "--out", "search")
    assert result.code == 0 and "already complete" in result.err, result.err
    shown = int(re.search(r"As .*: ([\d,]+) AddMults \(budget", result.out)[1].replace(",", ""))
    assert trained_next(result.out, monkeypatch)[1] == shown
    counted = sharpkeras("cost", "search", "--json").json
    assert counted["addmults_paper"] == shown  # one rule for all commands
    assert trained_next(sharpkeras("cost", "search").out, monkeypatch)[1] == shown


def test_python_and_the_command_mean_the_same_budget(place):
    assert SearchRecipe(max_addmults=600_000).priced().cost_of == "digits"
    row = dataclasses.replace(SEARCHES["sharpdarts"].settings, dataset="folder:photos", max_parameters=3_000_000)
    assert row.priced().cost_of == "sharpdarts"
    assert dataclasses.replace(SEARCHES["multichannel-max-w"].settings, max_addmults=1).priced().cost_of is None
    settings = {**IMAGES["digits"], **CELLS}
    spec = search_budget.costed_network(SearchRecipe(**settings, max_addmults=1).priced(), (8, 8, 1), 10)
    expected = TRAININGS["digits"].settings
    assert (spec.recipe.init_channels, spec.recipe.num_cells, spec.input_shape, spec.num_classes) == (
        expected.init_channels,
        expected.num_cells,
        (8, 8, 1),
        10,
    )


@pytest.mark.parametrize("recorded", ["digits", None])
def test_runs_of_before_go_on(place, recorded):
    """The command used to write `cost_of` into the recipe; in Python a budget had none, and meant the search's size."""
    recipe = SearchRecipe(**IMAGES["digits"], **CELLS, max_addmults=10**12)
    make_found(place / "search", recipe)
    run = RunDirectory.read(place / "search")
    settings = {**run.recipe["settings"], "cost_of": recorded}
    (place / "search" / "recipe.json").unlink()
    with RunDirectory.open(place / "again", "search", {"settings": settings, "backend": "tensorflow"}):
        pass
    (place / "again" / "recipe.json").rename(place / "search" / "recipe.json")
    sk.search(recipe, place / "search")  # raises where it is held to be another recipe
    assert RunDirectory.read(place / "search").recipe["settings"]["cost_of"] == recorded


def test_the_line_of_a_real_search_is_typed(place):
    data = ["--dataset", "folder:photos", "--image-size", "8", "--batch-size", "8", "--cutout-px", "0"]
    tiny = ["--init-channels", "2", "--num-cells", "2", "--num-nodes", "1", "--space", "skip_connect,sep_conv_3x3"]
    searched = sharpkeras("search", *data, *tiny, "--epochs", "1", "--max-addmults", "100M", "--out", "search")
    assert searched.code == 0, searched.err
    extracted = sharpkeras("extract", "search", "--max-addmults", "100M", "--out", "b.json")
    for output in (searched.out, extracted.out):
        words = shlex.split(output.strip().splitlines()[-1].removeprefix("Next: sharpkeras "))
        trained = sharpkeras(*words, "--epochs", "1", "--warmup-epochs", "0", "--out", f"train-{words[1]}")
        assert trained.code == 0, trained.err
        assert printed(trained.out) == printed(extracted.out)
        assert "folder:photos: " in trained.err and "3 classes, 8×8×3" in trained.err


def test_lines_read_the_images_as_the_command_before_did(place):
    """Broken images that were left out, and folders that links lead to, are so in all that follows, export too."""
    (place / "photos" / "test").rename(place / "elsewhere")
    (place / "photos" / "test").symlink_to(place / "elsewhere")
    for split in ("train", "test"):
        (place / "photos" / split / "cat" / "broken.png").write_bytes(b"no image")
    data = {"dataset": "folder:photos", "num_nodes": 1, "space": "skip_connect,sep_conv_3x3"}
    data |= {"batch_size": 8, "epochs": 1}
    reading = ["--skip-bad-images", "--follow-symlinks"]
    flags = [word for name, value in data.items() for word in (f"--{name.replace('_', '-')}", value)]
    tiny = ["--init-channels", "2", "--num-cells", "2", "--epochs", "1", "--warmup-epochs", "0", "--out", "train"]
    output = sharpkeras("search", *flags, *reading, "--init-channels", "2", "--num-cells", "2", "--out", "search")
    for more in (tiny, [], ["--out", "exported.onnx"]):
        assert output.code == 0, output.err
        words = shlex.split(output.out.strip().splitlines()[-1].removeprefix("Next: sharpkeras "))
        assert words[-2:] == reading
        output = sharpkeras(*words, *more)
    assert output.code == 0 and "test error of the file" in output.out, output.err
    without = sharpkeras("export", "train", "--follow-symlinks", "--out", "other.onnx")
    assert without.code == 0 and "test error" not in without.out
    assert "no test images of folder:photos are used: " in without.err and "broken.png" in without.err


@pytest.mark.parametrize(
    "word",
    ["a", "a b", "it's", "$HOME", "", "\x1b[31m", "a\n--out b", "it's \\x41\t", "\u202eabc", "\udcff\udcfe", "é\x7f"],
)
def test_a_line_can_be_typed_and_does_nothing_to_the_terminal(word):
    """A dataset out of a stranger's recipe, or a folder whose name is no UTF-8; the shell itself says what it takes."""
    line = options.typed(word)
    assert line.isprintable() and options.typed(f"{word}\ud800").isprintable()  # which no file can be called
    taken = subprocess.run(["bash", "-c", f"printf %s {line}"], capture_output=True).stdout
    assert taken == os.fsencode(word)


@pytest.mark.parametrize("name", ["DARTS_V2", "MULTI_CHANNEL_MAX_W_PATH"])
@pytest.mark.parametrize("sizes", [[], ["--num-classes", "1000", "--input-size", "64", "--final-filters", "96"]])
def test_cost_names_the_sizes_that_it_counted(name, sizes, monkeypatch):
    counted = sharpkeras("cost", name, *sizes)
    words = shlex.split(counted.out.strip().splitlines()[-1].removeprefix("Next: sharpkeras "))
    seen = []
    monkeypatch.setattr(sk, "train", lambda found, *_, recipe, **__: seen.append((recipe, found)) or sys.exit(0))
    assert sharpkeras(*words).code == 0
    recipe, found = seen[0]
    side = recipe.image_size or {"cifar10": 32, "imagenet": 224}[recipe.dataset]
    cost = NetworkSpec(recipe, (side, side, 3), {"cifar10": 10, "imagenet": 1000}[recipe.dataset]).cost(found)
    assert f" {cost.parameters:,}\n" in counted.out and f" {cost.addmults_paper:,}   with" in counted.out


def test_every_row_trains_what_every_kind_of_search_found():
    """Whatever the row: nothing in the recipe is left that images of this size and number have no room for."""
    for name, row in TRAININGS.items():
        for space in (CELLS, CUBOID):
            search = SearchRecipe(**IMAGES["folder"], **space)
            training = training_of(search, name, (10, 10, 3), 60)
            if training.dataset == "imagenet":
                assert row.settings.stem == "imagenet" and training.image_size == 224
                continue
            assert training.dataset == "folder:photos" and training.image_size == 10
            assert training.cutout_px <= 10 and training.auxiliary_weight == 0 and training.batch_size <= 54
