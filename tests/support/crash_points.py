"""Kills a writer before each of its file operations and in the middle of each write, and looks at what is left.

`python crash_points.py FOLDER`, with `--in-place` for writers that are wrong on purpose. Nothing heavy is imported, so
that a process for each point costs milliseconds.
"""

import builtins
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np

from sharpkeras.io import atomic_writes
from sharpkeras.runs.checkpoints import Checkpoints

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}
countdown = None  # points until the kill


def point(*_):
    """One more place where a process can die."""
    global countdown
    if countdown is not None:
        if countdown == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        countdown -= 1


def instrument():
    sync = os.fsync
    os.fsync = lambda number: (point(), sync(number))
    atomic_writes.open = lambda path, mode, opener: Halting(
        builtins.open(path, mode, 0, opener=opener)
    )  # in the module, not in Python
    sys.addaudithook(lambda event, arguments: event in EVENTS and point())


class Halting:
    """A file that can die in the middle of a write."""

    def __init__(self, file):
        self._file = file

    def write(self, content):
        half = len(content) // 2
        self._file.write(content[:half])
        point()
        self._file.write(content[half:])

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


def arrays(seed):
    return {"weights": np.random.default_rng(seed).normal(size=(50, 20)), "step": np.array(seed)}


class CheckpointsOfARun:
    """The third checkpoint, after which the first goes."""

    @staticmethod
    def write(place, number):
        Checkpoints(place / "checkpoints").save(0, number, arrays(number), {"seed": number}, [{"epoch": number}])

    @staticmethod
    def read(place):
        found, facts, rows = Checkpoints(place / "checkpoints").load()
        assert rows == [{"epoch": facts["seed"]}]
        return found, facts["seed"]


class WeightsOfARun:
    """Weights in the place of others."""

    @staticmethod
    def write(place, number):
        atomic_writes.save_arrays(place / "weights.safetensors", arrays(number), {"seed": number})

    @staticmethod
    def read(place):
        found, meta = atomic_writes.load_arrays(place / "weights.safetensors")
        return found, meta["seed"]


def look(kind, place):
    """Which of the two states is there, whole; anything else is an error."""
    found, number = kind.read(place)
    expected = arrays(number)
    assert number in (2, 3) and found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    return number


def killed_at_each_point(kind, folder):
    """The states that were found, in the order of the points."""
    global countdown
    before, states = folder / "before", []
    before.mkdir(parents=True)
    for number in (1, 2):
        kind.write(before, number)
    while True:
        place = folder / "now"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(before, place)
        child = os.fork()
        if child == 0:
            countdown = len(states)
            kind.write(place, 3)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            return states
        states.append(look(kind, place))
        kind.write(place, 3)  # and the next process can go on
        assert look(kind, place) == 3 and not list(place.rglob(".*")), list(place.rglob(".*"))


def write_checkpoint_in_place(self, name, files):
    for old in self.names():  # to make room
        shutil.rmtree(self.path / old)
    (self.path / name).mkdir(parents=True)
    for file, content in files.items():
        atomic_writes.write_through(self.path / name / file, content)


def main(folder, in_place):
    if in_place:
        Checkpoints._write = write_checkpoint_in_place
        atomic_writes.write_aside, atomic_writes.put_in_place = atomic_writes.write_through, lambda *_: None
    instrument()
    for kind in (CheckpointsOfARun, WeightsOfARun):
        try:
            states = killed_at_each_point(kind, Path(folder) / kind.__name__)
        except Exception as error:
            print(kind.__name__, "broken", repr(error))
        else:
            print(kind.__name__, len(states), states.count(2), states.count(3), states == sorted(states))


if __name__ == "__main__":
    main(sys.argv[1], "--in-place" in sys.argv)
