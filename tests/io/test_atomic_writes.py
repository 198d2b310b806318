"""Arrays in safetensors files: what others write is read to the bit, what was made to do harm ends in a RunError."""

import io
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from support.command_line import sharpkeras

from sharpkeras.errors import ResourceError, RunError
from sharpkeras.io import atomic_writes
from sharpkeras.io.hashes import sha256
from sharpkeras.runs import RunDirectory, checkpoints, files

FOUR = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
HUGE = 40 * 10**9


def crafted(header, data=b"", length=None):
    """A file of the format, its header any JSON value or bytes, with a true or a false length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(data=bytes(16), **fields):
    return crafted({"a": {**FOUR, **fields}}, data)


# What a stranger may write → the words that tell it.
CRAFTED = {
    "8-bit floats": (one(bytes(4), dtype="F8_E4M3", data_offsets=[0, 4]), "numbers of the type F8_E4M3"),
    "other 8-bit floats": (one(bytes(4), dtype="F8_E5M2", data_offsets=[0, 4]), "numbers of the type F8_E5M2"),
    "bfloat16": (one(bytes(8), dtype="BF16", data_offsets=[0, 8]), "numbers of the type BF16; save them as F32"),
    "complex": (one(bytes(32), dtype="C64", data_offsets=[0, 32]), "numbers of the type C64"),
    "an unknown type": (one(dtype="F4096"), "numbers of the type F4096"),
    "a type that is no text": (one(dtype=["F32"]), "is declared as"),
    "a type of control characters": (one(dtype="\x1b[31m"), r"\x1b[31m"),
    "empty": (b"", "0 bytes"),
    "a length alone": (bytes(8), "Expecting value"),
    "a length of 2^64 - 1": (crafted({}, length=2**64 - 1), "18,446,744,073,709,551,615"),
    "a long header": (crafted({}, bytes(10**8), length=10**8), "header has 100,000,000 bytes"),
    "a header that is a list": (crafted([]), "no object"),
    "a header that is no JSON": (crafted(b"{'a': 1}"), "property name"),
    "a header that is no UTF-8": (crafted(b'{"\xff": 1}'), "utf-8"),
    "a header without end": (crafted(b'{"a":' * 10**5), "recursion"),
    "an entry that is a number": (crafted({"a": 1}), "is declared as 1"),
    "an entry without a shape": (
        crafted({"a": {"dtype": "F32", "data_offsets": [0, 16]}}, bytes(16)),
        "is declared as",
    ),
    "a negative side": (one(shape=[-4]), "is declared as"),
    "sides whose product is right": (one(shape=[-2, -2]), "is declared as"),
    "a side of 2^63": (one(shape=[2**63]), "is declared as"),
    "a side of 5000 digits": (
        crafted(json.dumps({"a": FOUR}).replace("[4]", f"[{'9' * 5000}]").encode(), bytes(16)),
        "",
    ),
    "a side that is true": (one(bytes(4), shape=[True], data_offsets=[0, 4]), "is declared as"),
    "a side that is a fraction": (one(shape=[4.0]), "is declared as"),
    "a side that is NaN": (one(shape=[float("nan")]), "NaN is no number"),
    "forty axes": (one(bytes(4), shape=[1] * 40, data_offsets=[0, 4]), "has 4 bytes"),
    "a shape of too many numbers": (one(shape=[5]), "has 16 bytes, and as F32 [5] would have 20"),
    "negative offsets": (one(data_offsets=[-16, 0]), "is declared as"),
    "offsets the wrong way round": (one(data_offsets=[16, 0]), "has -16 bytes"),
    "three offsets": (one(data_offsets=[0, 8, 16]), "is declared as"),
    "an end behind the file": (one(bytes(8)), "arrays end at byte"),
    "a beginning behind the file": (one(data_offsets=[10**9, 10**9 + 16]), "begins at byte"),
    "bytes that nobody declares": (one(bytes(20)), "arrays end at byte"),
    "a hole": (crafted({"a": FOUR, "b": {**FOUR, "data_offsets": [20, 36]}}, bytes(36)), "b begins at byte"),
    "arrays in one place": (crafted({"a": FOUR, "b": FOUR}, bytes(16)), "b begins at byte"),
    "a name twice": (
        crafted(b'{"a":%s,"\\u0061":%s}' % (2 * (json.dumps(FOUR).encode(),)), bytes(16)),
        "a name stands twice",
    ),
    "half a character as a name": (crafted({"\ud800": FOUR}, bytes(16)), "surrogates not allowed"),
    "metadata that are no text": (crafted({"__metadata__": {"a": 1}, "a": FOUR}, bytes(16)), "text by name"),
    "metadata that are a list": (crafted({"__metadata__": [], "a": FOUR}, bytes(16)), "text by name"),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def initial(path):
    pytest.importorskip("keras")
    from sharpkeras.experiment import weights

    return weights.initial(path)


def checkpoint(path):
    """As a checkpoint whose manifest says that this is what was written."""
    contents = {files.ARRAYS: Path(path).read_bytes(), files.PROGRESS: b"{}", files.METRICS: b""}
    listed = {name: {"bytes": len(text), "sha256": sha256(text)} for name, text in contents.items()}
    contents[files.MANIFEST] = json.dumps({"schema_version": 1, "files": listed}).encode()
    folder = Path("checkpoints", "000001-000000")
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return checkpoints.Checkpoints("checkpoints").load()


@pytest.mark.parametrize("read", [atomic_writes.load_arrays, initial, checkpoint], ids=lambda read: read.__name__)
@pytest.mark.parametrize("name", CRAFTED)
def test_what_was_made_to_do_harm_is_refused(place, name, read):
    content, words = CRAFTED[name]
    Path("a.safetensors").write_bytes(content)
    with pytest.raises(RunError) as caught:
        read(Path("a.safetensors"))
    assert "damaged" in caught.value.problem and words in str(caught.value).replace("\\\\", "\\")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", CRAFTED)
def test_inspect_tells_it(place, name):
    Path("a.safetensors").write_bytes(CRAFTED[name][0])
    result = sharpkeras("inspect", "a.safetensors")
    told = f"{result.code}: {result.err}{result.out}"
    only_unread = "numbers of the type" in CRAFTED[name][1] or name == "a type of control characters"
    assert result.code == (0 if only_unread else 3 if name == "empty" else 5), told
    assert "bug of sharpkeras" not in told and "\x1b" not in told
    assert ("not looked at for NaN" in result.out) == only_unread, told


@pytest.mark.parametrize("length", [0, len(json.dumps({"a": FOUR}))])
def test_a_sparse_file_of_40_gb_is_not_read(place, length):
    """One that declares nothing, and one that declares its 40 GB: the format's own library panics there."""
    header = {"a": {"dtype": "F32", "shape": [HUGE // 4], "data_offsets": [0, HUGE]}} if length else {}
    content = crafted(header)
    Path("a.safetensors").write_bytes(content)
    os.truncate("a.safetensors", len(content) + HUGE)
    for read in (atomic_writes.load_arrays, initial):
        with pytest.raises(RunError, match="damaged"):
            read(Path("a.safetensors"))
    result = sharpkeras("inspect", "a.safetensors")
    assert result.code == 5 and "40,000,000" in result.err


ARRAYS = {
    "stem/kernel": np.arange(6, dtype="float32").reshape(2, 3),
    "flags": np.array([True, False, True]),
    "scalar": np.array(7, dtype="uint32"),
    "empty": np.zeros((0, 4), "float16"),
    "infinite": np.array([np.inf, -np.inf, np.nan, -0.0]),
    **{
        f"{kind}{bits}": np.array([[1, 2], [3, 100]], f"{kind}{bits // 8}") for kind in "iu" for bits in (8, 16, 32, 64)
    },
}


def test_what_the_library_of_the_format_writes_is_read_to_the_bit():
    """An array of one byte each in front of others moves them off the bounds of their numbers."""
    content = safetensors.numpy.save(ARRAYS, {"a": "b"})
    arrays, metadata = atomic_writes.unpack(content)
    theirs = safetensors.numpy.load(content)
    assert metadata == {"a": "b"} and arrays.keys() == theirs.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        expected = ARRAYS[name]
        assert array.dtype == theirs[name].dtype and array.shape == expected.shape
        assert array.tobytes() == theirs[name].tobytes() == expected.tobytes()
        assert array.flags.writeable and array.flags.aligned


def test_no_array_is_taken_for_another():
    header = {
        "b": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "a": {"dtype": "F32", "shape": [1, 2], "data_offsets": [1, 9]},
    }
    arrays, _ = atomic_writes.unpack(crafted(header, b"\x05" + np.array([1.5, -2], "<f4").tobytes()))
    np.testing.assert_array_equal(arrays["a"], [[1.5, -2]])
    assert arrays["b"].tolist() == [5]


def test_the_header_alone_takes_no_memory_for_arrays():
    """What an array would take is known, and checked, before it is made."""
    declared, _ = atomic_writes.header(io.BytesIO(one()))
    assert declared == {"a": atomic_writes.Declared("F32", (4,), len(one()) - 16, len(one()))}


@pytest.mark.parametrize(
    "entry", ["[]", '{"meta": [], "sha256": {}}', '{"meta": {}}', "[" * 10**5, '{"meta": NaN, "sha256": {}}', "{}", "3"]
)
def test_checksums_of_a_stranger(place, entry):
    Path("a.safetensors").write_bytes(safetensors.numpy.save({"a": np.ones(2)}, {atomic_writes.ENTRY: entry}))
    with pytest.raises(RunError, match="damaged"):
        atomic_writes.load_arrays(Path("a.safetensors"))


@pytest.mark.parametrize("selection", [3, [], {"by": 1}, {"by": "last", "epoch": "x"}, {"epoch": 1}, "by"])
def test_what_selected_the_weights_is_checked(place, selection):
    pytest.importorskip("keras")
    from sharpkeras.errors import ConfigError
    from sharpkeras.experiment import weights

    with RunDirectory.open("run", "train", {"seed": 0}) as run:
        run.save_arrays("weights.safetensors", {"a": np.ones(2)}, {"selection": selection})
        with pytest.raises(ConfigError, match="selection"):
            weights.of_run(run)


def test_what_could_not_be_read_again_is_not_written(place, monkeypatch):
    monkeypatch.setattr(atomic_writes, "LARGEST_ARRAYS", atomic_writes.LARGEST_HEADER + 1000)
    atomic_writes.save_arrays(Path("a.safetensors"), {"a": np.ones(100)}, {})
    with pytest.raises(ResourceError, match="too many to be read again"):
        atomic_writes.save_arrays(Path("a.safetensors"), {"a": np.ones(126)}, {})
    assert atomic_writes.load_arrays(Path("a.safetensors"))[0]["a"].shape == (100,)


@pytest.mark.parametrize(
    "arrays",
    [
        {"labels": np.zeros(3, "int32")},
        {"labels": np.zeros(3, "int32"), "classes": np.zeros(3, "int32")},
        {"labels": np.zeros(3, "int32"), "classes": np.zeros((3, 0), "int32")},
        {"labels": np.zeros(3, "int32"), "classes": np.zeros((2, 5), "int32")},
        {"labels": np.array(3, "int32"), "classes": np.zeros((1, 5), "int32")},
    ],
)
def test_answers_of_a_stranger(place, arrays):
    pytest.importorskip("keras")
    from sharpkeras.runs import contents as records

    with RunDirectory.open("run", "train", {"seed": 0}) as run:
        run.save_arrays("predictions.safetensors", arrays, {})
        with pytest.raises(RunError, match="holds no answers"):
            records.answers(run, "predictions.safetensors")
