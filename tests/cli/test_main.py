"""The commands as a user meets them: help, guesses, the next command, JSON, and settings from three places."""

import dataclasses
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from support.command_line import SEARCH, TRAIN, sharpkeras

from sharpkeras import __version__
from sharpkeras.data import DATASETS
from sharpkeras.recipes import SEARCHES, TRAININGS, SearchRecipe, TrainRecipe
from sharpkeras_cli import groups
from sharpkeras_cli.main import COMMANDS, group

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("these commands run on the default backend", allow_module_level=True)

ROOT = Path(__file__).parents[2]
TABLES = json.loads((ROOT / "sharpkeras" / "paper" / "tables.json").read_text())
ROWS = {2: TABLES["table2_cifar10"], 3: TABLES["table3_imagenet"], 4: TABLES["table4_multichannelnet"]}


# --- help ---


def in_a_process(*arguments):
    command = [sys.executable, "-m", "sharpkeras_cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_help_lists_every_command():
    done = in_a_process("--help")
    assert done.returncode == 0 and not done.stderr
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[A-Z].*\.$", done.stdout, re.MULTILINE), f"{name} has no whole line of help"
    assert sharpkeras().code == 2 and "Commands:" in sharpkeras().err


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name):
    result = sharpkeras(name, "--help")
    assert result.code == 0 and result.out.startswith(f"Usage: sharpkeras {name} ")
    assert result.out == sharpkeras(name, "-h").out
    for parameter in command_of(name).params:
        if isinstance(parameter, click.Option):
            assert parameter.help and parameter.opts[0] in result.out, parameter.name


def command_of(name):
    return group.get_command(click.Context(group), name)


def test_version():
    assert sharpkeras("--version").out.strip().endswith(__version__)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == __version__


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["serch"], "search"),
        (["bench"], "benchmark"),
        (["search", "--epoch", "3"], "--epochs"),
        (["train", "x", "--drop-pth", "0.2"], "--drop-path"),
        (["cost", "sharpsepconv_darts"], "SHARPSEPCONV_DARTS"),
        (["train", "DARTS_V3"], "DARTS_V2"),
        (["train", "sharpdart"], "sharpdarts"),
        (["search", "sharpdart"], "sharpdarts"),
        (["train", "DARTS_V2", "--recipe", "darts-scc"], "darts-ssc"),
    ],
)
def test_did_you_mean(typed, meant):
    result = sharpkeras(*typed)
    assert result.code in (2, 3) and re.search(f"(?i)did you mean.*{meant}", result.err), result.err


# --- what a command ends with ---


@pytest.mark.parametrize("name", ["search", "train", "evaluate", "export"])
def test_the_next_command_is_one(finished, monkeypatch, name):
    monkeypatch.chdir(finished)
    check_next((finished / f"{name}.txt").read_text())


@pytest.mark.parametrize("typed", [["list", "datasets"], ["cost", "DARTS_V2", "--num-cells", "3"]])
def test_so_is_that_of_a_command_without_a_run(typed):
    check_next(sharpkeras(*typed).out)


def check_next(out):
    """The last line is a command line that parses, and what it names is there."""
    start, _, line = out.strip().splitlines()[-1].partition("Next: ")
    program, name, *arguments = shlex.split(line)
    assert not start and program == "sharpkeras"
    context = command_of(name).make_context(name, arguments)
    for parameter in ("architecture", "run", "file"):
        given = context.params.get(parameter)
        assert given is None or Path(given).exists() or str(given) in ("DARTS_V2", *TRAININGS)


def test_the_next_command_survives_a_space(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished / "train", "my run")
    out = sharpkeras("evaluate", "my run").out
    assert out.endswith("Next: sharpkeras export 'my run'\n")


# --- epochs ---


def test_files_say_from_what_their_epochs_count_and_messages_count_from_1(finished, tmp_path, monkeypatch):
    """A run of two epochs: 0 and 1 in its files, 1 and 2 for who reads what is printed."""
    monkeypatch.chdir(finished)

    def read(name):
        return json.loads((finished / name).read_text())

    for run in ("search", "train"):
        rows = [json.loads(line) for line in (finished / run / "metrics.jsonl").read_text().splitlines()]
        assert [row["epoch"] for row in rows] == [0, 1] and read(f"{run}/run.json")["epochs_counted_from"] == 0
    for number in (0, 1):
        state = read(f"search/epochs/{number:04d}.json")
        assert (state["epoch"], state["epochs_counted_from"]) == (number, 0)
    for name in ("train/evaluation.json", "model.json"):
        selected = read(name)["selected"]
        assert (selected["epoch"], selected["epochs"], selected["epochs_counted_from"]) == (1, 2, 0)
    assert "epoch 2 of 2" in (finished / "evaluate.txt").read_text()
    result = sharpkeras("extract", "search", "--epoch", "3", "--out", tmp_path / "x.json")
    assert result.code == 5 and "has no epoch 3" in result.err and "1 to 2" in result.err
    with_epoch = [("1", "0000"), ("2", "0001")]
    for typed, file in with_epoch:
        out = tmp_path / f"{typed}.json"
        assert sharpkeras("extract", "search", "--epoch", typed, "--out", out).code == 0
        assert json.loads(out.read_text())["normal"] == read(f"search/epochs/{file}.json")["genotype"]["normal"]


def test_a_run_of_before_is_read_and_goes_on(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished / "search", "search")
    facts = json.loads(Path("search/run.json").read_text())
    del facts["epochs_counted_from"]
    Path("search/run.json").write_text(json.dumps(facts))
    assert sharpkeras(*SEARCH, "--out", "search").code == 0
    assert json.loads(Path("search/run.json").read_text())["epochs_counted_from"] == 0


# --- JSON ---


def test_json_is_all_that_stdout_holds(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("search", "train"):
        shutil.copytree(finished / name, name)
    commands = {
        "search": ([*SEARCH, "--out", "search"], {"run", "genotype", "degenerate"}),
        "train": (TRAIN, {"run", "parameters", "addmults_paper", "addmults_conv_dense"}),
        "evaluate": (["evaluate", "train"], {"n", "errors", "error", "interval", "dataset", "selection", "top5"}),
        "compare": (["compare", "search", "train"], {"trainings", "training_groups", "pairs", "searches"}),
        "sample": (["sample", "--num-nodes", "2"], {"genotypes"}),
        "export": (["export", "train", "--out", "model.onnx"], {"bytes", "opset", "largest_difference", "cost"}),
        "benchmark": (["benchmark", "model.onnx", "--runs", "9"], {"models", "comparisons", "unstable", "seed"}),
        "list": (["list", "datasets"], {"datasets"}),
    }
    for name, (command, keys) in commands.items():
        result = sharpkeras(*command, "--json")
        assert result.code == 0, f"{name}: {result.err}"
        assert keys <= result.json.keys(), name


def test_an_error_is_json_too():
    error = json.loads(sharpkeras("search", "--dataset", "nothing", "--json").err)
    assert error["exit_code"] == 2 and error["where"] == "--dataset" and "digits" in error["allowed"]
    assert json.loads(sharpkeras("search", "--epochs", "0", "--json").err)["exit_code"] == 2


# --- numbers of the paper ---


@pytest.mark.parametrize(("table", "name"), [(2, "sharpDARTS"), (3, "sharpDARTS cmid 96")])
def test_cost_of_published_names(table, name):
    row = next(row for row in ROWS[table] if row["name"] == name)
    how = row["reproduce"]
    sizes = ["--for", {2: "cifar10", 3: "imagenet"}[table], "--ops", how["ops"]]
    found = sharpkeras("cost", how["genotype"], *sizes, "--mid-channels", how["mid_channels"], "--json").json
    assert found["parameters"] == row["measured"]["parameters"]
    assert round(found["addmults_paper"] / 1e6, 2) == row["measured"]["addmults_m"]
    assert isinstance(found["addmults_conv_dense"], int) and found["addmults_conv_dense"] < found["addmults_paper"]


# Rows without a configuration of their own: the recipe's network, Keras' own, or the published genotype; the rest is
# shown as printed only.
ALSO_MEASURED = {
    "SharpSepConvDARTS, no AutoAugment": 3_555_622,
    "DARTS+SSC, no search, no AutoAugment": 3_529_270,
    "sharpDARTS, no AutoAugment": 1_974_934,
    "MobileNetv2": 3_504_872,
    "MobileNetv2 (1.4)": 6_108_776,
    "NASNet-A": 5_289_978,
    "DARTS": 4_718_752,
}


@pytest.mark.parametrize("number", [2, 3, 4])
def test_tables_print_all_rows_of_the_paper(number):
    rows = sharpkeras("table", number, "--json").json
    assert [row["name"] for row in rows] == [row["name"] for row in ROWS[number]]
    for row, printed in zip(rows, ROWS[number]):
        assert row["printed"].get("params_m") == printed.get("params_m")
        if "reproduce" in printed:
            parameters = printed["measured"].get("parameters") or printed["measured"]["params"]
            assert row["measured"]["parameters"] == parameters
            in_millions = printed["measured"].get("addmults_m") or printed["measured"]["addmult_m"]
            assert round(row["measured"]["addmults_paper"] / 1e6, 2) == in_millions
        elif row["measured"]:
            assert row["measured"]["parameters"] == ALSO_MEASURED[row["name"]]
        else:
            assert row["name"] not in ALSO_MEASURED or (number, row["name"]) == (2, "NASNet-A")


def test_a_table_to_look_at(monkeypatch):
    from sharpkeras.measure.cost import Cost
    from sharpkeras.spaces.network_spec import NetworkSpec

    monkeypatch.setattr(NetworkSpec, "cost", lambda *_: Cost(4_973_728, 572_980_000, 550_000_000))
    out = sharpkeras("table", "3").out
    assert re.search(r"SharpSepConvDARTS +│ +4\.9 M │ +4,973,728 │ +0\.573 B │ +572,980,000", out)
    assert "the paper cuts rather than rounds" in out


def test_list_names_what_there_is():
    found = sharpkeras("list", "--json").json
    assert list(found["genotypes"])[:2] == ["NASNet-A", "AmoebaNet-A"] and len(found["genotypes"]) == 10
    assert set(found["spaces"]) == {"darts", "sharp", "sharper", "table1", "multichannel"}
    assert found["paths"]["MULTI_CHANNEL_HANDMADE_PATH"] == "32 32 64p 64 128p 128 256p 256 256p"
    assert "dil_choke_conv_3x3" in found["spaces"]["sharp"]
    assert set(found["datasets"]) == set(DATASETS)
    assert list(found["recipes"]) == [f"search {name}" for name in SEARCHES] + [f"train {name}" for name in TRAININGS]
    out = sharpkeras("list").out
    assert all(name in out for topic in ("genotypes", "paths", "spaces", "datasets") for name in found[topic])
    assert all(f"│ {name.split()[1]} " in out for name in found["recipes"])


def test_a_listed_recipe_has_the_papers_figures_beside_it():
    recipe = sharpkeras("list", "recipes", "--json").json["recipes"]["train sharpdarts"]
    assert recipe["printed"]["val_err"] == "2.29 ± 0.06" and recipe["architecture"] == "SHARP_DARTS"
    assert recipe["settings"]["epochs"] == 2000 and "selects on the test images" in recipe["note"]
    out = sharpkeras("list", "recipes").out
    assert re.search(r"│ sharpdarts +│[^│]+│ SHARP_DARTS +│ +1\.98 M │ +0\.357 B │ CIFAR-10 2\.29 ± 0\.06 %", out)


# --- settings: preset, file, flag ---


@pytest.mark.parametrize(("name", "recipe"), [("search", SearchRecipe), ("train", TrainRecipe)])
def test_every_setting_is_an_option_with_its_range(name, recipe):
    found = {parameter.name: parameter for parameter in command_of(name).params}
    for field in recipe.fields():
        option, rule = found[field.name], field.metadata
        assert option.opts[0] == "--" + field.name.replace("_", "-")
        if rule["choices"]:
            assert tuple(option.type.choices) == tuple(rule["choices"])
        elif rule["low"] is not None:
            assert (option.type.min, option.type.max) == (rule["low"], rule["high"])


def resolved(*arguments, monkeypatch):
    """The recipe that `search` would run with."""
    import sharpkeras as sk

    seen = []
    monkeypatch.setattr(sk, "search", lambda recipe, *_, **__: seen.append(recipe) or sys.exit(0))
    result = sharpkeras("search", *arguments)
    assert result.code == 0, result.err
    return seen[0], result.err


FORMS = {
    "settings.json": '{"epochs": 7, "space": "darts"}',
    "settings.toml": 'epochs = 7\nspace = "darts"\n',
    "recipe.json": '{"settings": {"epochs": 7, "space": "darts"}, "backend": "tensorflow"}',
    "marked.json": '\ufeff{"epochs": 7, "space": "darts"}',  # a byte order mark is ignored
}


@pytest.mark.parametrize("name", FORMS)
def test_row_8_a_flag_wins_over_the_file_and_the_file_over_the_preset(tmp_path, monkeypatch, name):
    file = tmp_path / name
    file.write_text(FORMS[name], encoding="utf-8")
    recipe, said = resolved("sharpdarts", "--config", file, "--epochs", "5", monkeypatch=monkeypatch)
    assert (recipe.epochs, recipe.space, recipe.init_channels) == (5, "darts", 16)
    assert f"note: epochs is 5, as the flag says, and not 7 of {file}" in said
    assert ("byte order mark" in said) == (name == "marked.json")
    recipe, said = resolved("--config", file, monkeypatch=monkeypatch)
    assert (recipe.epochs, recipe.weighting) == (7, "max_w") and "as the flag" not in said


def test_any_setting_can_be_set_by_its_name(monkeypatch):
    words = ["--set", "epochs=5", "--set", "l2=1e-4", "--set", "skip_none=false", "--set", "limit=none"]
    recipe, _ = resolved("sharpdarts", *words, monkeypatch=monkeypatch)
    assert recipe == dataclasses.replace(SEARCHES["sharpdarts"].settings, epochs=5, l2=1e-4, skip_none=False)


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        ("learing_rate=1", ["unknown key", "did you mean learning_rate?"]),
        ("weight_decay=1", ["unknown key", "did you mean l2?"]),
        ("epochs=0", ["epochs", "at least 1"]),
        ("epochs=2.5", ["epochs", "finite int"]),
        ("skip_none=maybe", ["skip_none", "finite bool"]),
        ("l2=nan", ["l2", "finite float"]),
        ("epochs", ["expected a setting", "name=value"]),
    ],
)
def test_what_is_set_is_checked(assignment, parts):
    result = sharpkeras("search", "--set", assignment)
    assert result.code == 3 and all(part in result.err for part in parts), result.err


def test_a_runs_recipe_is_a_config(finished, monkeypatch):
    recipe, _ = resolved("--config", finished / "search" / "recipe.json", "--no-skip-none", monkeypatch=monkeypatch)
    expected = json.loads((finished / "search" / "recipe.json").read_text())["settings"]
    assert recipe.as_dict() == {**expected, "skip_none": False}


def test_row_8_strict_refuses_a_contradiction(tmp_path, monkeypatch):
    (tmp_path / "settings.json").write_text(FORMS["settings.json"])
    config = ["--config", tmp_path / "settings.json", "--strict"]
    result = sharpkeras("search", *config, "--epochs", "5")
    assert result.code == 3 and "epochs: a flag contradicts --config" in result.err
    assert resolved(*config, "--epochs", "7", monkeypatch=monkeypatch)[0].epochs == 7


# --- what is installed ---


def test_row_15_a_package_below_its_floor_is_refused_unless_allowed(monkeypatch):
    version = importlib.metadata.version
    old = {"keras": "3.9.2"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: old.get(name) or version(name))
    result = sharpkeras("list", "spaces")
    assert result.code == 3 and "keras is too old" in result.err and "3.9.2" in result.err
    assert "--allow-old-deps" in result.err and not result.out
    result = sharpkeras("--allow-old-deps", "list", "spaces")
    assert result.code == 0 and "warning: keras 3.9.2" in result.err and "dil_conv_3x3" in result.out


def test_a_backend_that_is_not_installed_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    result = sharpkeras("search", "--backend", "jax")
    assert result.code == 3 and 'pip install "sharpkeras[jax]"' in result.err


def test_a_bug_says_how_to_see_it(monkeypatch):
    from sharpkeras.experiment import paper_tables

    monkeypatch.setattr(paper_tables, "table", lambda number: 1 / 0)
    result = sharpkeras("table", "3")
    assert result.code == 1 and "a bug of sharpkeras: ZeroDivisionError" in result.err and "Traceback" not in result.err
    assert "Traceback" in sharpkeras("--debug", "table", "3").err


def test_ctrl_c_is_no_error(monkeypatch):
    from sharpkeras.experiment import paper_tables

    def interrupted(number):
        raise KeyboardInterrupt

    monkeypatch.setattr(paper_tables, "table", interrupted)
    result = sharpkeras("table", "3")
    assert result.code == 130 and "Interrupted" in result.err and "Traceback" not in result.err


def test_cost_per_layer_adds_up():
    arguments = ("cost", "SHARP_DARTS", "--init-channels", "4", "--num-cells", "2", "--per-layer")
    report = sharpkeras(*arguments, "--json").json
    for name in ("parameters", "addmults_paper", "addmults_conv_dense"):
        assert sum(row[name] for row in report["layers"]) == report[name]
    table = sharpkeras(*arguments).out
    assert "classifier" in table and "stem.0" in table and f"{report['addmults_paper']:,}" in table


# --- help ---


OTHERS = "Other options"


@pytest.mark.parametrize("name", ["search", "sweep", "train"])
def test_every_option_has_a_group(name):
    command = command_of(name)
    text = command.get_help(click.Context(command, info_name=name))
    headings = [line.rstrip(":") for line in text.splitlines() if re.fullmatch(r"[A-Z][a-z A-Z]+:", line)]
    names = {parameter.name for parameter in command.params}
    assert headings == [*(heading for heading, of_group in groups.GROUPS.items() if names & {*of_group}), OTHERS]
    assert text.endswith("--help  Show this message and exit.")
    grouped = [option for options in groups.GROUPS.values() for option in options]
    assert len(grouped) == len(set(grouped))
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.name in grouped and text.count(f"  {parameter.opts[0]}") >= 1


@pytest.mark.parametrize("name", COMMANDS)
def test_help_texts_are_sentences(name):
    for parameter in command_of(name).params:
        if isinstance(parameter, click.Option):
            text = (parameter.help or "").partition("  [")[0]
            assert re.match(r"[A-Z0-9]", text) and text.endswith("."), f"{name} {parameter.opts[0]}: {text!r}"
            assert "can not" not in text
