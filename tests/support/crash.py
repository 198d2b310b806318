"""Kills a search and a training at random instants, types the same command again, and compares the end bit by bit.

`PYTHONPATH=tests python -m support.crash --kills 20 --seed 1` prints the seed and every instant; `make crash-test`
calls it.
"""

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

TINY = ["--limit", "80", "--batch-size", "8", "--init-channels", "2", "--num-cells", "2"]
HOW = ["--deterministic", "--checkpoint-interval", "0"]
GENOTYPE = {
    "normal": [["sep_conv_3x3", 0], ["skip_connect", 1]],
    "normal_concat": [2],
    "reduce": [["sep_conv_3x3", 0], ["max_pool_3x3", 1]],
    "reduce_concat": [2],
}
TRAIN = ["--epochs", "8", "--warmup-epochs", "1", "--drop-path", "0.3", "--ema", "0.9", "--cutout-px", "2"]
COMMANDS = {
    "search": ["search", *TINY, *HOW, "--epochs", "12", "--num-nodes", "1", "--space", "sep_conv_3x3,skip_connect"],
    "train": ["train", "genotype.json", *TINY, *HOW, *TRAIN],
}
MOST_TRIES = 10  # more kills than this and nothing done would mean that a run does not go on
WAIT_S = 300


class Process:
    """`sharpkeras` in a process of its own, with the time of its first step."""

    def __init__(self, name, folder, out):
        command = [sys.executable, "-m", "sharpkeras_cli.main", *COMMANDS[name], "--out", out]
        self.began, self.said, self.stepping = time.perf_counter(), [], threading.Event()
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stderr:
            self.said.append(line)
            if "first step" in line:
                self.stepping.set()
        self.stepping.set()  # or it ended without

    def wait(self, seconds=WAIT_S):
        """The exit code; None if it has not ended by then."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self.reader.join()
        return code

    def kill(self):
        self.process.kill()
        return self.wait()


def final(run):
    """What must be the same, as hashes: weights, alphas, all other state, the genotype, and metrics without times."""
    newest = max((run / "checkpoints").iterdir())
    files = [newest / "arrays.safetensors", run / "genotype.json", *run.glob("*.safetensors"), *run.glob("epochs/*")]
    hashes = {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    return hashes | {"metrics": hashlib.sha256(json.dumps(rows).encode()).hexdigest()}


def through(name, folder, out):
    """Runs without a kill; returns the seconds until its first step, those after it, and what it left."""
    process = Process(name, folder, out)
    process.stepping.wait(WAIT_S)
    first = time.perf_counter() - process.began
    assert process.wait() == 0, "".join(process.said)
    return first, time.perf_counter() - process.began - first, final(folder / out)


def instants(number, generator):
    """Where to kill: a quarter of the times while a process begins, else while it computes; shares of either time."""
    return [("begin" if generator.random() < 0.25 else "steps", generator.random()) for _ in range(number)]


def crash(name, kills, seed, say=print):
    """Raises AssertionError unless every run that is killed, again and again, ends as the one that was not."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "genotype.json").write_text(json.dumps(GENOTYPE))
        begin_s, steps_s, expected = through(name, folder, "whole")
        say(f"{name}: whole run {begin_s:.1f} s until the first step and {steps_s:.1f} s after it; seed {seed}")
        waiting, ended, tries = instants(kills, random.Random(f"{name} {seed}")), 0, 0
        while waiting or tries:
            process = Process(name, folder, f"run-{ended}")
            tries += 1
            phase, share = waiting.pop() if waiting else (None, 0)
            if phase:
                if phase == "steps":
                    process.stepping.wait(WAIT_S)
                seconds = share * (begin_s if phase == "begin" else steps_s)
                code = process.wait(seconds)
                if code is None:
                    process.kill()
                    say(f"  run {ended}, process {tries}: killed {seconds:.2f} s into its {phase}")
                    assert tries < MOST_TRIES + kills
                    continue
                waiting.append((phase, share / 2))  # it ended before
            else:
                code = process.wait()
            assert code == 0, f"exit code {code}\n" + "".join(process.said)
            found = final(folder / f"run-{ended}")
            other = [file for file in expected if found.get(file) != expected[file]]
            assert not other and found.keys() == expected.keys(), f"other than of a run without a kill: {other}"
            say(f"  run {ended}: came to the same end in {tries} processes")
            shutil.rmtree(folder / f"run-{ended}")
            ended, tries = ended + 1, 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    arguments = parser.parse_args()
    for name in COMMANDS:
        crash(name, arguments.kills, arguments.seed)
