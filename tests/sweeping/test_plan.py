"""Rows of a sweep: what they can be, and the command lines that they stand for."""

import json
import os
import shlex

import click
import pytest

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("the rows are the same on every backend", allow_module_level=True)

from sharpkeras.errors import ConfigError, RunError, UsageError
from sharpkeras.experiment import inherited_settings
from sharpkeras.recipes import SEARCHES, TRAININGS, SearchRecipe, TrainRecipe, training_of
from sharpkeras.sweeping import plan, record
from sharpkeras.sweeping.plan import How, Row
from sharpkeras_cli.main import group

PLAIN = How()


@pytest.mark.parametrize(
    ("text", "numbers"), [("0-3", (0, 1, 2, 3)), ("7", (7,)), (7, (7,)), ("0, 4-5", (0, 4, 5)), ([2, 1], (2, 1))]
)
def test_seeds(text, numbers):
    assert plan.seeds(text) == numbers


@pytest.mark.parametrize(
    "text", ["", "a", "3-1", "-1", "0-99999999", "4294967296", [], [0, 0], "0,0-1", 1.5, None, [1.5]]
)
def test_what_is_no_seed(text):
    with pytest.raises(ConfigError, match="seeds|twice"):
        plan.seeds(text)


def rows(*entries, **shared):
    return plan.read({**shared, "rows": list(entries)}, "rows.toml")


def words(row, name, how=PLAIN):
    """The command line of the row's first seed that has this name, parsed by click."""
    (job, *_) = plan.jobs([row], "out", how)
    step = next(step for step in job.steps if step.name == name)
    context = click.Context(group, **group.context_settings)
    command = group.get_command(context, name)
    return step.words, command.make_context(name, list(step.words), parent=context).params


def test_a_row_is_a_search_its_training_and_their_seeds():
    (row,) = rows({"recipe": "sharpdarts", "search": {"epochs": 3}}, seeds="0-2", search={"epochs": 2, "limit": 80})
    assert row == Row("sharpdarts", "sharpdarts", seeds=(0, 1, 2), search={"epochs": 3, "limit": 80})
    jobs = plan.jobs([row], "out", How())
    assert [[step.name for step in job.steps] for job in jobs] == 3 * [["search", "train", "evaluate"]]
    assert len({job.folder for job in jobs}) == 3
    _, search = words(row, "search")
    assert search["name"] == "sharpdarts" and search["assignments"] == ("epochs=3", "limit=80") and search["seed"] == 0
    _, train = words(row, "train")
    assert train["architecture"] == str(search["out"]) and train["name"] is None


@pytest.mark.parametrize("recipe", SEARCHES)
@pytest.mark.parametrize("training", [None, "sharpdarts-plain"])
def test_a_random_architecture_is_trained_as_a_find_is(recipe, training):
    entry = {"recipe": recipe, "architecture": "random", "search": {"limit": 100}}
    (row,) = rows({**entry, **({"training": training} if training else {})})
    _, sample = words(row, "sample")
    drawn = SearchRecipe.from_dict({name: sample[name] for name in plan.SAMPLED})
    searched = row.search_recipe()
    assert [getattr(drawn, name) for name in plan.SAMPLED] == [getattr(searched, name) for name in plan.SAMPLED]
    _, train = words(row, "train")
    trained = inherited_settings.changed(TRAININGS[train["name"]].settings, TrainRecipe.parse(train["assignments"]))
    of_find = training_of(searched)
    if training:
        assert trained == TrainRecipe.from_dict({"ops": searched.ops}, base=TRAININGS[training].settings)
    else:
        assert trained == of_find and trained.limit == 100


def test_a_published_architecture_is_trained_alone():
    (row,) = rows({"architecture": "DARTS_V2", "train": {"epochs": 3, "drop_path": 0.1, "warmup_epochs": 1}})
    assert row.name == "DARTS_V2"
    (job,) = plan.jobs([row], "out", How())
    assert [step.name for step in job.steps] == ["train", "evaluate"]
    _, train = words(row, "train")
    assert train["architecture"] == "DARTS_V2" and "epochs=3" in train["assignments"]


def test_flags_of_all_commands():
    how = How("jax", "cpu", True, 0.0, ("download",))
    (row,) = rows({})
    for name in ("search", "train"):
        found, params = words(row, name, how)
        assert {"--deterministic", "--download"} <= set(found) and params["checkpoint_s"] == 0
    found, _ = words(row, "evaluate", how)
    assert "--download" in found and shlex.join(found).count("--backend jax --device cpu") == 1


def test_all_that_is_wrong_is_said_at_once_with_its_place():
    entries = [
        {"recipe": "sharpdart"},
        {"search": {"epochs": 0, "batch_sise": 3}},
        {"name": "../x"},
        {"name": "a", "train": {"dataset": "mnits", "seed": 3}},
        {"name": "b", "seeds": "3-1"},
        {"name": "c", "architecture": "DARTS_V9"},
        {"name": "d", "search": {"space": "sep_conv_9x9,none"}},
        {"name": "d"},
        {"name": 3},
        "row",
    ]
    with pytest.raises(ConfigError) as caught:
        rows(*entries, serch={})
    text = str(caught.value)
    for place, what in (
        ("rows[0]: recipe", "sharpdart"),
        ("rows[1]: search: epochs", "at least 1"),
        ("rows[1]: search", "batch_sise"),
        ("rows[2]: name", "../x"),
        ("rows[3]: train: seed", "seed"),
        ("rows[4]: seeds", "3-1"),
        ("rows[5]: architecture", "published"),
        ("rows[6]: search: space", "sep_conv_9x9"),
        ("rows[7]", "the name of rows[6]"),
        ("rows[8]: name", "a text"),
        ("rows[9]", "is no row"),
        ("rows.toml", "serch"),
    ):
        lines = [line for line in text.splitlines() if line.strip().startswith(f"{place}:") and what in line]
        assert lines, f"{place}, {what}: {text}"


@pytest.mark.parametrize("content", [None, {}, [], {"rows": []}, {"rows": {}}])
def test_what_has_no_rows(content):
    with pytest.raises(ConfigError, match="has no rows"):
        plan.read(content, "rows.json")


def test_one_thing_that_is_wrong_is_said_as_everywhere():
    with pytest.raises(UsageError, match="unknown dataset") as caught:
        rows({"search": {"dataset": "digit"}})
    assert caught.value.where == "rows.toml: rows[0]: search: dataset"


def test_a_directory_is_extended_by_seeds_and_rows_and_keeps_its_settings(tmp_path):
    out = tmp_path / "sweep"
    assert record.recorded(out) == []
    out.mkdir()
    first = rows({"seeds": "0-1"}, {"name": "b", "search": {"epochs": 3}})
    record.write(out, first)
    assert record.recorded(out) == first
    assert plan.read(json.loads((out / "sweep.json").read_text()), "sweep.json") == first  # it can be typed again
    found = record.extended(first, rows({"seeds": "1-3"}, {"name": "c"}), out)
    assert [(row.name, row.seeds) for row in found] == [("digits", (0, 1, 2, 3)), ("b", (0,)), ("c", (0,))]
    with pytest.raises(RunError, match=r"another row b(.|\n)*search.epochs +3 +4"):
        record.extended(first, rows({"name": "b", "search": {"epochs": 4}}), out)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is no sweep of ours|so it is no sweep"),
        ('{"kind": "recipe"}', "another kind"),
        ('{"kind": "sweep", "schema_version": 99, "rows": []}', "newer version"),
    ],
)
def test_a_directory_of_something_else(tmp_path, content, problem):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(RunError, match=problem):
        record.recorded(tmp_path)
    (tmp_path / "sweep.json").unlink()
    (tmp_path / "holiday.png").touch()
    with pytest.raises(RunError, match="no sweep of ours"):
        record.recorded(tmp_path)
