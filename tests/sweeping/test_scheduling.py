"""Jobs beside each other, carried out by a small script in place of the command: what is left out, fails and stops."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("jobs are the same on every backend", allow_module_level=True)

from sharpkeras.engine import signals
from sharpkeras.errors import ConfigError, ResourceError
from sharpkeras.sweeping import jobs, plan, pools, scheduling
from sharpkeras.sweeping.jobs import Start
from sharpkeras.sweeping.plan import How, Row
from sharpkeras.sweeping.pools import Wish

FAKE = Path(__file__).parents[1] / "support" / "fake_command.py"
ROWS = [Row("a", seeds=(0, 1)), Row("b", architecture="random")]


class Told(scheduling.NullProgress):
    """What is said of a sweep, as a list; a call for what a test does at a moment."""

    def __init__(self):
        self.said = []

    def begins(self, job):
        self.said.append(("begins", job.name))

    def ends(self, job, outcome, waiting, left_s):
        self.said.append(("ends", job.name, outcome.code, waiting))
        assert left_s >= 0

    def stopping(self, running):
        self.said.append(("stopping", running))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    return tmp_path


def wish(folder, **options):
    return Wish(Start(str(folder), (sys.executable, str(FAKE))), folder / "pool", **options)


def begun(folder):
    """Run → how often it began."""
    return {str(path.parent.relative_to(folder)): len(path.read_text()) for path in folder.glob("out/*/*/*/began")}


def carried_out(folder, pool=None, told=None):
    found = plan.jobs(ROWS, "out", How())
    waiting = [job for job in found if jobs.left(job)]
    pool = pool or pools.LocalPool(wish(folder, jobs=2, threads=3))
    return scheduling.carry_out(waiting, pool, told or scheduling.NullProgress())


def test_every_job_is_carried_out_once(place):
    told = Told()
    ended = carried_out(place, told=told)
    assert [outcome.code for outcome in ended.values()] == [0, 0, 0]
    assert [kind for kind, *_ in told.said].count("begins") == 3 and told.said[-1][3] == 0
    assert {run.split("/", 1)[1] for run in begun(place)} == {
        f"{job}/{name}" for job in ("a/seed-0", "a/seed-1") for name in ("search", "train")
    } | {"b/seed-0/train"}
    assert not carried_out(place)  # nothing is left
    log = (place / "out/a/seed-0/log.txt").read_text()
    assert log.count("$ sharpkeras search digits --seed 0 --out out/a/seed-0/search") == 1
    assert "search 3 None" in log and "evaluate 3 None" in log


def test_one_that_fails_leaves_the_others_and_goes_on_later(place):
    (place / "broken-1").touch()
    ended = {job.name: outcome for job, outcome in carried_out(place).items()}
    assert {name: outcome.code for name, outcome in ended.items()} == {"a seed 0": 0, "b seed 0": 0, "a seed 1": 1}
    assert ended["a seed 1"].step == "train" and ended["a seed 1"].last[-1] == "Error: there are no images"
    (place / "broken-1").unlink()
    assert [job.name for job in carried_out(place)] == ["a seed 1"]
    assert begun(place)["out/a/seed-1/search"] == 1  # which was finished


def test_a_signal_stops_all_jobs_after_their_checkpoints(place):
    (place / "slow").touch()
    told = Told()

    def interrupt():
        while len(begun(place)) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(signals.StoppedError) as caught:
        carried_out(place, told=told)
    assert caught.value.exit_code == 143 and told.said[-1] == ("stopping", 2)
    assert len([*place.glob("out/*/*/*/checkpoint")]) == 2
    (place / "slow").unlink()
    assert all(outcome.code == 0 for outcome in carried_out(place).values())
    assert max(begun(place).values()) == 2


SWEEP = """
import sys
from test_scheduling import carried_out, Path
carried_out(Path("."))
"""


def test_no_job_outlives_a_sweep_that_is_killed(place):
    (place / "slow").touch()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", SWEEP], cwd=place, env=environment)
    while len(begun(place)) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    (place / "slow").unlink()
    assert all(outcome.code == 0 for outcome in carried_out(place).values())  # else a run is still in use


def test_a_job_that_the_system_kills(place):
    (place / "slow").touch()
    (job, *_) = plan.jobs(ROWS, "out", How())
    running = jobs.RunningJob(job, Start(str(place), (sys.executable, str(FAKE))))
    while not begun(place):
        time.sleep(0.05)
    running._process.kill()
    assert jobs.wait(running).code == 7


def test_places_for_jobs(monkeypatch, tmp_path):
    monkeypatch.setattr(pools, "available_cores", lambda: 16)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert pools.LocalPool(wish(tmp_path)).about == "4 at once, 4 threads each"
    assert pools.LocalPool(wish(tmp_path, jobs=3)).about == "3 at once, 5 threads each"
    with pytest.raises(ResourceError, match="no GPU"):
        pools.LocalPool(wish(tmp_path, device="gpu"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    pool = pools.LocalPool(wish(tmp_path))
    assert pool.about == "2 at once, on 2 GPUs, 8 threads each"
    assert {slot["CUDA_VISIBLE_DEVICES"] for slot in pool._free} == {"2", "5"}
    assert pools.LocalPool(wish(tmp_path, device="cpu")).slots == 4
    shared = pools.LocalPool(wish(tmp_path, jobs=4))
    assert all(slot["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false" for slot in shared._free)


@pytest.mark.parametrize("kind", ["ray", "slurm"])
def test_a_package_that_is_missing_is_named_with_its_command(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        pools.POOLS[kind](wish(tmp_path))
    assert caught.value.next_step == f'pip install "sharpkeras[{kind}]"'


@pytest.mark.slow
def test_ray(place):
    pytest.importorskip("ray")
    (place / "broken-1").touch()
    ended = {job.name: outcome for job, outcome in carried_out(place, pools.RayPool(wish(place, jobs=2))).items()}
    assert {name: outcome.code for name, outcome in ended.items()} == {"a seed 0": 0, "b seed 0": 0, "a seed 1": 1}
    assert ended["a seed 1"].last[-1] == "Error: there are no images"
    (place / "broken-1").unlink()
    (place / "slow").touch()
    pool = pools.RayPool(wish(place, jobs=2, threads=1))
    job = next(job for job in plan.jobs(ROWS, "out", How()) if jobs.left(job))
    running = pool.start(job)
    while "out/a/seed-1/train" not in begun(place):
        time.sleep(0.05)
    pool.stop(running)
    while pool.poll(running) is None:
        time.sleep(0.05)
    pool.close()
    assert (place / "out/a/seed-1/train/checkpoint").exists()
    assert "train 1 " in (place / "out/a/seed-1/log.txt").read_text()  # threads as asked for, and not as Ray has them


@pytest.mark.slow
def test_jobs_of_submitit(place, monkeypatch):
    """By its executor that makes processes of this machine; Slurm's own needs a cluster."""
    pytest.importorskip("submitit")
    pool = pools.SlurmPool(replace(wish(place), slurm={"timeout_min": "5"}), cluster="local")
    (job, *_) = plan.jobs(ROWS, "out", How())
    running = pool.start(job)
    monkeypatch.setattr(pool, "_found", {running[1].job_id: running[1]}.__getitem__)
    assert pool.start(job)[1] is running[1]  # it is in the queue: a sweep that goes on waits for it
    while (outcome := pool.poll(running)) is None:
        time.sleep(0.1)
    assert outcome.code == 0 and not jobs.left(job)


def test_a_job_of_slurm_whose_time_is_up_goes_on_from_its_checkpoint(place):
    """What submitit calls then: `checkpoint`, and in the queued job what that returns."""
    pytest.importorskip("submitit")
    (place / "slow").touch()
    (job, *_) = plan.jobs(ROWS, "out", How())
    first = pools.SlurmJob(job, wish(place).start)
    threading.Thread(target=first, daemon=True).start()
    while not begun(place):
        time.sleep(0.05)
    delayed = first.checkpoint()
    assert (place / "out/a/seed-0/search/checkpoint").exists()
    (place / "slow").unlink()
    assert delayed.function().code == 0 and begun(place)["out/a/seed-0/search"] == 2
