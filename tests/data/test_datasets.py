"""Datasets, streams and augmentation; every image is made here."""

import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest

from sharpkeras.data import DATASETS, Dataset, batches, datasets, load
from sharpkeras.data.dataset import limited
from sharpkeras.errors import DataError, UsageError

MEAN, DEVIATION = (0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)
PINNED_SPLIT, PINNED_ORDER = [2, 5, 8, 12, 13, 15], [21, 36, 30, 31, 19, 47]
# Draws whose crop, flip and cutout lie at both ends of their ranges, besides random ones.
EXTREMES = [[0, 0, 0, 0, 0], [0.9999999, 0.9999999, 0.9999999, 0.9999999, 0.9999999], [0.5, 0, 0.499, 0, 0.9999999]]


def small_dataset(labels, name="made-up"):
    labels = np.array(labels, np.int64)
    images = np.arange(len(labels) * 4, dtype=np.uint8).reshape(-1, 2, 2, 1)
    return Dataset(name, images, labels, ("a", "b", "c"), (0.5,), (0.5,), True)


# ---- datasets


def test_digits_are_split_by_index():
    train, test = load("digits", "train"), load("digits", "test")
    assert train.images.shape == (1438, 8, 8, 1) and test.images.shape == (359, 8, 8, 1)
    assert train.images.dtype == np.uint8 and train.images.max() == 255 and train.labels.dtype == np.int64
    assert train.class_names == tuple("0123456789") and not train.flip
    from sklearn.datasets import load_digits

    np.testing.assert_array_equal(test.labels, load_digits().target[4::5])


def test_digits_constants_are_those_of_the_training_split():
    train = load("digits", "train")
    np.testing.assert_allclose(train.mean, (train.images / 255).mean(), atol=1e-7)
    np.testing.assert_allclose(train.deviation, (train.images / 255).std(), atol=1e-7)
    assert load("digits", "test").mean == train.mean


def test_measure_equals_numpy():
    images = np.random.default_rng(0).integers(0, 256, (1001, 3, 5, 3), np.uint8)
    mean, deviation = datasets.measure(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(deviation, (images / 255).std((0, 1, 2)), rtol=1e-12)
    assert datasets.measure(np.zeros((2, 2, 2, 1), np.uint8))[1] == (1 / 255,)


def test_limit_is_balanced_and_nested():
    small, large = load("digits", "train", limit=50), load("digits", "train", limit=300)
    np.testing.assert_array_equal(np.bincount(small.labels), [5] * 10)
    assert len(large.images) == 300 and "300 of 1,438" in large.notes[0]
    rows = {image.tobytes() for image in large.images}
    assert all(image.tobytes() in rows for image in small.images)
    assert len(load("digits", "train", limit=10**6).images) == 1438


def test_a_limit_says_what_it_leaves():
    (few,), (all_classes,) = (load("digits", "train", limit=limit).notes for limit in (3, 25))
    assert few == "took 3 of 1,438 images, of 3 of the 10 classes: there is none of 3, 4, 5, 6, 7, …"
    assert all_classes == "took 25 of 1,438 images, balanced over the classes"
    labels = np.array([0] * 100 + [1] * 2)
    chosen, (note,) = limited(labels, 10, ("a", "b"))
    assert np.bincount(labels[chosen]).tolist() == [8, 2]
    assert note == "took 10 of 102 images, as equal over the classes as they allow: 2 to 8 of each"
    assert limited(labels, 102, ("a", "b")) == (slice(None), ())
    assert "balanced" in limited(labels, 4, ("a", "b", "of which there is none"))[1][0]


def test_size_and_channels_of_array_datasets():
    train = load("digits", "train", image_size=12, channels=3, limit=20)
    assert train.images.shape == (20, 12, 12, 3) and len(train.mean) == 3
    np.testing.assert_array_equal(train.images[..., 0], train.images[..., 2])
    assert load("digits", "test", image_size=12, limit=20).mean == load("digits", "train", image_size=12, limit=20).mean


def test_statistics_of_a_run_are_kept():
    test = load("digits", "test", statistics=([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]), limit=10)
    assert test.mean == (0.1, 0.2, 0.3) and test.deviation == (0.4, 0.5, 0.6) and test.images.shape[-1] == 3


def test_fingerprint_sees_images_labels_and_names():
    base = small_dataset([0, 1, 2])
    assert len(base.fingerprint) == 64 and base.fingerprint == small_dataset([0, 1, 2], "other name").fingerprint
    renamed = Dataset("made-up", base.images, base.labels, ("a", "b", "d"), (0.5,), (0.5,), True)
    brighter = Dataset("made-up", base.images + 1, base.labels, base.class_names, (0.5,), (0.5,), True)
    others = [small_dataset([0, 2, 1]), renamed, brighter]
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 4


@pytest.mark.parametrize("spec", ["digit", "digits:x", "folder", "folder:", "", "cifar-10"])
def test_unknown_spec_lists_the_known(spec):
    with pytest.raises(UsageError) as caught:
        load(spec, "train")
    assert all(name in caught.value.allowed for name in DATASETS)


def test_unknown_spec_suggests(tmp_path):
    with pytest.raises(UsageError, match="next: +`dataset=digits`"):
        load("digit", "train")
    with pytest.raises(UsageError, match="next: +`dataset=folder:/"):
        load(str(tmp_path), "train")


@pytest.mark.parametrize("wrong", [{"split": "validation"}, {"channels": 2}, {"image_size": 0}, {"limit": 0}])
def test_wrong_options(wrong):
    with pytest.raises(UsageError):
        load(**{"spec": "digits", "split": "train", **wrong})


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        load("digits", "train")


class FakeBuilder:
    """Stands in for TFDS's CIFAR-10 builder, whose files are in an order of their own."""

    name, data_dir = "cifar10", "/nowhere/cifar10/3.0.2"
    info = types.SimpleNamespace(features={"label": types.SimpleNamespace(names=["airplane", "automobile"])})

    def __init__(self, prepared, failure=None):
        self.prepared, self.failure, self.config = prepared, failure, None

    def is_prepared(self):
        return self.prepared

    def download_and_prepare(self, download_config):
        self.config = download_config
        if self.failure:
            raise self.failure

    def as_dataset(self, split, batch_size, shuffle_files):
        images = np.zeros((3, 32, 32, 3), np.uint8) + np.array([2, 0, 1], np.uint8)[:, None, None, None]
        return {"id": np.array([b"train_2", b"train_0", b"train_1"]), "image": images, "label": np.array([1, 0, 1])}


@pytest.fixture
def fake_cifar10(monkeypatch):
    def install(builder):
        download = types.SimpleNamespace(DownloadConfig=lambda **settings: settings)
        fake = types.SimpleNamespace(builder=lambda name: builder, as_numpy=lambda x: x, download=download)
        monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
        return builder

    return install


def test_cifar10_is_never_downloaded_unasked(fake_cifar10):
    builder = fake_cifar10(FakeBuilder(prepared=False))
    with pytest.raises(DataError, match="`download`"):
        load("cifar10", "train")
    assert builder.config is None


def test_cifar10_is_downloaded_with_checksums(fake_cifar10):
    builder = fake_cifar10(FakeBuilder(prepared=False))
    train = load("cifar10", "train", download=True)
    assert builder.config["force_checksums_validation"] is True
    assert train.images[:, 0, 0, 0].tolist() == [0, 1, 2] and train.labels.tolist() == [0, 1, 1]
    assert (train.mean, train.deviation) == (MEAN, DEVIATION) and train.flip


def test_cifar10_failed_download_is_a_data_error(fake_cifar10):
    fake_cifar10(FakeBuilder(prepared=False, failure=RuntimeError("checksum aa, expected bb")))
    with pytest.raises(DataError, match="checksum aa, expected bb"):
        load("cifar10", "train", download=True)


def test_prepared_cifar10_needs_no_flag(fake_cifar10):
    fake_cifar10(FakeBuilder(prepared=True))
    assert load("cifar10", "train").class_names == ("airplane", "automobile")


# ---- streams


def test_search_split_is_fixed_and_mixes_classes():
    train, validation = batches.search_split(1000, 0.5)
    assert sorted([*train, *validation]) == list(range(1000)) and len(train) == 500
    assert np.array_equal(train, batches.search_split(1000, 0.5)[0])
    assert train[:6].tolist() == PINNED_SPLIT  # a run resumed under another NumPy would otherwise train on validation
    sorted_labels = np.arange(1000) // 100
    assert np.bincount(sorted_labels[train], minlength=10).min() > 30


@pytest.mark.parametrize("portion", [0, 1, 1.5, -0.1, float("nan")])
def test_search_split_refuses_portions(portion):
    with pytest.raises(UsageError):
        batches.search_split(10, portion)


def test_search_split_refuses_halves_below_a_batch():
    with pytest.raises(DataError, match="fewer images than one batch of 4"):
        batches.search_split(10, 0.7, batch_size=4)
    batches.search_split(10, 0.6, batch_size=4)


def test_orders_differ_by_seed_epoch_and_stream():
    orders = [batches.epoch_order(50, *key).tolist() for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len(set(map(tuple, orders))) == 4
    assert orders[0] == batches.epoch_order(50, 0, 0).tolist() and orders[0][:6] == PINNED_ORDER


def epoch(n=10, batch_size=4, seed=3, epoch=1, indices=None, **options):
    images = np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1)
    indices = np.arange(n) if indices is None else indices
    return list(batches.batches(images, np.arange(n) % 3, indices, batch_size, seed, epoch, **options))


def test_batches_cover_an_epoch():
    found = epoch(drop_remainder=False, draws=5)
    assert sorted(np.concatenate([images.ravel() for images, _, _ in found])) == list(range(10))
    assert [len(images) for images, _, _ in found] == [4, 4, 2] and len(epoch()) == 2
    images, labels, draws = found[0]
    assert images.dtype == np.uint8 and labels.dtype == np.int32 and draws.dtype == np.float32
    np.testing.assert_array_equal(labels, images.ravel() % 3)
    assert draws.shape == (4, 5) and draws.min() >= 0 and draws.max() < 1


def test_draws_belong_to_the_example():
    def draws_by_example(**options):
        found = epoch(draws=2, **options)
        return {int(i): tuple(row) for images, _, draws in found for i, row in zip(images.ravel(), draws)}

    whole = draws_by_example(drop_remainder=False)
    part = draws_by_example(batch_size=2, indices=np.array([7, 2, 5]), drop_remainder=False)
    assert len(set(whole.values())) == 10
    assert part == {i: whole[i] for i in (7, 2, 5)}
    assert draws_by_example(epoch=2, drop_remainder=False)[0] != whole[0]


def test_a_resumed_epoch_goes_on():
    whole, rest = epoch(n=20, draws=1), epoch(n=20, draws=1, first_batch=2)
    assert len(whole) == 5 and len(rest) == 3
    for expected, found in zip(whole[2:], rest):
        for a, b in zip(expected, found):
            np.testing.assert_array_equal(a, b)


def test_too_few_for_a_batch():
    with pytest.raises(DataError, match="fewer images than one batch of 4"):
        epoch(n=3)
    with pytest.raises(DataError):
        next(batches.endless(np.zeros((3, 1, 1, 1)), np.zeros(3), np.arange(3), 4, seed=0))


def take(n, **options):
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    stream = batches.endless(images, np.zeros(10), np.arange(10), 3, seed=5, draws=2, **options)
    return [next(stream) for _ in range(n)]


def test_endless_changes_and_is_a_function_of_the_step():
    whole = take(12)
    assert len({images.tobytes() for images, _, _ in whole}) > 10  # 4 epochs of 3 batches
    assert len(np.unique(np.concatenate([images for images, _, _ in whole[:3]]))) == 9
    for step in (0, 2, 3, 7):
        for expected, found in zip(whole[step:], take(4, first_step=step)):
            np.testing.assert_array_equal(expected[0], found[0])
            np.testing.assert_array_equal(expected[2], found[2])


def test_evaluation_batches_are_padded():
    images, labels = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1), np.arange(10)
    found = list(batches.evaluation_batches(images, labels, 4))
    assert [valid for _, _, valid in found] == [4, 4, 2] and all(x.shape == (4, 1, 1, 1) for x, _, _ in found)
    kept = [label for _, labels, valid in found for label in labels[:valid]]
    assert kept == list(range(10))
    assert [y.tolist() for _, y, _ in batches.evaluation_batches(images, labels, 2, [9, 4, 5])] == [[9, 4], [5, 5]]
    with pytest.raises(DataError):
        next(batches.evaluation_batches(images, labels, 4, []))


def test_check_gives_counts():
    batches.check(small_dataset([0, 1, 1]), 3)
    with pytest.raises(DataError, match="fewer than one batch of 4") as caught:
        batches.check(small_dataset([0, 1, 1]), 4)
    assert "a: 1, b: 2, c: 0" in str(caught.value)
    with pytest.raises(DataError, match="fewer than two classes"):
        batches.check(small_dataset([1, 1, 1, 1]), 2)


# ---- augmentation


def brute_force(image, draws, mean, deviation, crop_padding_px=4, flip=True, cutout_px=16):
    """torchvision's RandomCrop(padding), RandomHorizontalFlip, ToTensor, Normalize, and the official Cutout."""
    size, pad, half = image.shape[0], crop_padding_px, cutout_px // 2
    top, left = int(draws[0] * (2 * pad + 1)), int(draws[1] * (2 * pad + 1))
    image = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))[top : top + size, left : left + size]
    if flip and draws[2] < 0.5:
        image = image[:, ::-1]
    image = (image / 255 - np.array(mean)) / np.array(deviation)
    y, x = int(draws[3] * size), int(draws[4] * size)
    image[max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
    return image


VARIANTS = [
    {},
    {"flip": False, "crop_padding_px": 0},
    {"crop_padding_px": 0},
    {"crop_padding_px": 1, "cutout_px": 7},
    {"cutout_px": 0},
]


def augmentation_input():
    images = np.random.default_rng(0).integers(0, 256, (20, 20, 20, 3), np.uint8)
    draws = np.random.default_rng(1).random((20, 5), dtype=np.float32)
    draws[: len(EXTREMES)] = EXTREMES
    return images, draws


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_augment_equals_brute_force(options):
    from keras import ops

    from sharpkeras.data.augment import augment

    images, draws = augmentation_input()
    expected = np.stack([brute_force(*pair, MEAN, DEVIATION, **options) for pair in zip(images, draws)])
    found = ops.convert_to_numpy(augment(images, draws, MEAN, DEVIATION, **options))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_augment_with_an_unknown_batch_size():
    import keras

    if keras.config.backend() != "tensorflow":
        pytest.skip("tf.function")
    import tensorflow as tf

    from sharpkeras.data.augment import NUM_DRAWS, augment

    images, draws = augmentation_input()
    shapes = [tf.TensorSpec((None, 20, 20, 3), tf.uint8), tf.TensorSpec((None, NUM_DRAWS), tf.float32)]
    draws = np.pad(draws, ((0, 0), (0, NUM_DRAWS - draws.shape[1])))
    graph = tf.function(lambda x, u: augment(x, u, MEAN, DEVIATION), input_signature=shapes)
    assert graph.get_concrete_function().output_shapes.as_list() == [None, 20, 20, 3]
    np.testing.assert_allclose(graph(images, draws), augment(images, draws, MEAN, DEVIATION), atol=1e-6)
    compiled = tf.function(lambda x, u: augment(x, u, MEAN, DEVIATION), jit_compile=True)
    np.testing.assert_allclose(compiled(images, draws), augment(images, draws, MEAN, DEVIATION), atol=1e-6)


def test_the_crop_pads_with_black_and_not_with_the_mean():
    from sharpkeras.data.augment import augment

    white, draws = np.full((1, 8, 8, 1), 255, np.uint8), np.array([[0, 0, 0.9, 0, 0]], np.float32)
    found = np.asarray(augment(white, draws, (0.5,), (0.25,), cutout_px=0))[0, :, :, 0]
    assert (found[:4] == -2).all() and (found[4:, 4:] == 2).all()


def test_normalize_keeps_the_asked_dtype():
    from keras import backend

    from sharpkeras.data.augment import normalize

    found = normalize(np.zeros((1, 2, 2, 3), np.uint8), MEAN, DEVIATION, "bfloat16")
    assert backend.standardize_dtype(found.dtype) == "bfloat16"


@pytest.mark.parametrize("cutout_px", [64, -1])
def test_cutout_larger_than_the_image(cutout_px):
    from sharpkeras.data.augment import augment

    with pytest.raises(UsageError, match="cutout_px"):
        augment(np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 5), np.float32), MEAN, DEVIATION, cutout_px=cutout_px)


JAX_HALF = """
import json, sys
import jax
import numpy as np
from sharpkeras.data import load, streams
from sharpkeras.data.augment import augment
stored = np.load(sys.argv[1])
for k, options in enumerate(json.loads(sys.argv[2])):
    step = jax.jit(lambda x, u: augment(x, u, stored["mean"], stored["deviation"], **options))
    np.testing.assert_allclose(step(stored["images"], stored["draws"]), stored[f"expected{k}"], atol=2e-6)
digits = load("digits", "train", limit=20)
next(streams.batches(digits.images, digits.labels, np.arange(20), 4, 0, 0, draws=5))
assert "tensorflow" not in sys.modules
print("equal")
"""


def test_jax_gives_the_same_images_without_tensorflow(tmp_path):
    pytest.importorskip("jax")
    images, draws = augmentation_input()
    expected = {
        f"expected{k}": np.stack([brute_force(*pair, MEAN, DEVIATION, **options) for pair in zip(images, draws)])
        for k, options in enumerate(VARIANTS)
    }
    np.savez(tmp_path / "in.npz", images=images, draws=draws, mean=MEAN, deviation=DEVIATION, **expected)
    command = [sys.executable, "-c", JAX_HALF, str(tmp_path / "in.npz"), json.dumps(VARIANTS)]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "equal", done.stderr


def test_loading_needs_neither_keras_nor_a_framework():
    code = "import sharpkeras.data, sys; assert not {'keras', 'tensorflow', 'jax', 'sklearn'} & set(sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
