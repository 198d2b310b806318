"""What stands in for `sharpkeras` in tests of sweeps: it leaves what a command leaves, and can be slow, fail or stop.

    python fake_command.py search … --seed 0 --out RUN

Files beside it say how: `slow` makes each command take a minute, `broken-1` makes the trainings of seed 1 fail.
"""

import os
import signal
import sys
import time
from pathlib import Path

from sharpkeras.runs import RunDirectory


def main(name, words):
    said = dict(zip(words, words[1:]))
    print(name, os.environ.get("OMP_NUM_THREADS"), os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    if name == "train" and Path(f"broken-{said['--seed']}").exists():
        sys.exit("Error: there are no images")
    if name == "sample":
        Path(said["--out"]).write_text("{}")
    elif name == "evaluate":
        Path(words[0], "evaluation.json").write_text("{}")
    else:
        run(name, Path(said["--out"]))


def run(name, out):
    with RunDirectory.open(out, name, {"settings": {}}) as directory:

        def stop(number, _):
            (out / "checkpoint").touch()
            sys.exit(128 + number)

        signal.signal(signal.SIGTERM, stop)
        (out / "began").open("a").write(".")
        if Path("slow").exists() and not (out / "checkpoint").exists():
            time.sleep(60)
        directory.mark_finished()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
