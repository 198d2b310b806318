"""One job: its commands one after the other, each a process of its own.

What a job has done stands in its run directories, and nowhere else: a command whose run is finished is left out, one
that was stopped goes on from its checkpoint, and so a job may be begun again as often as one likes.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sharpkeras.errors import SharpKerasError, printable
from sharpkeras.runs import RunDirectory, files
from sharpkeras.sweeping.plan import Job, Step

PROGRAM = ("-P", "-m", "sharpkeras_cli.main")  # behind the interpreter; -P: no folder that is here hides a package
LOG = "log.txt"  # in the folder of a job
LAST_LINES, MOST_LINES = 5, 20
READ_BYTES = 4000  # of a log's end
POLL_S = 0.2
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes of a run that has written its checkpoint
OUT_OF_RESOURCES = 7

# The process that runs a command: it ends with the process that started it, however that ends, since a run that nobody
# waits for would keep its directory from the sweep that goes on. PR_SET_PDEATHSIG is 1.
BOUND = """\
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        code: the exit code of its last command; 7 where the system killed it.
        step: the name of that command; None where nothing was to be done.
        seconds: how long it took.
        last: the last lines of its log, where it failed.
    """

    code: int
    step: str | None
    seconds: float
    last: tuple[str, ...] = ()

    @property
    def stopped(self) -> bool:
        """Whether a signal stopped it, after a checkpoint."""
        return self.code in STOPPED


@dataclass(frozen=True)
class Start:
    """How the processes of a job are started.

    Attributes:
        program: the command line before the name of a command; None is that of sharpkeras, of the Python that is here.
        folder: the directory in which they run.
        environment: variables beside those that are set.
    """

    folder: str
    program: tuple[str, ...] | None = None
    environment: Mapping[str, str] | None = None

    def command(self, step: Step) -> list[str]:
        """The command line of a step."""
        program = self.program or (sys.executable, *PROGRAM)
        return [*program, step.name, *step.words]


def done(step: Step) -> bool:
    """Whether a step has been carried out."""
    place = Path(step.leaves)
    if step.name == "sample":
        return place.is_file()
    if not os.path.lexists(place / files.RUN):
        return False
    try:
        return RunDirectory.read(place).finished and (
            step.name != "evaluate" or os.path.lexists(place / files.evaluation())
        )
    except SharpKerasError:  # a damaged run is told by its command
        return False


def left(job: Job) -> Sequence[Step]:
    """The steps of a job from the first that has not been carried out."""
    first = next((index for index, step in enumerate(job.steps) if not done(step)), len(job.steps))
    return job.steps[first:]


class RunningJob:
    """A job in processes of this machine; `poll` is to be called until it gives the Outcome.

    Args:
        job: what to run.
        start: how.
    """

    def __init__(self, job: Job, start: Start) -> None:
        self._job, self._start, self._began = job, start, time.monotonic()
        self._left, self._stopping = list(left(job)), False
        self._process: subprocess.Popen[bytes] | None = None
        self._log = Path(start.folder, job.folder, LOG)
        self._next()

    def poll(self) -> Outcome | None:
        """The Outcome; None while the job goes on."""
        if self._process is None:
            return Outcome(0, None, self._seconds())
        code = self._process.poll()
        if code is None:
            return None
        step = self._left[0].name
        if code == 0 and len(self._left) > 1 and not self._stopping:
            self._left.pop(0)
            self._next()
            return None
        if code == 0 and len(self._left) > 1:
            code = STOPPED[1]  # between two steps
        code = code if code >= 0 else OUT_OF_RESOURCES if code == -signal.SIGKILL else 128 - code
        return Outcome(code, step, self._seconds(), () if code == 0 else last_lines(self._log))

    def stop(self) -> None:
        """Asks the command that runs to write a checkpoint and to end; no further one begins."""
        self._stopping = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """Ends the command that runs at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _next(self) -> None:
        if not self._left:
            return
        command = self._start.command(self._left[0])
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with open(self._log, "ab") as log:
            _write_command(log, self._left[0])
            bound = [sys.executable, "-I", "-S", "-c", BOUND, str(os.getpid()), *command]
            environment = {**os.environ, **(self._start.environment or {})}
            # A session of its own: Ctrl-C of the terminal reaches the sweep alone, which asks each job once.
            self._process = subprocess.Popen(
                bound,
                cwd=self._start.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def run(job: Job, start: Start) -> Outcome:
    """Runs a job here and waits for it; KeyboardInterrupt stops it, and is raised when its checkpoint is written."""
    running = RunningJob(job, start)
    try:
        return wait(running)
    except KeyboardInterrupt:
        running.stop()
        wait(running)
        raise
    finally:
        running.kill()


def wait(running: RunningJob) -> Outcome:
    while (outcome := running.poll()) is None:
        time.sleep(POLL_S)
    return outcome


def last_lines(log: Path) -> tuple[str, ...]:
    """What a log ends with: the message from its "Error:" on or, without one, its last lines."""
    with contextlib.suppress(OSError), open(log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - READ_BYTES))
        lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        first = max((index for index, line in enumerate(lines) if line.startswith("Error:")), default=-LAST_LINES)
        return tuple(printable(line) for line in lines[first:][:MOST_LINES])
    return ()


def _write_command(log: IO[bytes], step: Step) -> None:
    line = shlex.join(["sharpkeras", step.name, *step.words])
    log.write(f"$ {line}\n".encode(errors="replace"))
    log.flush()
