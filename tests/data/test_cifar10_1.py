"""CIFAR-10.1 from the arrays of its authors, CIFAR-10 from its binary version, and what is refused of both."""

import hashlib
import importlib.resources
import io
import pickle
import sys
import types

import numpy as np
import pytest

from sharpkeras.data import arrays, load
from sharpkeras.errors import DataError, SafetyError

STATISTICS = (0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
COUNTS = {"v4": 2021, "v6": 2000}


def images_and_labels(count):
    generator = np.random.default_rng(count)
    images = generator.integers(0, 256, (count, 32, 32, 3), np.uint8)
    return images, (np.arange(count) % 10).astype(np.int32)


def write(folder, version, images=None, labels=None):
    """The two arrays of a version in its official form, but for what is given."""
    folder.mkdir(parents=True, exist_ok=True)
    made = images_and_labels(COUNTS[version])
    np.save(folder / f"cifar10.1_{version}_data.npy", made[0] if images is None else images)
    np.save(folder / f"cifar10.1_{version}_labels.npy", made[1] if labels is None else labels)
    return folder


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A folder with both versions; for reading only."""
    folder = tmp_path_factory.mktemp("official")
    return write(write(folder, "v4"), "v6")


@pytest.mark.parametrize("name, version", [("cifar10.1", "v6"), ("cifar10.1-v6", "v6"), ("cifar10.1-v4", "v4")])
def test_the_arrays_of_a_version(official, name, version):
    test = load(f"{name}:{official}", "test")
    images, labels = images_and_labels(COUNTS[version])
    np.testing.assert_array_equal(test.images, images)
    np.testing.assert_array_equal(test.labels, labels)
    assert test.labels.dtype == np.int64 and test.class_names == CLASSES and test.flip
    assert (test.mean, test.deviation) == STATISTICS


@pytest.mark.parametrize("dtype", ["u1", ">i8", "<i4"])
def test_labels_may_be_any_integers(tmp_path, dtype):
    write(tmp_path, "v6", labels=(np.arange(2000) % 10).astype(dtype))
    assert load(f"cifar10.1:{tmp_path}", "test").labels[:12].tolist() == [*range(10), 0, 1]


def test_limit_and_size_of_the_arrays(official):
    test = load(f"cifar10.1:{official}", "test", limit=30, image_size=16)
    assert test.images.shape == (30, 16, 16, 3) and np.bincount(test.labels).tolist() == [3] * 10
    assert (test.mean, test.deviation) == STATISTICS  # there is no training split to measure at this size
    assert len(load(f"cifar10.1:{official}", "test", limit=30, channels=1).mean) == 1


def test_there_is_nothing_to_train_on(official):
    with pytest.raises(DataError, match="has test images only.*\n.*\n.*\n.*`dataset=cifar10`"):
        load(f"cifar10.1:{official}", "train")


def test_other_bytes_than_the_published_are_noted(official, monkeypatch):
    names = ("cifar10.1_v6_data.npy", "cifar10.1_v6_labels.npy")
    (note,) = load(f"cifar10.1:{official}", "test").notes
    assert all(name in note for name in names) and "not comparable" in note
    for name in names:
        digest = hashlib.sha256((official / name).read_bytes()).hexdigest()
        monkeypatch.setitem(arrays.CIFAR10_1_SHA256, name, digest)
    assert load(f"cifar10.1:{official}", "test").notes == ()


def test_the_checksums_are_those_of_tensorflow_datasets():
    package = pytest.importorskip("importlib.util").find_spec("tensorflow_datasets")
    if package is None:
        pytest.skip("tensorflow_datasets is not installed")
    lines = (importlib.resources.files("tensorflow_datasets") / "url_checksums" / "cifar10_1.txt").read_text()
    known = {name: digest for _, _, digest, name in (line.split("\t") for line in lines.splitlines())}
    assert known == arrays.CIFAR10_1_SHA256


# ---- what is refused


def object_array():
    return np.array([{"code": 1}], object)


def refused(folder, name="cifar10.1", error=DataError):
    """The message with which a folder is refused, nothing of it having been loaded."""
    with pytest.raises(error) as caught:
        load(f"{name}:{folder}", "test")
    assert type(caught.value) is error
    return str(caught.value)


WRONG_IMAGES = {
    "1999": (np.zeros((1999, 32, 32, 3), np.uint8), "allowed: uint8 (2000, 32, 32, 3)"),
    "channels first": (np.zeros((2000, 3, 32, 32), np.uint8), "(2000, 3, 32, 32)"),
    "float": (np.zeros((2000, 32, 32, 3), np.float32), "float32"),
    "bool": (np.zeros((2000, 32, 32, 3), bool), "bool"),
    "no images": (np.zeros((0, 32, 32, 3), np.uint8), "(0, 32, 32, 3)"),
}
WRONG_LABELS = {
    "count": (np.zeros(1999, np.int32), "(1999,)"),
    "float": (np.zeros(2000), "float64"),
    "one-hot": (np.zeros((2000, 10), np.int32), "(2000, 10)"),
    "ten": (np.full(2000, 10, np.int32), "labels from 10 to 10"),
    "negative": (np.full(2000, -1, np.int32), "labels from -1 to -1"),
}


@pytest.mark.parametrize("wrong", WRONG_IMAGES)
def test_wrong_images(tmp_path, wrong):
    images, seen = WRONG_IMAGES[wrong]
    message = refused(write(tmp_path, "v6", images=images))
    assert seen in message and "cifar10.1_v6_data.npy" in message


@pytest.mark.parametrize("wrong", WRONG_LABELS)
def test_wrong_labels(tmp_path, wrong):
    labels, seen = WRONG_LABELS[wrong]
    message = refused(write(tmp_path, "v6", labels=labels))
    assert seen in message and "cifar10.1_v6_labels.npy" in message


def test_nothing_is_unpickled(tmp_path):
    path = write(tmp_path, "v6") / "cifar10.1_v6_data.npy"
    np.save(path, object_array(), allow_pickle=True)
    assert "Python objects" in refused(tmp_path, error=SafetyError)
    path.write_bytes(pickle.dumps([1]))
    assert "is a pickle" in refused(tmp_path, error=SafetyError)


def test_files_that_are_no_arrays(tmp_path):
    path = write(tmp_path, "v6") / "cifar10.1_v6_data.npy"
    archive = io.BytesIO()
    np.savez(archive, x=np.zeros(3))
    broken_headers = [b"\x93NUMPY\x01\x00\x10\x00{'descr': '|u1'}", b"\x93NUMPY\x09\x00"]
    for content in (b"", b"text", archive.getvalue(), *broken_headers):
        path.write_bytes(content)
        assert "is no array in NumPy's format" in refused(tmp_path)


def header(shape, dtype="|u1"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize("shape", [(10**15, 32, 32, 3), (2000, 32, 32, 3)], ids=["bomb", "cut off"])
def test_the_header_is_checked_before_anything_is_read(tmp_path, monkeypatch, shape):
    (write(tmp_path, "v6") / "cifar10.1_v6_data.npy").write_bytes(header(shape) + b"x" * 100)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("read"))
    assert "in 100 bytes" in refused(tmp_path)


def test_the_other_version(tmp_path):
    write(tmp_path, "v6")
    message = refused(tmp_path, "cifar10.1-v4")
    assert "CIFAR-10.1 v4 was asked for, and this is v6" in message
    assert f"`dataset=cifar10.1-v6:{tmp_path}" in message
    write(tmp_path, "v4", *images_and_labels(2000))
    message = refused(tmp_path, "cifar10.1-v4")
    assert "holds 2,000 images, which is v6 of CIFAR-10.1 and not v4" in message and "(2021, 32, 32, 3)" in message


def test_arrays_that_are_not_there(tmp_path):
    assert "seen:    no such folder" in refused(tmp_path / "nothing")
    (write(tmp_path, "v6") / "cifar10.1_v6_labels.npy").unlink()
    message = refused(tmp_path)
    assert "no cifar10.1_v6_labels.npy\n" in message and "git clone" in message and "`download`" in message


# ---- through TensorFlow Datasets


@pytest.fixture
def tfds(monkeypatch):
    """Stands in for TensorFlow Datasets with CIFAR-10.1 prepared or not; names the builders that were asked for."""
    state = types.SimpleNamespace(prepared=True, asked=[])

    def builder(name):
        state.asked.append(name)
        images, labels = images_and_labels(COUNTS[name[-2:]])
        return types.SimpleNamespace(
            name="cifar10_1",
            data_dir="/nowhere",
            is_prepared=lambda: state.prepared,
            as_dataset=lambda split, batch_size, shuffle_files: {"image": images, "label": labels.astype(np.int64)},
        )

    fake = types.SimpleNamespace(builder=builder, as_numpy=lambda examples: examples)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    return state


@pytest.mark.parametrize("name, version", [("cifar10.1", "v6"), ("cifar10.1-v6", "v6"), ("cifar10.1-v4", "v4")])
def test_versions_of_tensorflow_datasets(tfds, name, version):
    test = load(name, "test")
    assert tfds.asked == [f"cifar10_1/{version}"] and len(test.images) == COUNTS[version]
    assert test.class_names == CLASSES and (test.mean, test.deviation) == STATISTICS and test.notes == ()
    with pytest.raises(DataError, match="has test images only"):
        load(name, "train")


def test_not_prepared_says_both_ways(tfds):
    tfds.prepared = False
    with pytest.raises(DataError, match="`download`, or read the original files: `dataset=cifar10.1-v4:DIR`"):
        load("cifar10.1-v4", "test")


# ---- the binary version of CIFAR-10


@pytest.fixture
def binary(tmp_path, monkeypatch):
    """The binary version with three images a file; their labels count up, their planes are 10, 20 and 30 above."""
    monkeypatch.setattr(arrays, "IMAGES_PER_FILE", 3)
    names = (*arrays.CIFAR10_FILES["train"], *arrays.CIFAR10_FILES["test"])
    for start, name in zip(range(0, 18, 3), names):
        records = np.zeros((3, 3073), np.uint8)
        records[:, 0] = np.arange(start, start + 3) % 10
        for plane in range(3):
            records[:, 1 + plane * 1024 : 1 + (plane + 1) * 1024] = records[:, :1] + 10 * (plane + 1)
        records[:, 2] = 99  # the second pixel of the first row, red
        records.tofile(tmp_path / name)
    return tmp_path


def test_binary_files(binary):
    train, test = load(f"cifar10:{binary}", "train"), load(f"cifar10:{binary}", "test")
    assert train.images.shape == (15, 32, 32, 3) and test.images.shape == (3, 32, 32, 3)
    assert train.labels.tolist() == [*range(10), *range(5)] and test.labels.tolist() == [5, 6, 7]
    assert train.images[4, 3, 5].tolist() == [14, 24, 34] and train.images[4, 0, 1].tolist() == [99, 24, 34]
    assert train.class_names == CLASSES and (train.mean, train.deviation) == STATISTICS
    assert train.images.flags["C_CONTIGUOUS"] and train.flip


def test_binary_files_that_are_missing_or_wrong(binary):
    (binary / "data_batch_3.bin").unlink()
    assert "no data_batch_3.bin\n" in refused_training(binary)
    (binary / "data_batch_3.bin").write_bytes(b"\0" * 3073)
    message = refused_training(binary)
    assert "3,073 bytes" in message and "9,219 bytes" in message and "data_batch_3.bin" in message
    (binary / "data_batch_3.bin").write_bytes(b"\x0a" * 3 * 3073)
    assert "labels from 10 to 10" in refused_training(binary)
    assert len(load(f"cifar10:{binary}", "test").images) == 3


def refused_training(folder, error=DataError):
    with pytest.raises(error) as caught:
        load(f"cifar10:{folder}", "train")
    return str(caught.value)


def test_the_pickled_version_is_refused(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": 1}))
    message = refused_training(tmp_path, SafetyError)
    assert "pickles" in message and "cifar-10-binary.tar.gz" in message
    assert "no such folder" in refused_training(tmp_path / "nothing")
