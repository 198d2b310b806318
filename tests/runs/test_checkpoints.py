"""Checkpoints of a run: killed at each point of their writing, damaged in twenty ways, on a full disk."""

import errno
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from sharpkeras.errors import ResourceError, RunError
from sharpkeras.io import atomic_writes
from sharpkeras.runs import checkpoints
from sharpkeras.runs.checkpoints import Checkpoints

FILES = (checkpoints.ARRAYS, checkpoints.FACTS, checkpoints.METRICS, checkpoints.MANIFEST)


def save(place, step, epoch=0):
    Checkpoints(place).save(epoch, step, {"a": np.full(100, step)}, {"learning_rate": 0.1}, [{"epoch": 0}])


def step_of(loaded):
    return int(loaded[0]["a"][0])


@pytest.fixture
def place(tmp_path):
    for step in (1, 2):
        save(tmp_path / "checkpoints", step)
    return tmp_path / "checkpoints"


# --- writing ---


def test_what_was_saved_last_is_loaded(place):
    arrays, facts, rows = Checkpoints(place).load()
    assert arrays.keys() == {"a"} and np.array_equal(arrays["a"], np.full(100, 2)) and arrays["a"].dtype == np.int64
    assert facts == {"learning_rate": 0.1} and rows == [{"epoch": 0}]


def test_two_are_kept(place):
    save(place, 3)
    save(place, 0, epoch=1)
    assert Checkpoints(place).names() == ["000000-000003", "000001-000000"]
    assert len(list(place.iterdir())) == 2


def test_none_was_written(tmp_path):
    assert Checkpoints(tmp_path / "nowhere").load() is None
    assert not (tmp_path / "nowhere").exists()


def test_the_same_position_is_not_written_twice(place):
    before = (place / "000000-000002").stat().st_mtime_ns
    save(place, 2)
    assert (place / "000000-000002").stat().st_mtime_ns == before
    (place / "000000-000002" / checkpoints.MANIFEST).unlink()
    save(place, 2)
    assert step_of(Checkpoints(place).load()) == 2


def test_everything_is_on_the_disk_before_its_name_is(place, monkeypatch):
    """A power cut can not be tried here; that each file and directory is flushed before the rename can."""
    said = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (said.append(os.readlink(f"/proc/self/fd/{number}")), sync(number)))
    monkeypatch.setattr(os, "replace", lambda old, new: (said.append(f"-> {new}"), replace(old, new)))
    save(place, 3)
    part = place / ".000000-000003.part"
    expected = [*(str(part / name) for name in FILES), str(part), f"-> {place / '000000-000003'}", str(place)]
    assert said[: len(expected)] == expected


def run_crash_points(*arguments):
    script = Path(__file__).parents[1] / "support" / "crash_points.py"
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def test_a_kill_at_any_point_leaves_the_old_state_or_the_new(tmp_path):
    for said in run_crash_points(tmp_path).values():
        points, old, new, in_order = said.split()
        assert int(points) > 5 and int(old) > 0 and int(new) > 0 and in_order == "True", said


def test_writers_that_write_in_place_are_caught(tmp_path):
    for said in run_crash_points(tmp_path, "--in-place").values():
        assert said.startswith("broken"), said


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_checkpoints_before(place, monkeypatch, number):
    def full(_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ResourceError, match="the disk is full"):
            save(place, 3)
    assert sorted(entry.name for entry in place.iterdir()) == ["000000-000001", "000000-000002"]
    assert step_of(Checkpoints(place).load()) == 2


# --- damage ---


def missing(path):
    path.unlink()


def emptied(path):
    path.write_bytes(b"")


def shorter_by_a_byte(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def first_byte_flipped(path):
    flip(path, 0.0)


def middle_byte_flipped(path):
    flip(path, 0.5)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "damage", [missing, emptied, shorter_by_a_byte, first_byte_flipped, middle_byte_flipped], ids=lambda f: f.__name__
)
def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(place, caplog, file, damage):
    damage(place / "000000-000002" / file)
    if file == checkpoints.MANIFEST and damage is shorter_by_a_byte:
        damage(place / "000000-000002" / file)  # the first byte less was only the end of the line
    assert step_of(Checkpoints(place, writable=False).load()) == 1
    assert Checkpoints(place).names() == ["000000-000001", "000000-000002"]  # a reader changes nothing
    assert step_of(Checkpoints(place).load()) == 1
    assert "checkpoint 000000-000002 is damaged (" in caplog.text
    assert "going on from checkpoint 000000-000001" in caplog.text
    assert (place / "000000-000002.damaged").is_dir()
    save(place, 2)
    save(place, 3)
    assert step_of(Checkpoints(place).load()) == 3


def test_no_checkpoint_is_whole(place):
    for name in Checkpoints(place).names():
        missing(place / name / checkpoints.ARRAYS)
    for _ in range(2):  # also when they have been put aside
        with pytest.raises(RunError, match="every checkpoint is damaged") as caught:
            Checkpoints(place).load()
        assert "000000-000001" in caught.value.seen and "`overwrite`" in caught.value.next_step


def test_a_checkpoint_of_a_newer_version_is_not_fallen_back_from(place):
    path = place / "000000-000002" / checkpoints.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 9}))
    with pytest.raises(RunError, match="newer version") as caught:
        Checkpoints(place).load()
    assert "schema_version 9" in caught.value.seen


@pytest.mark.parametrize("manifest", ["[]", '{"schema_version": "1", "files": {}}', '{"schema_version": 1}', "{}"])
def test_a_manifest_of_another_form_is_damage(place, manifest):
    (place / "000000-000002" / checkpoints.MANIFEST).write_text(manifest)
    assert step_of(Checkpoints(place).load()) == 1


def test_arrays_are_read_as_numbers_and_nothing_else(place):
    assert atomic_writes.pack({"a": np.ones(2)})[8:9] == b"{"  # the safetensors format: a JSON header, then the numbers
    with pytest.raises(TypeError, match="plain numbers for a"):
        Checkpoints(place).save(1, 0, {"a": np.array([{}], dtype=object)}, {}, [])
    assert step_of(Checkpoints(place).load()) == 2


def test_no_more_of_a_file_is_read_than_was_written(place):
    """A file of seven gigabytes of nothing costs its maker nothing, and would cost its reader as much memory."""
    os.truncate(place / "000000-000002" / checkpoints.ARRAYS, 7 * 2**30)
    tracemalloc.start()
    assert step_of(Checkpoints(place).load()) == 1
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**24  # the manifest alone may have a megabyte


# --- links ---


@pytest.fixture
def outside(tmp_path):
    """A folder of somebody else's, with things that look like a run's."""
    folder = tmp_path / "outside"
    for name in ("000000-000001", "000000-000009", ".000000-000009.part", "000000-000009.damaged"):
        (folder / name).mkdir(parents=True)
        (folder / name / "thesis.txt").write_text("years of work")
    return folder


def below(folder):
    return sorted((str(path.relative_to(folder)), path.is_file() and path.read_bytes()) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "name",
    [
        "000000-000009",
        ".000000-000009.part",
        "000000-000009.damaged",
        "000000-000001.damaged",
        "000000-000002/arrays.safetensors",
        "000000-000002/more",
        "notes",
    ],
)
def test_a_link_among_checkpoints_is_refused_and_left_alone(place, outside, name):
    (place / name).unlink(missing_ok=True)
    (place / name).symlink_to(outside / "000000-000009")
    before, here = below(outside), sorted(path.name for path in place.iterdir())
    for act in (lambda: Checkpoints(place).load(), lambda: save(place, 3)):
        with pytest.raises(RunError, match="is a link") as caught:
            act()
        assert str(place / name) in caught.value.where
    assert below(outside) == before and sorted(path.name for path in place.iterdir()) == here


def test_checkpoints_that_are_a_link_are_refused_and_left_alone(tmp_path, outside):
    place, before = tmp_path / "checkpoints", below(outside)
    place.symlink_to(outside)
    for act in (lambda: Checkpoints(place).load(), lambda: save(place, 3)):
        with pytest.raises(RunError, match="is a link"):
            act()
    assert Checkpoints(place).names() == [] and below(outside) == before


def test_files_in_the_place_of_leftovers_go(place):
    (place / ".000000-000009.part").write_text("")
    save(place, 3)
    assert Checkpoints(place).names() == ["000000-000002", "000000-000003"] and len(list(place.iterdir())) == 2


def test_what_is_called_before_anything_is_written_can_forbid_it(place):
    def forbid():
        raise RunError("not now")

    before = sorted(path.name for path in place.iterdir())
    with pytest.raises(RunError, match="not now"):
        Checkpoints(place, check=forbid).save(0, 3, {}, {}, [])
    assert sorted(path.name for path in place.iterdir()) == before
