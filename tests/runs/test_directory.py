"""Run directories, the atomic files in them, and the strict JSON reader."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from sharpkeras.errors import ConfigError, NumericalError, ResourceError, RunError, UsageError
from sharpkeras.io import atomic_writes, json_files
from sharpkeras.runs import RunDirectory

RECIPE = {"init_channels": 16, "seed": 0, "schedule": {"power": 2.0, "epochs": (5, 10)}}


@pytest.fixture
def place(tmp_path):
    return tmp_path / "runs" / "first"


def begin(path, **changes):
    return RunDirectory.open(path, "search", {**RECIPE, **changes})


def contents(path):
    return {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.is_file()}


# --- begin, resume, refuse ---


def test_a_new_directory_becomes_a_run(place):
    with begin(place) as run:
        assert not run.resumed and not run.finished
        assert run.read_json("recipe.json")["schedule"] == {"power": 2.0, "epochs": [5, 10]}
        assert run.read_json("run.json")["versions"]["numpy"] == np.__version__
    assert "began search run" in (place / "log.txt").read_text()


def test_the_same_recipe_resumes(place):
    with begin(place) as run:
        run.write_metrics([{"epoch": 0, "loss": np.float32(0.5)}])
    with begin(place) as run:
        assert run.resumed
        assert run.read_metrics() == [{"epoch": 0, "loss": 0.5}]


def test_an_empty_directory_is_accepted(place):
    place.mkdir(parents=True)
    begin(place).close()
    assert RunDirectory.read(place).kind == "search"


def test_another_recipe_is_refused_with_its_differences(place):
    begin(place).close()
    before = contents(place)
    with pytest.raises(RunError) as caught:
        begin(place, init_channels=36, schedule={"power": 10.0, "epochs": (5, 10)})
    message = str(caught.value)
    for text in ("init_channels   16 ", "schedule.power  2.0", "36", "10.0", "`overwrite`", "`out`"):
        assert text in message
    assert "seed" not in message
    assert {**contents(place), "lock": b""} == {**before, "lock": b""}


def test_a_difference_beyond_what_a_message_shows_is_seen(place):
    begin(place, primitives=["sep_conv_3x3"] * 20 + ["none"]).close()
    with pytest.raises(RunError, match="primitives"):
        begin(place, primitives=["sep_conv_3x3"] * 20 + ["skip_connect"])


def test_another_kind_is_refused(place):
    begin(place).close()
    with pytest.raises(RunError, match="another kind"):
        RunDirectory.open(place, "train", RECIPE)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("run_json", [None, "{}", "not JSON", '{"program": "sharpkeras", "kind": "search"}', "[1]"])
def test_what_is_not_ours_is_never_touched(place, overwrite, run_json):
    place.mkdir(parents=True)
    (place / "thesis.txt").write_text("years of work")
    if run_json is not None:
        (place / "run.json").write_text(run_json)
    before = contents(place)
    with pytest.raises(RunError) as caught:
        RunDirectory.open(place, "search", RECIPE, overwrite=overwrite)
    assert caught.value.exit_code == 5 and "`out`" in caught.value.next_step
    assert contents(place) == before


def test_overwrite_replaces_a_run(place):
    with begin(place) as run:
        run.write_metrics([{"epoch": 0}])
        run.save_arrays("weights", {"a": np.ones(3)}, {})
        run.checkpoints.save(1, 0, {"a": np.ones(3)}, {}, [])
        run.write_json("alphas/epoch_0.json", [1])
    with RunDirectory.open(place, "search", {"seed": 1}, overwrite=True) as run:
        assert not run.resumed and run.recipe == {"seed": 1}
        assert sorted(contents(place)) == ["lock", "log.txt", "recipe.json", "run.json"]


def test_a_run_killed_while_it_was_begun_begins_again(place):
    begin(place).close()
    (place / "recipe.json").unlink()
    with begin(place) as run:
        assert run.read_json("recipe.json")["seed"] == 0


def test_resuming_what_was_never_begun(place):
    with pytest.raises(RunError, match="drop `must_exist`"):
        RunDirectory.open(place, "search", RECIPE, must_exist=True)
    assert not place.exists()


def test_a_newer_schema_names_the_version_it_needs(place):
    begin(place).close()
    facts = json.loads((place / "run.json").read_text())
    (place / "run.json").write_text(json.dumps({**facts, "schema_version": 7}))
    with pytest.raises(RunError, match="schema_version 7"):
        begin(place)


def test_other_package_versions_are_told(place, caplog):
    begin(place).close()
    facts = json.loads((place / "run.json").read_text())
    (place / "run.json").write_text(json.dumps({**facts, "versions": {"numpy": "1.0"}}))
    begin(place).close()
    assert f"numpy 1.0 -> {np.__version__}" in caplog.text


def test_other_conditions_are_told_or_refused(place, caplog):
    RunDirectory.open(place, "search", RECIPE, conditions={"processor": "a", "deterministic": True}).close()
    now = {"processor": "b", "deterministic": True}
    RunDirectory.open(place, "search", RECIPE, conditions=now).close()
    assert "not bit-exact with the run's beginning: processor a -> b" in caplog.text
    with pytest.raises(RunError, match="not bit-exact") as caught:
        RunDirectory.open(place, "search", RECIPE, conditions=now, strict=True)
    assert caught.value.seen == "processor a -> b" and "`strict_resume`" in caught.value.next_step


NOW = {"cores": 2, "threads": "1 and 2", "environment": {"XLA_FLAGS": "--a", "TF_ENABLE_ONEDNN_OPTS": "0"}}


@pytest.mark.parametrize(
    ("then", "change"),
    [
        ({"cores": 1}, "cores 1 -> 2"),
        ({"cores": "2, with a quota of 1"}, "cores 2, with a quota of 1 -> 2"),
        ({"threads": "2 and 2"}, "threads 2 and 2 -> 1 and 2"),
        ({"environment": {}}, "TF_ENABLE_ONEDNN_OPTS unset -> 0, XLA_FLAGS unset -> --a"),
        ({"environment": {**NOW["environment"], "XLA_FLAGS": "--b"}}, "XLA_FLAGS --b -> --a"),
        ({"environment": {**NOW["environment"], "OMP_NUM_THREADS": "1"}}, "OMP_NUM_THREADS 1 -> unset"),
    ],
)
def test_each_condition_is_told_and_refused(place, caplog, then, change):
    RunDirectory.open(place, "search", RECIPE, conditions={**NOW, **then}).close()
    with pytest.raises(RunError, match="not bit-exact") as caught:
        RunDirectory.open(place, "search", RECIPE, conditions=NOW, strict=True)
    assert sorted(caught.value.seen.split(", ")) == sorted(change.split(", ")) or caught.value.seen == change
    assert caught.value.exit_code == 5 and not caplog.text.count("WARNING")
    RunDirectory.open(place, "search", RECIPE, conditions=NOW).close()
    assert "not bit-exact with the run's beginning" in caplog.text and change.split(", ")[0] in caplog.text


def test_the_same_conditions_are_no_change(place, caplog):
    for strict in (False, True, True):
        RunDirectory.open(place, "search", RECIPE, conditions=NOW, strict=strict).close()
    assert "WARNING" not in caplog.text and json.loads((place / "run.json").read_text())["changes"] == []


def test_what_an_older_version_did_not_record_is_no_change(place, caplog):
    """Its run.json has fewer conditions, and no list of changes."""
    RunDirectory.open(place, "search", RECIPE, conditions={"processor": "a"}).close()
    facts = json.loads((place / "run.json").read_text())
    del facts["changes"]
    (place / "run.json").write_text(json.dumps(facts))
    now = {"processor": "a", **NOW}
    RunDirectory.open(place, "search", RECIPE, conditions=now).close()
    assert "WARNING" not in caplog.text
    RunDirectory.open(place, "search", RECIPE, conditions=now, strict=True).close()
    assert "not compared, since they were not recorded when the run began: cores, environment, threads" in caplog.text
    assert "not bit-exact" not in caplog.text


def test_a_run_that_once_went_on_under_other_conditions_stays_another(place):
    RunDirectory.open(place, "search", RECIPE, conditions={"cores": 2}).close()
    for _ in range(2):
        RunDirectory.open(place, "search", RECIPE, conditions={"cores": 1}).close()
    assert json.loads((place / "run.json").read_text())["changes"] == ["cores 2 -> 1"]
    with pytest.raises(RunError, match="since it went on under other conditions") as caught:
        RunDirectory.open(place, "search", RECIPE, conditions={"cores": 2}, strict=True)
    assert caught.value.seen == "cores 2 -> 1" and caught.value.exit_code == 5
    RunDirectory.open(place, "search", RECIPE, conditions={"cores": 2}).close()


@pytest.mark.parametrize("path", ["file", "file/below", "/proc/sharpkeras"])
def test_a_place_that_can_not_be_written(tmp_path, path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(RunError) as caught:
        begin(tmp_path / path)
    assert caught.value.exit_code == 5 and caught.value.next_step
    assert (tmp_path / "file").read_text() == "text"


def test_finished(place):
    with begin(place) as run:
        run.mark_finished()
    assert RunDirectory.read(place).finished
    with begin(place) as run:
        assert run.finished


def test_reading(place, tmp_path):
    begin(place).close()
    run = RunDirectory.read(place, "search")
    assert run.recipe["init_channels"] == 16
    with pytest.raises(RuntimeError, match="for reading"):
        run.write_json("x.json", 1)
    with pytest.raises(RunError, match="holds no train run"):
        RunDirectory.read(place, "train")
    with pytest.raises(RunError, match="is no run directory"):
        RunDirectory.read(tmp_path)
    with pytest.raises(RunError, match="has no genotype.json"):
        run.read_json("genotype.json")


# --- the lock ---

HOLD = """
import sys, time
from sharpkeras.runs import RunDirectory
run = RunDirectory.open(sys.argv[1], "search", {"seed": 0})
print("held", flush=True)
time.sleep(60)
"""


def test_one_process_for_each_run_until_it_dies(place):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(place)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunError) as caught:
            RunDirectory.open(place, "search", {"seed": 0})
        assert f"PID {holder.pid} on {os.uname().nodename} since 2" in caught.value.seen
        assert RunDirectory.read(place).kind == "search"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        RunDirectory.open(place, "search", {"seed": 0}).close()
    finally:
        holder.kill()
        holder.communicate()


def test_a_refused_run_lets_the_lock_go(place):
    begin(place).close()
    with pytest.raises(RunError):
        begin(place, seed=1)
    begin(place).close()


# --- a directory that is lost while its run goes on ---


def deleted(place):
    shutil.rmtree(place)


def made_anew(place):
    shutil.rmtree(place)
    place.mkdir()


def begun_anew(place):
    """By another process, which holds it now."""
    shutil.rmtree(place)
    RunDirectory.open(place, "search", RECIPE).close()


def moved(place):
    place.rename(place.with_name("elsewhere"))


def moved_and_replaced(place):
    moved(place)
    place.mkdir()


def moved_behind_a_link(place):
    moved(place)
    place.symlink_to(place.with_name("elsewhere"))  # the same directory still: nothing is lost


def unlocked(place):
    (place / "lock").unlink()


def locked_by_another(place):
    unlocked(place)
    (place / "lock").write_text("PID 1 on elsewhere since 2026\n")


def locked_by_a_link(place):
    (place / "lock").rename(place / "lock of before")
    (place / "lock").symlink_to("lock of before")


LOSSES = {  # what somebody does → what is said
    deleted: "the directory was deleted",
    made_anew: "the directory was deleted",
    begun_anew: "the directory was deleted",
    moved: "the directory was moved away",
    moved_and_replaced: "the directory was moved away",
    unlocked: "the lock was removed",
    locked_by_another: "the lock was replaced",
    locked_by_a_link: "the lock was replaced",
}
WRITES = {  # all that writes into the directory of a run
    "metrics": lambda run: run.write_metrics([{"epoch": 0}]),
    "json": lambda run: run.write_json("genotype.json", {}),
    "soon": lambda run: run.write_soon("epochs/0000.json", b"{}"),
    "arrays": lambda run: run.save_arrays("weights", {"a": np.ones(3)}, {}),
    "checkpoint": lambda run: run.checkpoints.save(1, 0, {"a": np.ones(3)}, {}, []),
    "the end": lambda run: run.mark_finished(),
    "a picture": lambda run: run.place("cells.png").write_bytes(b""),
    "the end of the process": lambda run: run.__exit__(None, None, None),
}


def below(folder):
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_nothing_is_written_into_a_directory_that_is_lost(place, lose, write):
    run = begin(place)
    lose(place)
    before = below(place.parent)
    with pytest.raises(RunError, match=f"{LOSSES[lose]} while the run went on") as caught:
        write(run)
    run.close()
    after = below(place.parent)
    held = {path for path in before if path.name.startswith("lock")}  # which closing empties, where it is ours
    assert caught.value.exit_code == 5 and caught.value.next_step and str(place) in caught.value.where
    assert after.keys() == before.keys() and all(after[path] == before[path] for path in before if path not in held)


def test_where_a_directory_was_moved_to_is_said(place):
    run = begin(place)
    moved(place)
    with pytest.raises(RunError) as caught:
        run.write_json("a.json", {})
    run.close()
    assert str(place.with_name("elsewhere")) in caught.value.seen and "no such directory" in caught.value.seen


def test_who_replaced_a_lock_is_said(place):
    run = begin(place)
    locked_by_another(place)
    with pytest.raises(RunError) as caught:
        run.write_json("a.json", {})
    run.close()
    assert caught.value.seen == "PID 1 on elsewhere since 2026"
    assert (place / "lock").read_text() == "PID 1 on elsewhere since 2026\n"  # closing did not touch it


def test_what_replaces_a_run_is_begun_in_the_same_directory_alone(place):
    """Between `reserve` and `begin`, minutes in which data are read, the directory can be lost too."""
    begin(place).close()
    run = RunDirectory.reserve(place, "search", {"seed": 1}, overwrite=True)
    moved(place)
    place.mkdir()
    (place / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="moved away"):
        run.begin()
    run.close()
    assert [path.name for path in place.iterdir()] == ["thesis.txt"]


def test_a_directory_that_is_still_the_same(place):
    with begin(place) as run:
        moved_behind_a_link(place)
        run.write_json("a.json", {})
        run.checkpoints.save(1, 0, {"a": np.ones(3)}, {}, [])
    assert run._directory is None and RunDirectory.read(place).read_json("a.json") == {}


# --- metrics ---


def test_a_line_cut_off_is_left_out(place):
    with begin(place) as run:
        run.write_metrics([{"epoch": 0}])
    with open(place / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 1, "lo')
    assert RunDirectory.read(place).read_metrics() == [{"epoch": 0}]


def test_metrics_are_finite(place):
    with begin(place) as run:
        with pytest.raises(NumericalError):
            run.write_metrics([{"epoch": 0, "loss": np.float32("nan")}])
        assert run.read_metrics() == []


def no_space(*_):
    raise OSError(28, "No space left on device")


def test_what_a_full_disk_keeps_out_is_written_later(place, monkeypatch):
    with begin(place) as run:
        run.write_metrics([{"epoch": 0}])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", no_space)
            run.write_soon("epochs/0001.json", b"{}")
            run.write_metrics([{"epoch": 0}, {"epoch": 1}])
            with pytest.raises(ResourceError, match="the disk is full"):
                run.flush()
        assert run.read_metrics() == [{"epoch": 0}] and not (place / "epochs" / "0001.json").exists()
        run.flush()
        assert run.read_metrics() == [{"epoch": 0}, {"epoch": 1}] and run.read_json("epochs/0001.json") == {}


def test_the_log_is_left_behind(place):
    with begin(place):
        logging.getLogger("sharpkeras.search").info("epoch %d", 3)
    logging.getLogger("sharpkeras").error("after the end")
    log = (place / "log.txt").read_text()
    assert "INFO epoch 3" in log and "after the end" not in log


# --- arrays ---

ARRAYS = {
    "stem/kernel": np.arange(6, dtype="float32").reshape(2, 3).T,
    "file": np.array([True, False]),
    "seed": np.array(7, dtype="uint32"),
    "empty": np.zeros((0, 4)),
}


def test_arrays_come_back_as_they_were(place):
    with begin(place) as run:
        assert run.load_arrays("weights") is None
        run.save_arrays("weights", ARRAYS, {"epoch": np.int64(3), "best": 0.5})
        arrays, meta = run.load_arrays("weights")
    assert meta == {"epoch": 3, "best": 0.5} and arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def alter_array(path):
    """A safetensors file that is whole in itself, which only our own checksum notices."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def empty(path):
    path.write_bytes(b"")


def replace_by_pickle(path):
    np.save(path.open("wb"), np.array([{"an": "object"}], dtype=object))


def leave_out_the_checksums(path):
    path.write_bytes(atomic_writes.pack({"a": np.ones(3)}))


@pytest.mark.parametrize("damage", [cut, alter_array, empty, replace_by_pickle, leave_out_the_checksums])
def test_a_damaged_file_is_refused(place, damage):
    with begin(place) as run:
        run.save_arrays("weights", {"a": np.ones(3)}, {})
        damage(place / "weights.safetensors")
        with pytest.raises(RunError, match="is damaged") as caught:
            run.load_arrays("weights")
    assert caught.value.seen and "`overwrite`" in caught.value.next_step


@pytest.mark.parametrize("array", [np.array([{}], dtype=object), np.zeros(2, "V2"), np.array(["text"])])
def test_arrays_that_would_not_come_back_are_refused(place, array):
    with begin(place) as run, pytest.raises(TypeError, match="plain numbers for a"):
        run.save_arrays("weights", {"a": array}, {})


def test_a_full_disk_leaves_the_last_good_file(place, monkeypatch):
    with begin(place) as run:
        run.save_arrays("weights", {"a": np.ones(3)}, {})
        before = contents(place)["weights.safetensors"]
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", no_space)
            with pytest.raises(ResourceError, match="the disk is full"):
                run.save_arrays("weights", {"a": np.zeros(10**4)}, {})
        assert contents(place)["weights.safetensors"] == before
        assert not list(place.glob(".*"))


# --- strict JSON ---


@pytest.mark.parametrize(
    ("text", "problem", "where"),
    [
        ('{"a": 1,\n "b": {"a": 1, "\\u0061": 2}}', "a key twice, first at line 2, column 8", "line 2, column 16"),
        ("[" * 5000, "nested too deeply", "line 1, column 17"),
        ('{"a": ' * 17 + "1" + "}" * 17, "nested too deeply", "column 97"),
        ('{"a": NaN}', "not finite", "f.json"),
        ('{"a": -Infinity}', "not finite", "f.json"),
        ('{"a": 1e999}', "not finite", "f.json"),
        ("1" * 5000, "number that is too long", "f.json"),
        ('{"a" 1}', "is not JSON", "line 1, column 6"),
        ("", "is not JSON", "column 1"),
        ("Genotype(normal=[('sep_conv_3x3', 1)])", "is not JSON", "column 1"),
        ('{"a": "\0"}', "NUL", "column 8"),
        ('"' + "a" * 2**20 + '"', "too large", "f.json"),
        ('{"a": "\\', "is not JSON", "column 7"),
    ],
)
def test_json_that_is_refused(text, problem, where):
    with pytest.raises(ConfigError) as caught:
        json_files.loads(text, "f.json")
    assert problem in caught.value.problem and caught.value.where.endswith(where)
    assert caught.value.allowed and len(str(caught.value)) < 600


def test_json_that_is_read():
    text = '\ufeff{"a": [1.5, -3, true, null, "[[[[[[[[[[[[[[[[[[[\\"{"], "b": {"a": {"a": []}}, "\\u00e9": "é"}'
    assert json_files.loads(text, "f.json") == json.loads(text[1:])


@pytest.mark.parametrize("raw", [b"\xff\xfe{\x00}\x00", b"\x80\x04\x95.", b'{"a": "\xe9"}', b"\x89PNG" + bytes(2**20)])
def test_files_that_are_no_text(tmp_path, raw):
    (tmp_path / "f.json").write_bytes(raw)
    with pytest.raises(ConfigError, match="UTF-8|too large"):
        json_files.load(tmp_path / "f.json")


def test_files_that_can_not_be_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "", "pipe"):
        with pytest.raises(UsageError) as caught:
            json_files.load(tmp_path / name)
        assert caught.value.exit_code == 2
