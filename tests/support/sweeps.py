"""Kills a sweep at random instants, types the same command again, and compares its end with an undisturbed one's.

`PYTHONPATH=tests python -m support.sweeps --kills 2 --on local ray` prints the seed and every instant;
`make sweep-test` calls it.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = "limit = 80\nbatch_size = 16\ninit_channels = 2\nnum_cells = 2\nepochs = 2\n"
ROWS = f"""
seeds = "{{seeds}}"
[search]
{SIZES}num_nodes = 1
space = "sep_conv_3x3,skip_connect"
[train]
{SIZES}warmup_epochs = 0
[[rows]]
name = "max-w"
[[rows]]
name = "scalar"
search.weighting = "scalar"
[[rows]]
architecture = "random"
[[rows]]
architecture = "genotype.json"
"""
GENOTYPE = {
    "normal": [["sep_conv_3x3", 0], ["skip_connect", 1]],
    "normal_concat": [2],
    "reduce": [["sep_conv_3x3", 0], ["max_pool_3x3", 1]],
    "reduce_concat": [2],
}
HOW = ["--deterministic", "--checkpoint-interval", "0", "--jobs", "2", "--threads", "1"]
WAIT_S = 1800


def make_place(folder, seeds="0-1"):
    """A folder with the file of four rows and the architecture that one of them trains."""
    folder.mkdir()
    (folder / "rows.toml").write_text(ROWS.format(seeds=seeds))
    (folder / "genotype.json").write_text(json.dumps(GENOTYPE))
    return folder


def begin(folder, on):
    command = [sys.executable, "-m", "sharpkeras_cli.main", "sweep", "rows.toml", "--out", "sweep", "--on", on, *HOW]
    with open(folder / "said.txt", "ab") as said:
        return subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, start_new_session=True)


def finish(folder, on):
    """The seconds until the sweep has ended, and what it left."""
    began = time.perf_counter()
    process = begin(folder, on)
    code = process.wait(WAIT_S)
    assert code == 0, f"exit code {code}\n{(folder / 'said.txt').read_text()}"
    return time.perf_counter() - began, final(folder / "sweep")


def final(sweep):
    """What must be the same: the printed tables, and the report without its times."""
    report = json.loads((sweep / "compare.json").read_text())
    return (sweep / "compare.txt").read_text(), report["comparison"], report["rows"]


def crash(on, kills, seed, expected, whole_s, folder, say=print):
    """Raises AssertionError unless a sweep that is killed, again and again, ends with the tables of the other."""
    generator = random.Random(f"{on} {seed}")
    make_place(folder)
    for kill in range(kills):
        process, seconds = begin(folder, on), generator.uniform(0.1, 0.9) * whole_s / kills
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        say(f"  {on}, process {kill + 1}: killed after {seconds:.1f} s; done: {done(folder)}", flush=True)
    seconds, found = finish(folder, on)
    assert found == expected, f"{found[0]}\nis not\n{expected[0]}"
    say(f"  {on}: came to the same table in {kills + 1} processes, the last of {seconds:.1f} s", flush=True)


def done(folder):
    """How many commands have left their result."""
    return len([*folder.glob("sweep/*/*/*/weights.safetensors"), *folder.glob("sweep/*/*/search/genotype.json")])


def main(places, kills, seed, say=print):
    with tempfile.TemporaryDirectory() as folder:
        whole_s, expected = finish(make_place(Path(folder, "whole")), "local")
        say(f"whole sweep of 8 jobs, local: {whole_s:.1f} s; seed {seed}\n{expected[0]}", flush=True)
        for on in places:
            crash(on, kills, seed, expected, whole_s, Path(folder, on))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--on", nargs="+", choices=("local", "ray"), default=["local", "ray"])
    arguments = parser.parse_args()
    main(arguments.on, arguments.kills, arguments.seed)
