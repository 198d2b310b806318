"""The command line within the test's own process, and the smallest runs that it can make."""

import contextlib
import io
import json
import os
from typing import NamedTuple

import numpy as np
from PIL import Image

from support import advice

PRIMITIVES = "none,skip_connect,sep_conv_3x3,max_pool_3x3"
TINY = ["--limit", "80", "--batch-size", "16", "--init-channels", "2", "--num-cells", "3", "--epochs", "2"]
SEARCH = ["search", *TINY, "--num-nodes", "2", "--space", PRIMITIVES]
TRAIN = ["train", "search", *TINY, "--warmup-epochs", "0", "--out", "train"]


class Result(NamedTuple):
    """What a command left: its exit code and its two streams."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def sharpkeras(*arguments):
    """Runs `sharpkeras` with these arguments here, where TensorFlow is imported once for all."""
    out, err = io.StringIO(), io.StringIO()
    code = run_on(out, err, *arguments)
    result = Result(code, out.getvalue(), err.getvalue())
    advice.check(arguments, result)
    return result


def run_on(out, err, *arguments):
    """Runs `sharpkeras` with these streams for stdout and stderr; returns the exit code."""
    from sharpkeras_cli.main import main

    environment = dict(os.environ)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main([str(argument) for argument in arguments])
    except SystemExit as ending:
        return ending.code
    finally:
        os.environ.clear()
        os.environ.update(environment)


def make_runs(folder):
    """`search/`, `train/` and `model.onnx` in `folder`, by the commands; returns the folder."""
    with contextlib.chdir(folder):
        commands = (
            [*SEARCH, "--out", "search"],
            TRAIN,
            ["evaluate", "train"],
            ["export", "train", "--out", "model.onnx"],
        )
        for command in commands:
            result = sharpkeras(*command)
            assert result.code == 0, result.err
            (folder / f"{command[0]}.txt").write_text(result.out)
    return folder


def make_images(folder, counts, size=(12, 12), seed=0):
    """Class folders of PNG files with noise around a colour of the class's own."""
    generator = np.random.default_rng(seed)
    for index, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        color = np.array([60, 120, 180]) if index % 2 else np.array([180, 120, 60])
        for image in range(count):
            pixels = np.clip(color + generator.normal(0, 20, (*size, 3)), 0, 255).astype("uint8")
            Image.fromarray(pixels).save(folder / name / f"{image:03}.png")
    return folder


def files_below(folder):
    """Path → content of every file, to see what a command changed; of large files the size alone."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {path: path.stat().st_size if path.stat().st_size > 2**20 else path.read_bytes() for path in paths}
