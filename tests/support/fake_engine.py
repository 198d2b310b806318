"""An engine for tests of `measure.latency`: it computes nothing, and its times are drawn from a known distribution.

Request: `name` and `log`, a file that gets a line with the name when the engine is opened and one for each run;
`seed`; `scale`, the median over MEDIAN; `die`, the run at which the process dies, 0 for while it is opened; `hang`, the
run that never ends; `stall_ms`, added to two runs of ten; `noisy`, whether it writes much to stderr; `said`, its last
words where it dies; `memory_mib`, which it takes at the run `at`, 0 for while it is opened.
"""

import os
import sys
import time

import numpy as np

from sharpkeras.measure.latency.interleaving import Launch
from sharpkeras.measure.latency.worker import serve

TAIL = 0.1
MEDIAN = 1 + TAIL * np.log(2)  # milliseconds
PROVIDER = "FakeProvider"


def open_fake(
    name,
    seed=0,
    scale=1.0,
    log=None,
    die=None,
    hang=None,
    stall_ms=0.0,
    noisy=False,
    said="something else\nthe engine broke",
    memory_mib=0,
    at=None,
):
    """For `serve`."""
    generator, runs = np.random.default_rng([seed, os.getpid()]), 0
    print("a library that prints to stdout")

    def note(word):
        if log:
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{name} {word}\n")

    def one_run():
        nonlocal runs
        runs += 1
        note("run")
        if runs == die:
            print(said, file=sys.stderr, flush=True)
            os._exit(3)
        if runs == hang:
            time.sleep(3600)
        if runs == at:
            take()
        if noisy:
            print("x" * 100_000, file=sys.stderr, flush=True)  # more than a pipe holds
        milliseconds = scale * (1 + generator.exponential(TAIL)) + (stall_ms if runs % 10 < 2 else 0)
        return int(1e6 * milliseconds)

    def take():
        np.ones((memory_mib, 2**20), "uint8")

    note("opened")
    if at == 0:
        take()
    if die == 0:
        sys.exit("it cannot be opened")
    return one_run, {"providers": [PROVIDER], "available": [PROVIDER], "versions": {"fake": "1"}}


class Fake:
    """A contender of `latency.benchmark`."""

    def __init__(self, name, providers=(PROVIDER,), **request):
        self.name, self._providers, self._request = name, providers, request

    def launch(self, batch_size, threads, providers):
        return Launch(
            where=self.name,
            engine="The fake engine",
            command=(sys.executable, __file__),
            request={"name": self.name} | self._request,
            providers=self._providers,
            environment={"PYTHONPATH": os.pathsep.join(sys.path)},
            facts={"file": self.name},
        )


if __name__ == "__main__":
    serve(open_fake)
