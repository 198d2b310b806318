"""The loop of a sweep: it begins jobs as places come free, waits for them, and stops them all after a signal."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sharpkeras.engine import signals
from sharpkeras.sweeping.jobs import POLL_S, Outcome
from sharpkeras.sweeping.plan import Job
from sharpkeras.sweeping.pools import Pool


class NullProgress:
    """What is told of a sweep; this one tells nothing."""

    def plan(self, waiting: int, done: int, about: str) -> None:
        """So many jobs are to run, so many have been done before; and where they run."""

    def begins(self, job: Job) -> None:
        """A job begins, or goes on."""

    def ends(self, job: Job, outcome: Outcome, waiting: int, left_s: float) -> None:
        """A job has ended; so many are left, for about so many seconds."""

    def stopping(self, running: int) -> None:
        """A signal has come: so many jobs write their checkpoints."""


def carry_out(jobs: Iterable[Job], pool: Pool, progress: NullProgress) -> dict[Job, Outcome]:
    """Runs the jobs; one that fails leaves the others as they are.

    Returns:
        The Outcome of each.

    Raises:
        StoppedError: after SIGTERM or Ctrl-C, once all jobs have ended.
    """
    waiting = deque(jobs)
    running: dict[Job, Any] = {}
    ended: dict[Job, Outcome] = {}
    began: dict[Job, float] = {}
    slots = pool.slots or max(1, len(waiting))
    try:
        with signals.held():
            try:
                while waiting or running:
                    signals.check()
                    while waiting and len(running) < slots:
                        job = waiting.popleft()
                        progress.begins(job)
                        running[job], began[job] = pool.start(job), time.monotonic()
                    for job, outcome in _ended(running, pool):
                        ended[job] = outcome
                        ages = [time.monotonic() - began[other] for other in running]
                        left_s = forecast([done.seconds for done in ended.values()], ages, len(waiting), slots)
                        progress.ends(job, outcome, len(waiting) + len(running), left_s)
                    time.sleep(POLL_S)
            except signals.StoppedError:
                progress.stopping(len(running))
                for handle in running.values():
                    pool.stop(handle)
                while running:
                    list(_ended(running, pool))
                    time.sleep(POLL_S)
                raise
    finally:
        pool.close()
    return ended


def _ended(running: dict[Job, Any], pool: Pool) -> Iterator[tuple[Job, Outcome]]:
    """The jobs that have ended, which are then no longer among those that run."""
    for job, handle in list(running.items()):
        outcome = pool.poll(handle)
        if outcome is not None:
            del running[job]
            yield job, outcome


def forecast(took: Sequence[float], ages: Sequence[float], waiting: int, slots: int) -> float:
    """Seconds until the last job ends, where each takes the mean of those that have ended.

    Args:
        took: seconds of the jobs that have ended.
        ages: seconds since each job began that runs now.
        waiting: jobs that have not begun.
        slots: jobs at once.

    >>> forecast([10.0, 20.0], [5.0], 3, 2)
    27.5
    """
    mean = sum(took) / len(took)
    work = mean * waiting + sum(max(0.0, mean - age) for age in ages)
    return work / max(1, min(slots, waiting + len(ages)))
