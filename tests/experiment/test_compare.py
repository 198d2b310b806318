"""Runs side by side: groups of seeds, tests on the same images, refusals, and the collapse watch of searches."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.command_line import sharpkeras

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("compare runs on the default backend", allow_module_level=True)

from sharpkeras.experiment import evaluate as evaluation
from sharpkeras.experiment.compare import compare
from sharpkeras.io import atomic_writes
from sharpkeras.measure.error_rate import ErrorRate
from sharpkeras.measure.statistics import mcnemar, mean_interval, median_half_range
from sharpkeras.recipes import SearchRecipe, TrainRecipe
from sharpkeras.runs import RunDirectory
from sharpkeras.spaces.cell import genotype as genotypes
from sharpkeras.spaces.network_spec import NetworkSpec
from sharpkeras.view.collapse import draw_collapse

PAIRS = [["sep_conv_3x3", 0], ["skip_connect", 1]]
CELLS = {"normal": PAIRS, "normal_concat": [2], "reduce": PAIRS, "reduce_concat": [2]}
FACTS = {
    "fingerprint": "f" * 64,
    "shape": [8, 8, 1],
    "class_names": list("0123456789"),
    "mean": [0.5],
    "deviation": [0.5],
}
IMAGES = 100
LABEL = "TEST-SELECTED"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def training(name, seed=0, wrong=None, status="finished", by="last", images="digits", genotype=CELLS, **settings):
    """The directory of a training as `train` and `evaluate` leave it, with errors on the first `wrong` images."""
    recipe = TrainRecipe(init_channels=2, num_cells=2, seed=seed, **settings)
    content = {"settings": recipe.as_dict(), "genotype": genotype, "backend": "tensorflow"}
    with RunDirectory.open(name, "train", content) as run:
        run.write_json("data.json", FACTS)
        if status == "failed":
            run.write_json("diverged.json", {"epoch": 1})
        if status == "finished":
            run.mark_finished()
        if wrong is not None:
            evaluate(run, wrong, by, images)
    return name


def evaluate(run, wrong, by="last", images="digits", suffix=""):
    label = evaluation.TEST_SELECTED if by == "test" else None
    labels = np.arange(IMAGES) % 10
    classes = (labels[:, None] + np.arange(5)) % 10
    classes[wrong] = (classes[wrong] + 1) % 10
    report = {
        "dataset": images.partition("/")[0],
        "fingerprint": images,
        **ErrorRate(len(np.unique(wrong)), IMAGES).as_dict(label),
        "top5": None,
        "label": label,
        "selected": {"by": by},
        "selection": "in words",
    }
    run.write_json(f"evaluation{suffix}.json", report)
    run.save_arrays(f"predictions{suffix}.safetensors", {"labels": labels, "classes": classes}, {"fingerprint": images})


def search(
    name, weighting="max_w", seed=0, shares=((0.2, 0.2, 0.0),), status="finished", images="f" * 64, watched=True
):
    """The directory of a search whose epochs have these shares of skip, pool and none."""
    recipe = SearchRecipe(weighting=weighting, seed=seed, epochs=max(1, len(shares)))
    with RunDirectory.open(name, "search", {"settings": recipe.as_dict(), "backend": "tensorflow"}) as run:
        run.write_json("data.json", {**FACTS, "fingerprint": images})
        rows = [{"held_out_accuracy": 0.5} | (watch(share) if watched else {}) for share in shares]
        run.write_metrics([{"epoch": epoch} | row for epoch, row in enumerate(rows)])
        if status == "finished":
            run.mark_finished()
    return name


def watch(share):
    skip, pool, none = share
    convs = round(16 * (1 - skip - pool - none))
    counts = {"found_skips": round(16 * skip), "found_pools": 16 - convs - round(16 * skip)}
    shares = {"skip_share": skip, "pool_share": pool, "none_share": none}
    cost = {"found_parameters": 1000 * convs, "found_addmults": 10**6 * convs}
    return {**shares, "entropy_normal": 2.0, "entropy_reduce": 2.1, **counts, "found_convs": convs, **cost}


# --- trainings ---


def test_a_row_says_what_a_run_is():
    training("a", wrong=range(12), genotype={**CELLS, "name": "mine"})
    training("b", wrong=range(9), epochs=3)
    rows = compare(["a", "b"])["trainings"]
    recipe = TrainRecipe(init_channels=2, num_cells=2)
    expected = NetworkSpec(recipe, (8, 8, 1), 10).cost(genotypes.Genotype.from_dict(CELLS))._asdict()
    assert all(row.items() >= expected.items() for row in rows)
    assert [row["architecture"] for row in rows] == ["mine", rows[1]["architecture"]]
    assert rows[1]["architecture"].startswith("genotype ") and [row["group"] for row in rows] == [1, 2]
    evaluated = rows[0]["evaluations"][0]
    assert (evaluated["n"], evaluated["errors"], evaluated["text"]) == (IMAGES, 12, str(ErrorRate(12, IMAGES)))


def test_row_86_seeds_are_a_group_and_none_of_them_is_dropped():
    names = [training(f"s{seed}", seed, wrong=range(10 + seed)) for seed in range(3)]
    names += [training("s3", 3, status="failed"), training("s4", 4, status="unfinished")]
    report = compare(names)
    assert [row["status"] for row in report["trainings"]] == ["finished"] * 3 + ["failed", "unfinished"]
    (group,) = report["training_groups"]
    assert group["seeds"] == [0, 1, 2, 3, 4] and group["runs"] == names
    errors = [0.10, 0.11, 0.12, None, None]
    assert (
        group["median"]["text"]
        == str(median_half_range(errors))
        == ("11.00 ± 1.00 % (median ± range/2, n = 3 of 5 runs)")
    )
    assert group["mean"]["text"] == str(mean_interval(errors))
    out = sharpkeras("compare", *names).out
    assert "n = 3 of 5 runs" in out and "│ failed" in out and "│ unfinished" in out


def test_an_error_from_before_the_end_is_no_result():
    (row,) = compare([training("a", wrong=range(10), status="unfinished")])["trainings"]
    assert row["status"] == "unfinished" and not row["evaluations"]


def test_a_run_that_was_not_evaluated_is_the_next_to_be():
    out = sharpkeras("compare", training("a", 0, wrong=range(10)), training("b", 1)).out
    assert "not evaluated" in out and "single run, n = 1 of 2" in out
    assert out.endswith("Next: sharpkeras evaluate b\n")


def test_a_group_without_any_error():
    report = compare([training("a", 0, status="failed"), training("b", 1, status="failed")])
    assert report["training_groups"][0]["median"] is None
    assert "no error of 2 runs" in sharpkeras("compare", "a", "b").out


def test_row_87_a_single_run_has_no_deviation():
    out = sharpkeras("compare", training("a", wrong=range(10))).out
    (line,) = [line for line in out.splitlines() if line.startswith("group")]
    assert line.endswith("digits: 10.00 % (single run)") and "±" not in line


def test_runs_are_tested_on_the_same_images():
    training("a", wrong=range(10))
    training("b", wrong=range(4, 30), epochs=3)
    training("c", wrong=range(10), epochs=4)
    pairs = compare(["a", "b", "c"])["pairs"]
    assert [(pair["first"], pair["second"]) for pair in pairs] == [("a", "b"), ("a", "c")]
    right = np.ones((2, IMAGES), bool)
    right[0, :10], right[1, 4:30] = False, False
    expected = mcnemar(*right)
    assert pairs[0].items() >= expected._asdict().items() and (expected.first_only, expected.second_only) == (20, 4)
    assert pairs[1]["p"] == 1.0
    assert f"a against b, digits: {expected}" in sharpkeras("compare", "a", "b", "c").out


def test_runs_meet_on_a_second_dataset():
    """Trained on different data, both evaluated on a third."""
    for name, seed, images in (("a", 0, "digits"), ("b", 1, "letters")):
        training(name, seed, wrong=range(10), images=images)
        with RunDirectory.open(name, "train", RunDirectory.read(name).recipe) as run:
            evaluate(run, range(20), images="shared", suffix="-shared")
    report = compare(["a", "b"])
    assert [pair["dataset"] for pair in report["pairs"]] == ["shared"] and not report["differences"]
    assert [e["dataset"] for e in report["trainings"][0]["evaluations"]] == ["digits", "shared"]


# --- what cannot be compared, and labels ---


def test_row_65_other_test_images():
    runs = [training("a", wrong=range(10)), training("b", 1, wrong=range(10), images="digits/changed")]
    check_refusal(runs, "b was tested on other images than a", "OTHER IMAGES")
    report = compare(runs, force=True)
    assert not report["pairs"] and [group["median"]["n"] for group in report["training_groups"]] == [1, 1]


def test_row_65_one_name_for_two_sets_of_images():
    """That they share a second dataset does not help: the table would show two numbers under one name."""
    runs = [training("a", wrong=range(10)), training("b", 1, wrong=range(10), images="digits/changed")]
    for name in runs:
        with RunDirectory.open(name, "train", RunDirectory.read(name).recipe) as run:
            evaluate(run, range(20), images="shared", suffix="-shared")
    check_refusal(runs, "b was tested on other images than a", "OTHER IMAGES")


def test_row_65_another_selection():
    runs = [training("a", wrong=range(10)), training("b", wrong=range(8), by="held_out", epochs=3)]
    check_refusal(runs, "the weights of b were selected otherwise (held_out)", "OTHER SELECTION")


def test_the_same_seed_twice_is_no_sample():
    runs = [training("a", wrong=range(10)), training("b", wrong=range(10))]
    check_refusal(runs, "b is a again, with the same seed", "SAME SEED")


def test_searches_on_other_images():
    check_refusal(
        [search("a"), search("b", seed=1, images="e" * 64)], "b searched on other images than a", "OTHER IMAGES"
    )


def check_refusal(runs, sentence, label):
    refused = sharpkeras("compare", *runs)
    assert refused.code == 3 and sentence in refused.err and "--force" in refused.err and not refused.out
    forced = sharpkeras("compare", *runs, "--force")
    assert forced.code == 0 and f"WARNING: {sentence}" in forced.err and label in forced.out
    rows = sharpkeras("compare", *runs, "--force", "--json").json
    assert [label in row["labels"] for row in rows["trainings"] + rows["searches"]] == [False, True]


def test_row_64_numbers_of_test_selected_weights_are_labelled_everywhere():
    runs = [training(name, seed, wrong=range(10 + seed), by="test") for seed, name in enumerate("ab")]
    result = sharpkeras("compare", *runs)
    assert result.code == 0, result.err
    numbers = [line for line in result.out.splitlines() if "%" in line and "AddMults" not in line or "p = " in line]
    assert len(numbers) == 4 and all(LABEL in line for line in numbers)
    report = sharpkeras("compare", *runs, "--json").json
    (group,), (pair,) = report["training_groups"], report["pairs"]
    texts = [group["median"]["text"], group["mean"]["text"], pair["text"]]
    texts += [row["evaluations"][0]["text"] for row in report["trainings"]]
    assert all(text.startswith(LABEL) for text in texts)
    assert group["label"] == pair["label"] == LABEL and all(row["labels"] == [LABEL] for row in report["trainings"])


def test_the_same_run_twice():
    training("a", wrong=range(10))
    result = sharpkeras("compare", "a", "./a/")
    assert result.code == 2 and "the same run twice" in result.err
    assert sharpkeras("compare", "nowhere").code == 5 and sharpkeras("compare").code == 2


@pytest.mark.parametrize("wrong", ["missing", "other errors", "other images", "an older report"])
def test_answers_that_do_not_belong_to_the_report(tmp_path, wrong):
    training("a", wrong=range(10))
    training("b", 1, wrong=range(10))
    if wrong == "missing":
        (tmp_path / "b" / "predictions.safetensors").unlink()
    elif wrong == "an older report":
        (tmp_path / "b" / "evaluation.json").write_text('{"n": 100, "errors": 10}')
    else:
        arrays, meta = atomic_writes.load_arrays(tmp_path / "b" / "predictions.safetensors")
        arrays["classes"][99] += wrong == "other errors"
        meta["fingerprint"] = "x" if wrong == "other images" else meta["fingerprint"]
        atomic_writes.save_arrays(tmp_path / "b" / "predictions.safetensors", arrays, meta)
    result = sharpkeras("compare", "a", "b")
    assert result.code == 5 and "sharpkeras evaluate b" in result.err and not result.out


# --- searches ---

SHARES = [(0.25, 0.25, 0.0), (0.5, 0.25, 0.125), (0.25, 0.0, 0.25)]


def test_a_search_shows_its_last_epoch_and_its_worst():
    (row,) = compare([search("a", shares=SHARES)])["searches"]
    assert row.items() >= {"weighting": "max_w", "space": "sharp", "seed": 0, "status": "finished"}.items()
    assert row["last"] == {"epoch": 3, "epochs_counted_from": 1, **watch(SHARES[2]), "held_out_accuracy": 0.5}
    assert row["worst"] == {"epoch": 2, "epochs_counted_from": 1, **watch(SHARES[1]), "held_out_accuracy": 0.5}
    out = sharpkeras("compare", "a").out
    for line in ("edges won by skip, % │ 25.0 (50.0)", "convolutions in the architecture │ 8 (2)", "epoch │ 3 (2)"):
        assert " ".join(line.split()) in " ".join(out.split())


def test_it_is_said_of_which_network_parameters_and_addmults_are():
    """Without a budget of one as wide as the search, which the next line does not train."""
    for name, cost_of, of in (("a", None, "the search's size"), ("b", "sharpdarts", "sharpdarts")):
        path = Path(search(name), "recipe.json")
        recipe = json.loads(path.read_text())
        path.write_text(json.dumps({**recipe, "settings": {**recipe["settings"], "cost_of": cost_of}}))
        out = " ".join(sharpkeras("compare", name).out.split())
        assert f"parameters and AddMults are of │ {of} │" in out


def test_seeds_of_a_search_are_a_group():
    for seed in range(3):
        search(f"scalar-{seed}", "scalar", seed, [(0.25 * seed, 0.0, 0.0)])
        search(f"max-{seed}", "max_w", seed, SHARES, status="finished" if seed else "unfinished")
    runs = [f"{name}-{seed}" for name in ("scalar", "max") for seed in range(3)]
    scalar, max_w = compare(runs)["search_groups"]
    assert (scalar["weighting"], max_w["weighting"]) == ("scalar", "max_w")
    assert scalar["mean"]["skip_share"]["value"] == pytest.approx(0.25) and scalar["mean"]["skip_share"]["n"] == 3
    assert (max_w["mean"]["skip_share"]["n"], max_w["mean"]["skip_share"]["of"]) == (2, 3)
    out = sharpkeras("compare", *runs).out
    assert f"{mean_interval([0.0, 0.25, 0.5]).number(100, 1, '')} " in out
    assert "n = 3 runs" in out and "n = 2 of 3 runs" in out and "unfinished" in out


def test_searches_and_trainings_are_two_tables():
    out = sharpkeras(
        "compare", search("a"), training("b", wrong=range(10)), search("c", seed=1, status="unfinished", shares=())
    ).out
    assert "Trainings" in out and "Searches" in out and out.endswith("Next: sharpkeras export b\n")


def test_a_search_from_before_the_watch():
    report = compare([search("a", watched=False)])
    assert report["searches"][0]["worst"] is None and report["searches"][0]["last"]["skip_share"] is None
    assert report["search_groups"][0]["mean"]["skip_share"] is None
    assert "50.00" in sharpkeras("compare", "a").out


def test_a_name_is_no_markup():
    out = sharpkeras("compare", search("[bold]a"), training("[red]b", wrong=range(10))).out
    assert "[bold]a" in out and "[red]b" in out


# --- the picture ---


def colours(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return {colour for _, colour in image.convert("RGB").getcolors(2**24)}


def test_a_picture_of_two_weightings(tmp_path):
    runs = [search(f"{w}-{seed}", w, seed, SHARES) for w in ("scalar", "max_w") for seed in range(2)]
    assert sharpkeras("compare", *runs, "--picture", "watch.png").code == 0
    assert {tuple(bytes.fromhex(colour)) for colour in ("4477aa", "cc6677")} <= colours("watch.png")
    result = sharpkeras("compare", *runs, "--picture", "watch.png")
    assert result.code == 5 and "exists already" in result.err
    assert sharpkeras("compare", *runs, "--picture", "watch.png", "--overwrite").code == 0
    assert sharpkeras("compare", *runs, "--picture", "watch.npz").code == 2
    training("t", wrong=range(10))
    result = sharpkeras("compare", "t", "--picture", "new.png")
    assert result.code == 2 and "a picture shows searches" in result.err and not (tmp_path / "new.png").exists()


@pytest.mark.parametrize("rows", [[], [{"epoch": 0, **watch(SHARES[0])}], [{"epoch": 0, "train_loss": 1.0}]])
def test_a_picture_of_one_run(tmp_path, rows):
    draw_collapse({"run": rows}, tmp_path / "collapse.png", title="one")
    assert len(colours(tmp_path / "collapse.png")) > 20


# --- names, labels and epochs ---


def test_runs_of_one_name_are_told_apart_by_the_shortest_end_of_their_paths(tmp_path):
    places = [tmp_path / "long" / place / "search" for place in ("a", "b")] + [tmp_path / "c" / "other"]
    for seed, path in enumerate(places):
        path.parent.mkdir(parents=True)
        search(str(path), seed=seed)
    rows = compare([str(path) for path in places])["searches"]
    assert [row["name"] for row in rows] == ["a/search", "b/search", "other"]


def legend(monkeypatch, names):
    seen = {}
    monkeypatch.setattr("sharpkeras.view.collapse.draw_collapse", lambda rows, path, labels: seen.update(labels))
    compare(names, picture="collapse.png")
    return seen


def test_groups_are_called_by_their_weighting_where_that_tells_them_apart(monkeypatch):
    names = [search(f"{weighting}-{seed}", weighting, seed) for weighting in ("scalar", "max_w") for seed in (0, 1)]
    assert legend(monkeypatch, names) == {name: name.partition("-")[0] for name in names}


def test_different_searches_of_one_weighting_have_labels_of_their_own(monkeypatch):
    names = [
        search("a"),
        search("b", shares=((0.1, 0.1, 0.0),) * 2),
        search("b2", seed=1, shares=((0.1, 0.1, 0.0),) * 2),
    ]
    labels = legend(monkeypatch, names)
    assert labels == {"a": "a (max_w)", "b": "b, b2 (max_w)", "b2": "b, b2 (max_w)"}


def test_what_cannot_be_compared_says_what_can_be_done():
    """A search has no other images to be evaluated on."""
    searches = search("a"), search("b", seed=1, images="e" * 64)
    error = sharpkeras("compare", *searches)
    assert error.code == 3 and "evaluate" not in error.err and "--force" in error.err
    trainings = training("my run", wrong=range(9)), training("d", wrong=range(9), images="others", epochs=3)
    error = sharpkeras("compare", *trainings)
    assert "sharpkeras evaluate d --data SPEC" in error.err and error.code == 3


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda: [training("a", status="failed"), training("b", 1, wrong=range(9))], "export b"),
        (lambda: [training("a", status="failed")], "inspect a"),
        (lambda: [search("a", status="unfinished"), search("b", seed=1)], "train b"),
        (lambda: [search("a", status="unfinished")], "inspect a"),
        (lambda: [training("a", wrong=range(9)), training("b", 1)], "evaluate b"),
    ],
)
def test_the_next_command_is_for_a_run_that_has_ended(made, expected):
    assert sharpkeras("compare", *made()).out.endswith(f"Next: sharpkeras {expected}\n")


def test_epochs_are_counted_from_1_where_they_are_read():
    search("a", shares=((0.5, 0.2, 0.0), (0.1, 0.1, 0.0), (0.2, 0.1, 0.0)))
    (row,) = compare(["a"])["searches"]
    assert (row["last"]["epoch"], row["worst"]["epoch"], row["last"]["epochs_counted_from"]) == (3, 1, 1)
    assert "│ epoch " in sharpkeras("compare", "a").out and " 3 (1) " in sharpkeras("compare", "a").out
