"""Hostile input for `fuzz.py` and `test_fuzz.py`: good files, what spoils them, and command lines of all kinds."""

import json
import re

import click
from hypothesis import strategies as st

from sharpkeras.io import json_files
from sharpkeras.paper import published
from sharpkeras.recipes import SearchRecipe, TrainRecipe
from sharpkeras_cli.main import group
from support.command_line import make_images

# --- good files ---

GENOTYPE, ROUTE = published.genotype("SHARP_DARTS"), published.path("MULTI_CHANNEL_HANDMADE_PATH")
SEARCH = SearchRecipe(space="none,skip_connect,sep_conv_3x3", num_nodes=2)
FACTS = {"schema_version": 1, "program": "sharpkeras", "created": "2026-01-01T00:00:00+00:00", "versions": {}}
ENDED = {"finished": "2026-01-01T00:01:00+00:00"}
DATA = {
    "fingerprint": "0" * 64,
    "images": 8,
    "shape": [8, 8, 3],
    "class_names": ["a", "b"],
    "mean": [0.5, 0.5, 0.5],
    "deviation": [0.2, 0.2, 0.2],
    "notes": [],
    "skipped_files": [],
}
ROWS = tuple(  # lines of a file
    {"epoch": epoch, "steps": 4, "train_loss": 1.5, "skip_share": 0.5, "pool_share": 0.0, "none_share": 0.25}
    for epoch in range(2)
)
ALPHAS = {"alphas": [[[0.1, 0.2, 0.3]] * 5] * 2, "genotype": GENOTYPE.as_dict()}
RATE = {"n": 8, "errors": 2, "error": 0.25, "interval": [0.03, 0.65], "text": "25 %", "top5": None, "label": None}
EVALUATION = {**RATE, "dataset": "digits", "fingerprint": "0" * 64, "selected": {"by": "last"}, "selection": "last"}
TABLE = {"schema_version": 1, "device": "a machine", "table": {'["Conv",{},[8,8,3]]': {"ms": 0.5, "spread": 0.1}}}

SEARCH_RUN = {
    "run.json": {**FACTS, "kind": "search", **ENDED},
    "recipe.json": {"settings": SEARCH.as_dict(), "backend": "tensorflow"},
    "data.json": DATA,
    "metrics.jsonl": ROWS,
    "epochs/0001.json": ALPHAS,
    "genotype.json": GENOTYPE.as_dict(),
}
TRAIN_RUN = {
    "run.json": {**FACTS, "kind": "train", **ENDED},
    "recipe.json": {"settings": TrainRecipe().as_dict(), "genotype": GENOTYPE.as_dict(), "backend": "tensorflow"},
    "data.json": DATA,
    "metrics.jsonl": ROWS,
    "evaluation.json": EVALUATION,
    "genotype.json": GENOTYPE.as_dict(),
}
RUNS = {"search": SEARCH_RUN, "train": TRAIN_RUN}
CONFIG = {"epochs": 3, "learning_rate": 0.1, "dataset": "folder:images", "cost_of": "digits"}
CONFIG_TOML = 'epochs = 3\nlearning_rate = 1e-1\ndataset = "digits"\n\n[settings]\nautoaugment = "none"\n'


def written(value, **form):
    """A JSON value as a file holds it; a tuple as its lines."""
    rows = value if isinstance(value, tuple) else [value]
    return b"".join(json.dumps(row, **form).encode("utf-8", "surrogatepass") + b"\n" for row in rows)


def make_run(folder, files):
    for name, value in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(written(value))


def make_place(folder):
    """A working directory with good things of all kinds and some that are none; returns it."""
    for name, files in RUNS.items():
        make_run(folder / name, files)
    good = {"genotype.json": GENOTYPE.as_dict(), "path.json": ROUTE.as_dict(), "config.json": CONFIG}
    for name, value in {**good, "latencies.json": TABLE, "list.json": [1]}.items():
        (folder / name).write_bytes(written(value))
    (folder / "config.toml").write_text(CONFIG_TOML.partition("\n\n")[0])
    (folder / "model.onnx").write_bytes(bytes(range(256)))
    (folder / "text.txt").write_text("hello")
    (folder / "empty.json").touch()
    make_images(folder / "images" / "train", {"a": 4, "b": 4}, size=(8, 8))
    return folder


# --- hostile contents ---

VALUES = (None, True, False, 0, 1, -1, 2**31, 2**64, 10**99, -(10**120), 0.5, -0.0, 5e-324, 1e308, float("nan"))
TEXTS = ("", " ", "none", "\x1b[31m", "\ud800", "\0", "../../x", "é" * 50, "x" * 5000, "\u202e", "a\nb", "1e999")
TREES = ([], {}, [[]], {"": {}}, [None] * 100, {"routes": []}, {"x" * 5000: 1}, {"\x1b": 1, "\ud800": 2}, "\x7f")
TOKENS = (
    *("NaN", "-Infinity", "1e999", "-0", "01", ".5", "9" * 101, "9" * 5000, "0x" + "f" * 5000, "1_000", "1e5", "true"),
    *("{", "}", "[", "]", ",", ":", "=", ".", '"', "'", '"""', "\\", '\\"', "\n", "\r\n", " ", "#", "[" * 17, '{"a":'),
    *('"\\ud800"', '"\\u0000"', '"\\x"', "\ufeff", "\0", "\x1b", "\ud800", "1979-05-27", "a.", '"a".', "[[a]]", "é"),
)
BYTES = (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\x80\x02}q\x00.", b"PK\x03\x04")
LARGEST = json_files.MAX_BYTES + 100
PIECES = re.compile(r'"(?:[^"\\]|\\.)*+"|[\w.+-]+|\s+|.', re.DOTALL)


@st.composite
def changed(draw, value):
    """A JSON value with one place dropped, renamed or replaced."""
    here = draw(st.integers(0, 3)) == 0 or not isinstance(value, (dict, list)) or not value
    if here:
        return draw(st.sampled_from((*VALUES, *TEXTS, *TREES, [value], {"a": value})))
    place = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
    how, copied = draw(st.sampled_from(("inside", "inside", "drop", "rename"))), value.copy()
    inner = copied.pop(place)
    if how == "inside":
        inner = draw(changed(inner))
        return {**copied, place: inner} if isinstance(value, dict) else [*value[:place], inner, *value[place + 1 :]]
    if how == "rename" and isinstance(value, dict):
        return {**copied, draw(st.sampled_from((f"{place}x", place.upper(), *TEXTS))): inner}
    return copied


@st.composite
def disturbed(draw, text):
    """A text with some of its pieces dropped, doubled, replaced or repeated up to the largest size and beyond."""
    pieces = PIECES.findall(text)
    for _ in range(draw(st.integers(0, 3))):
        first = draw(st.integers(0, len(pieces)))
        last = min(len(pieces), first + draw(st.integers(0, 6)))
        span = pieces[first:last]
        new = draw(st.sampled_from(TOKENS))
        how = draw(st.sampled_from(("drop", "double", "replace", "replace", "insert", "repeat")))
        if how == "repeat":
            new *= draw(st.sampled_from((2, 20, 2000, LARGEST // len(new))))
        pieces[first:last] = {"drop": [], "double": span * 2, "replace": [new]}.get(how, [new, *span])
    return "".join(pieces)


@st.composite
def spoiled(draw, content):
    """Bytes, often with their end cut off, one of them changed, or some put in."""
    how, at = draw(st.sampled_from(("keep", "keep", "keep", "cut", "put", "flip"))), draw(st.integers(0, len(content)))
    if how == "put":
        return content[:at] + draw(st.sampled_from(BYTES)) + content[at:]
    if how == "flip":
        return (
            content[:at]
            + bytes([byte ^ 1 << draw(st.integers(0, 7)) for byte in content[at : at + 1]])
            + content[at + 1 :]
        )
    return content[:at] if how == "cut" else content


@st.composite
def contents(draw, seeds):
    """The bytes of a file: anything, or a good content that was changed, disturbed, cut or spoiled."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
    value = draw(st.sampled_from(seeds))
    if isinstance(value, bytes):
        return draw(spoiled(value))
    if not isinstance(value, str):
        rows = value if isinstance(value, tuple) else [value]
        for _ in range(draw(st.integers(0, 2))):
            rows = [draw(changed(row)) for row in rows]
        form = {"ensure_ascii": draw(st.booleans()), "indent": draw(st.sampled_from((None, None, 1)))}
        value = "".join(json.dumps(row, **form) + "\n" for row in rows)
    if draw(st.booleans()):
        value = draw(disturbed(value))
    return draw(spoiled(value.encode("utf-8", "surrogatepass")))


# --- hostile command lines ---

WORDS = (
    *("", " ", "-", "--", "-1", "0", "1", "2", "nan", "inf", "-inf", "1e309", "1e-400", "1.5", "-0", "600M", "1e300K"),
    *("9" * 400, "9" * 5000, "1" + "0" * 40, "0x10", "１２", "none", "true", "é", "\x1b[31mred", "\u202eabc", "a\nb"),
    *("\udcff", "\x7f", "x" * 300, "x" * 5000, "%s", "$(x)", "a=b", "__import__('os')", "SHARP_DARTS", "digits"),
    *(".", "/dev/null", "/dev/zero", "/proc/new", "text.txt/below", "missing/deeper", "missing.json", "missing.toml"),
    *("images", "search", "train", "text.txt", "list.json", "empty.json", "model.onnx", "genotype.json", "path.json"),
    *(
        "config.json",
        "config.toml",
        "latencies.json",
        "search/run.json",
        "search/metrics.jsonl",
        "images/train/a/000.png",
    ),
    *("--json", "--help", "--nonsense", "--out", "-h"),
)
GOOD = {  # what each of these parameters takes
    "run": ("search", "train"),
    "runs": ("search", "train"),
    "architecture": ("SHARP_DARTS", "MULTI_CHANNEL_MAX_W_PATH", "genotype.json", "path.json", "search", "digits"),
    "file": ("model.onnx",),
    "path": ("search", "train", "genotype.json", "config.toml", "model.onnx", "images/train/a/000.png"),
    "out": ("new", "new.json", "new.onnx", "search", "train", "genotype.json"),
    "picture": ("new.png",),
    "init": ("train", "search", "model.onnx", "empty.json"),
    "config": ("config.json", "config.toml", "search/recipe.json"),
    "dataset": (
        "digits",
        "generated:digits",
        "folder:images",
        "folder:missing",
        "cifar10:images",
        "folder:" + "x" * 5000,
    ),
    "latency_table": ("latencies.json", "list.json"),
    "space": ("darts", "sharper", "multichannel", "none,skip_connect", "none,none", ","),
    "cost_of": ("digits", "sharpdarts"),
    "assignments": (
        "epochs=1",
        "learning_rate=" + "9" * 400,
        "ema=nan",
        "epochs=1e400",
        "seed=none",
        "=",
        "nonsense=1",
    ),
    "providers": ("CPU", "CUDA,CPU", ","),
}


@st.composite
def words_of(draw, parameter):
    """A word for a parameter: mostly a good one or one beside its limits."""
    kind = parameter.type
    if isinstance(kind, click.Choice):
        good = st.sampled_from(tuple(kind.choices))
    elif isinstance(kind, (click.IntRange, click.FloatRange)):
        limits = [limit for limit in (kind.min, kind.max) if limit is not None]
        good = st.sampled_from([str(limit + step) for limit in limits for step in (-1, 0, 0, 1)] or ["1"])
    else:
        good = st.sampled_from(GOOD.get(parameter.name, WORDS))
    hostile = draw(st.integers(0, 3)) == 0
    return draw(st.sampled_from(WORDS) if hostile else good)


@st.composite
def command_lines(draw, name):
    """The arguments of a call of the command `name`."""
    command = group.get_command(None, name)
    words = [name]
    for parameter in command.params:
        if isinstance(parameter, click.Argument) and draw(st.integers(0, 9)):
            words += [draw(words_of(parameter)) for _ in range(draw(st.integers(1, 3)) if parameter.nargs < 0 else 1)]
    switches = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    for option in draw(st.lists(st.sampled_from(switches), max_size=6)):
        words.append(draw(st.sampled_from((*option.opts, *option.secondary_opts))))
        if not option.is_flag:
            words.append(draw(words_of(option)))
    if draw(st.integers(0, 7)) == 0:
        words.insert(draw(st.integers(0, len(words))), draw(st.sampled_from(WORDS)))
    return words


COMMANDS_ON_RUNS = (
    ("inspect", "search"),
    ("inspect", "train", "--strict"),
    ("evaluate", "train"),
    ("export", "train", "--out", "new.onnx"),
    ("cost", "train"),
    ("cost", "search"),
    ("compare", "train"),
    ("compare", "search", "train"),
    ("compare", "search", "--picture", "new.png"),
    ("extract", "search", "--out", "new.json"),
    ("train", "search", "--out", "new"),
    ("search", "--space", SEARCH.space, "--num-nodes", "2", "--out", "search"),
    ("train", "SHARP_DARTS", "--out", "train", "--resume"),
)


@st.composite
def strange_runs(draw):
    """(run, file in it, its content, a command that reads it)."""
    command = draw(st.sampled_from(COMMANDS_ON_RUNS))
    run = draw(st.sampled_from([name for name in RUNS if name in command[1:]] or ["train"]))
    name = draw(st.sampled_from(sorted(RUNS[run])))
    value = RUNS[run][name]
    return run, name, draw(contents((value,))), command
