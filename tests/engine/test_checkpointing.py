"""What a run keeps of itself: nothing is left out of a checkpoint, and a run goes on through faults, bit by bit.

Building and tracing take seconds, a step takes milliseconds: all runs here share the model and the compiled step of
their kind, and each begins with the numbers that the model had when it was made.
"""

import dataclasses
import functools
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("keras")

from support.tiny_recipes import SEARCH_RECIPE, TRAIN_RECIPE

import sharpkeras as sk
from sharpkeras.backend import precision
from sharpkeras.data import augment
from sharpkeras.engine import checkpointing, signals
from sharpkeras.engine.epochs import NullProgress
from sharpkeras.engine.signals import StoppedError
from sharpkeras.errors import NumericalError, ResourceError, RunError
from sharpkeras.experiment import builders, plots, run_options
from sharpkeras.measure import cost
from sharpkeras.runs import checkpoints
from sharpkeras.runs.checkpoints import Checkpoints
from sharpkeras.runs.files import ARRAYS, METRICS, PROGRESS
from sharpkeras.spaces.cell.genotype import Genotype
from sharpkeras.spaces.network_spec import NetworkSpec

EACH_STEP = run_options.RunOptions(checkpoint_s=0.0)
RARE = run_options.RunOptions(checkpoint_s=3600.0)


class Trial:
    """Runs of one recipe that share a model, its compiled step, and the numbers it was made with."""

    def __init__(self, kind):
        self.kind, self.made, self.model = kind, {}, None
        self.count_cost = functools.cache(NetworkSpec.cost)
        self.makers = {"search_model": builders}
        if kind == "train":
            self.makers = {"build": NetworkSpec, "training_model": builders}

    def __call__(self, out, options=EACH_STEP, progress=None):
        """A run in the directory `out`, from its beginning or its newest checkpoint on."""
        progress = Overflows(self, progress or NullProgress())
        with pytest.MonkeyPatch.context() as patch:
            for name, home in self.makers.items():
                patch.setattr(home, name, self.once(name, getattr(home, name)))
            for name in ("draw_search", "draw_training"):  # which take longer than all else
                patch.setattr(plots, name, lambda *_: None)
            patch.setattr(NetworkSpec, "cost", self.count_cost)
            if self.kind == "train":
                patch.setattr(cost, "count", lambda network: None)
            patch.setattr("sharpkeras.engine.epochs.PROGRESS_S", -1.0)  # progress after every step
            if self.kind == "search":
                return sk.search(SEARCH, out, options=options, progress=progress)
            return sk.train(GENOTYPE, out, recipe=TRAINING, options=options, progress=progress)

    def once(self, name, make):
        """`make`, which gives what it made the first time again; a model has the numbers it was made with again."""

        def made(*arguments, **options):
            if name not in self.made:
                self.made[name] = make(*arguments, **options)
            if name == [*self.makers][-1]:
                self.begin(self.made[name])
            return self.made[name]

        return made

    def begin(self, model):
        if self.model is None:
            self.model, step = model, model.compiled_step()
            model.compiled_step = lambda: step
            self.start = [np.asarray(variable).copy() for variable in self.variables()]
        for variable, value in zip(self.variables(), self.start):
            variable.assign(value)

    def state(self):
        return [np.asarray(variable).tobytes() for variable in self.variables()]

    def variables(self):
        return [variable for group in self.model.step_variables() for variable in group]


class Overflows(NullProgress):
    """Makes float16 skip all but the first step of epoch 1: the state of its loss scale must move to be missed."""

    def __init__(self, trial, progress):
        self.trial, self.progress = trial, progress

    def begin(self, epochs, first_epoch, first_step=0):
        self.progress.begin(epochs, first_epoch, first_step)

    def step(self, epoch, step, loss):
        if self.trial.kind == "train" and (epoch, step) == (1, 0):
            self.trial.model.loss_scale.scale.assign(2.0**120)
        self.progress.step(epoch, step, loss)

    def epoch(self, row):
        self.progress.epoch(row)


SEARCH = dataclasses.replace(SEARCH_RECIPE, num_cells=2, epochs=2)
TRAINING = dataclasses.replace(
    TRAIN_RECIPE, num_cells=2, epochs=2, warmup_epochs=0, precision="mixed_float16", ema=0.5, accumulate=2
)
GENOTYPE = Genotype(
    normal=(("sep_conv_3x3", 0), ("skip_connect", 1)),
    normal_concat=(2,),
    reduce=(("sep_conv_3x3", 0), ("max_pool_3x3", 1)),
    reduce_concat=(2,),
)


@pytest.fixture(scope="module", params=["search", "train"])
def trial(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "INITIAL_SCALE", 2.0**10)  # at which nothing overflows
        patch.setattr(precision, "GROWTH_STEPS", 3)
        trial = Trial(request.param)
        trial(tmp_path_factory.mktemp(request.param) / "whole")
        trial.expected = result(tmp_path_factory.getbasetemp() / f"{request.param}0" / "whole")
        trial.end = trial.state()
        yield trial


def result(run):
    """All that a run leaves and that must be the same however it came to its end."""
    arrays, facts, rows = Checkpoints(run / "checkpoints").load()
    found = {name: array.tobytes() for name, array in arrays.items()}
    found |= {path.name: path.read_bytes() for path in [*run.glob("*.safetensors"), *run.glob("epochs/*")]}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found["metrics"] = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    found["genotype"] = (run / "genotype.json").read_text()
    return found | {"also": facts["also"]}


class Stops(NullProgress):
    """Does something at a step of an epoch; -1 is after it."""

    def __init__(self, epoch, step, action):
        self.place, self.action = (epoch, step), action

    def begin(self, epochs, first_epoch, first_step=0):
        self.began = (first_epoch, first_step)

    def step(self, epoch, step, loss):
        if (epoch, step) == self.place:
            self.action()

    def epoch(self, row):
        self.step(row["epoch"], -1, None)


def kill():
    raise KeyboardInterrupt


def stop(trial, out, epoch, step, action=kill, error=KeyboardInterrupt, options=EACH_STEP):
    with pytest.raises(error):
        trial(out, options, Stops(epoch, step, action))


# --- to go on ---


@pytest.mark.parametrize(("epoch", "step"), [(0, 0), (0, 1), (0, -1), (1, 0), (1, -1)])
def test_a_stopped_run_goes_on_bit_by_bit(trial, tmp_path, epoch, step):
    stop(trial, tmp_path / "run", epoch, step)
    trial(tmp_path / "run")
    assert result(tmp_path / "run") == trial.expected


def test_a_run_that_is_stopped_at_every_step_comes_to_its_end(trial, tmp_path):
    for epoch, step in ((0, 1), (0, 1), (0, -1), (1, 0), (1, 1)):
        stop(trial, tmp_path / "run", epoch, step)
    trial(tmp_path / "run")
    assert result(tmp_path / "run") == trial.expected


def test_no_more_than_the_steps_since_the_last_checkpoint_are_lost(trial, tmp_path):
    stop(trial, tmp_path / "run", 1, 1)
    again = Stops(9, 9, kill)
    trial(tmp_path / "run", progress=again)
    assert again.began == (1, 1)  # of step 1, whose checkpoint was not written yet, and no other
    stop(trial, tmp_path / "rare", 1, 1, options=RARE)
    assert Checkpoints(tmp_path / "rare" / "checkpoints").load() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_row_26_a_signal_leaves_a_checkpoint_of_the_step_that_it_met(trial, tmp_path, monkeypatch, number):

    def ask():
        os.kill(os.getpid(), number)
        while not asked():
            pass

    asked = asked_of(monkeypatch)
    stop(trial, tmp_path / "run", 1, 0, ask, StoppedError, RARE)
    arrays, facts, _ = Checkpoints(tmp_path / "run" / "checkpoints").load()
    assert facts["epoch"] == 1 and len(arrays["steps/train_loss"]) == 1
    trial(tmp_path / "run")
    assert result(tmp_path / "run") == trial.expected


@pytest.mark.parametrize("place", [(0, 1), (1, 0), (1, -1)])
@pytest.mark.parametrize("options", [EACH_STEP, RARE], ids=["each step", "rare"])
def test_a_run_whose_directory_is_deleted_ends_in_an_error_and_makes_no_other(trial, tmp_path, place, options):
    run = tmp_path / "run"
    with pytest.raises(RunError, match="the directory was deleted while the run went on"):
        trial(run, options, Stops(*place, lambda: shutil.rmtree(run)))
    assert not run.exists()


def test_a_run_whose_directory_is_moved_goes_on_where_it_is_moved_back(trial, tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    with pytest.raises(RunError, match="the directory was moved away"):
        trial(run, EACH_STEP, Stops(1, 0, lambda: run.rename(elsewhere)))
    assert not run.exists()
    elsewhere.rename(run)
    trial(run)
    assert result(run) == trial.expected


def test_a_run_whose_lock_is_removed_stops_and_goes_on(trial, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(RunError, match="the lock was removed"):
        trial(run, EACH_STEP, Stops(1, 0, (run / "lock").unlink))
    trial(run)
    assert result(run) == trial.expected


def test_checkpoints_that_are_links_are_never_followed(trial, tmp_path):
    run, outside = tmp_path / "run", tmp_path / "outside"
    stop(trial, run, 1, 0)
    (run / "checkpoints").rename(outside)
    for name in Checkpoints(outside).names():
        (outside / name / PROGRESS).unlink()  # damaged: they would be put aside
    before = sorted(path.name for path in outside.rglob("*"))
    (run / "checkpoints").symlink_to(outside)
    with pytest.raises(RunError, match="is a link"):
        trial(run)
    assert sorted(path.name for path in outside.rglob("*")) == before


def asked_of(monkeypatch):
    monkeypatch.setattr(os, "write", lambda *_: 0)  # the words for the terminal
    return lambda: signals._asked is not None


def test_row_26_a_signal_is_heard_between_the_batches_of_an_evaluation(trial, tmp_path, monkeypatch):
    logits = type(trial.model).logits

    def stopped(model, batches):
        monkeypatch.setattr(signals, "_asked", signal.SIGTERM)
        return logits(model, batches)

    with monkeypatch.context() as patch, pytest.raises(StoppedError) as caught:
        patch.setattr(type(trial.model), "logits", stopped)
        trial(tmp_path / "run")
    assert caught.value.exit_code == 143
    _, facts, rows = Checkpoints(tmp_path / "run" / "checkpoints").load()
    assert facts["epoch"] == 0 and rows == []  # the epoch's steps are done, its row is not
    trial(tmp_path / "run")
    assert result(tmp_path / "run") == trial.expected


# --- nothing is left out ---


def leave_out(run, name):
    """Writes the newest checkpoint without one of its entries, as if it had never been kept."""
    path = Checkpoints(run / "checkpoints").path / Checkpoints(run / "checkpoints").names()[-1]
    arrays, facts, rows = (dict(part) if isinstance(part, dict) else part for part in checkpoints.read(path))
    file, _, entry = name.partition(": ")
    {ARRAYS: arrays, PROGRESS: facts}.get(file, {}).pop(entry, None)
    rows = [] if file == METRICS else rows
    shutil.rmtree(path.parent)
    epoch, step = map(int, path.name.split("-"))
    Checkpoints(path.parent).save(epoch, step, arrays, facts, rows)


def entries(run):
    arrays, facts, _ = Checkpoints(run / "checkpoints").load()
    return [*(f"{ARRAYS}: {name}" for name in arrays), *(f"{PROGRESS}: {name}" for name in facts), f"{METRICS}: all"]


def without(values, name):
    return {other: value for other, value in values.items() if other != name}


# Where runs are stopped, for entries that no stop before misses: between two accumulated gradients, at an epoch's end.
STOPS = {"search": [(1, 1)], "train": [(1, 2), (0, 1), (0, -1)]}


def test_leaving_any_entry_out_of_the_checkpoint_changes_the_result(trial, tmp_path):
    """Each array and each fact in turn; a variable that is not kept has the value it is made with."""
    names = None
    for epoch, step in STOPS[trial.kind]:
        stopped = tmp_path / f"stopped {epoch} {step}"
        stop(trial, stopped, epoch, step)
        names = entries(stopped) if names is None else names
        names = [name for name in names if not is_missed(trial, stopped, tmp_path / "run", name)]
    assert names == []


def is_missed(trial, stopped, run, name):
    """Whether the run in `stopped` comes to another end where its checkpoints never hold this entry."""
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(stopped, run)
    leave_out(run, name)
    entry, named = name.partition(": ")[2], checkpointing._named_variables
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpointing, "_named_variables", lambda model: without(named(model), entry))
        try:
            trial(run, RARE)
        except Exception:  # which is noticed too
            return True
    return trial.state() != trial.end or result(run) != without(trial.expected, entry)


# --- faults ---


def full_disk(monkeypatch, times):
    """Flushing fails so many times for want of space, then never again."""
    sync, left = os.fsync, [times]

    def flush(number):
        if left[0]:
            left[0] -= 1
            raise OSError(28, "No space left on device")
        sync(number)

    monkeypatch.setattr(os, "fsync", flush)


def test_a_full_disk_costs_warnings_and_nothing_else(trial, tmp_path, monkeypatch, caplog):
    full = Stops(0, 1, lambda: full_disk(monkeypatch, checkpointing.MAX_FAILURES - 1))
    trial(tmp_path / "run", progress=full)
    assert "no checkpoint (the disk is full): the one before stays, and the run goes on" in caplog.text
    assert result(tmp_path / "run") == trial.expected


def test_a_disk_that_stays_full_ends_the_run_and_keeps_its_last_checkpoint(trial, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        full = Stops(1, 0, lambda: full_disk(patch, 10**6))
        with pytest.raises(ResourceError, match="the disk is full"):
            trial(tmp_path / "run", progress=full)
    assert Checkpoints(tmp_path / "run" / "checkpoints").load()[1]["epoch"] == 1
    trial(tmp_path / "run")
    assert result(tmp_path / "run") == trial.expected


def poison(trial):
    """NaN in a weight, as a diverging step leaves it."""
    network = trial.model.supernet if trial.kind == "search" else trial.model.network
    kernel = network.trainable_variables[-1]  # the classifier's, behind all ReLUs
    kernel.assign(np.full(kernel.shape, np.nan))


def test_nan_stops_with_a_file_that_says_where(trial, tmp_path):
    stop(trial, tmp_path / "run", 0, -1, lambda: poison(trial), NumericalError, RARE)
    told = json.loads((tmp_path / "run" / "diverged.json").read_text())
    if trial.kind == "search":
        assert told["step"] == 0 and told["not_finite"]["train_loss"] == told["not_finite"]["weight_gradient_norm"]
        assert told["not_finite"]["train_loss"] == "nan"
    else:  # float16 skips steps whose loss is not finite; the weights tell it at the epoch's end
        assert told["step"] == 3 and list(told["not_finite"]) == ["weights"]
    assert told["epoch"] == 1 and told["learning_rate"] > 0 and told["checkpoint"] is None
    trial(tmp_path / "run")
    assert result(tmp_path / "run") == trial.expected


def test_nan_in_the_weights_alone_is_never_kept(trial, tmp_path):
    stop(trial, tmp_path / "run", 1, 1, lambda: poison(trial), NumericalError)
    told = json.loads((tmp_path / "run" / "diverged.json").read_text())
    assert list(told["not_finite"]) == ["weights"] and "in 1 of" in told["not_finite"]["weights"]
    assert told["checkpoint"] == Checkpoints(tmp_path / "run" / "checkpoints").names()[-1]
    for name in Checkpoints(tmp_path / "run" / "checkpoints").names():
        arrays, _, _ = checkpoints.read(tmp_path / "run" / "checkpoints" / name)
        assert all(np.isfinite(array).all() for array in arrays.values())


def test_what_a_relu_swallows_is_found_in_the_step_that_it_met(tmp_path):
    """NaN in an alpha or in an image can leave a finite loss."""
    trial = Trial("search")

    def poison_alphas():
        trial.model.alphas[0].assign(np.full(trial.model.alphas[0].shape, np.nan))

    stop(trial, tmp_path / "run", 0, -1, poison_alphas, NumericalError, RARE)
    told = json.loads((tmp_path / "run" / "diverged.json").read_text())
    assert (told["epoch"], told["step"], told["not_finite"]["alpha_norm"]) == (1, 0, "nan")

    image, draws = np.full((16, 8, 8, 1), np.nan, "float32"), np.zeros((16, augment.NUM_DRAWS), "float32")
    batch = (image, np.zeros(16, "int32"), draws)
    assert np.isnan(float(trial.model.compiled_step()((batch, batch))["image_rms"]))


# --- over time ---


class Samples(NullProgress):
    """Memory in MB and number of open files, each so many steps."""

    def __init__(self, every):
        self.every, self.steps, self.taken = every, 0, []

    def step(self, epoch, step, loss):
        self.steps += 1
        if self.steps % self.every == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.taken.append((pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir("/proc/self/fd"))))


@pytest.mark.slow
def test_steps_leave_nothing_behind(tmp_path, monkeypatch):
    """1,000 of them, with checkpoints, evaluations and all: no new trace, no open file, no memory that grows."""
    trial, samples = Trial("search"), Samples(125)
    recipe = dataclasses.replace(SEARCH, limit=None, epochs=24)  # of 44 steps
    monkeypatch.setitem(globals(), "SEARCH", recipe)
    trial(tmp_path / "run", run_options.RunOptions(checkpoint_s=0.5), samples)
    assert samples.steps > 1000
    assert trial.model.compiled_step()._step.experimental_get_tracing_count() == 1
    memory, files = zip(*samples.taken)
    assert len(set(files[2:])) == 1, files
    assert memory[-1] - memory[2] < 30, memory  # of about a thousand
