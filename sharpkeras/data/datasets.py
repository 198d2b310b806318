"""DATASETS, one row each, and `load`, which makes a Dataset of a spec such as `digits` or `folder:PATH`."""

import difflib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from PIL import Image

from sharpkeras.data.folder import read_folder
from sharpkeras.data.images import fit
from sharpkeras.data.streams import balanced_subset
from sharpkeras.errors import DataError, UsageError, printable


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a dataset, in memory.

    Args:
        name: the spec that it was loaded by.
        images: uint8 (N, H, W, C).
        labels: int64 (N,), indices into `class_names`.
        class_names: one for each class.
        mean, deviation: C numbers each on the scale 0..1, of the training split, also where this is the test split.
        flip: whether a mirrored image is still one of its class.
        notes: what was ignored or converted, one line each.
        skipped_files: broken files that were left out, as paths from the dataset's folder.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple
    mean: tuple
    deviation: tuple
    flip: bool
    notes: tuple = ()
    skipped_files: tuple = ()

    @cached_property
    def fingerprint(self):
        """SHA-256, in hex, over the images with their shape, the labels and the class names."""
        digest = hashlib.sha256(repr((self.images.shape, self.class_names)).encode())
        digest.update(np.ascontiguousarray(self.images))
        digest.update(self.labels.astype("<i8"))
        return digest.hexdigest()


class Options(NamedTuple):
    """What `load` was asked for, for the loaders."""

    image_size: int | None
    channels: int | None
    limit: int | None
    skip_bad_images: bool
    follow_symlinks: bool
    download: bool


class Source(NamedTuple):
    """What a loader returns; the fields are those of Dataset."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple
    notes: tuple = ()
    skipped_files: tuple = ()


@dataclass(frozen=True)
class Row:
    """A dataset that `load` knows.

    Args:
        loader: (path, split, options) → Source.
        description: one line.
        how_to_get: what to do when it is not there, one line.
        flip: whether images may be mirrored.
        statistics: (mean, deviation) of the training split, None to measure them.
        path: whether the spec goes on with `:PATH`.
    """

    loader: Callable
    description: str
    how_to_get: str
    flip: bool
    statistics: tuple | None = None
    path: bool = False


def load_digits(_, split, options):
    """The 1,797 real handwritten digits of 8x8 pixels that scikit-learn carries; every fifth is for the test."""
    from sklearn.datasets import load_digits as sklearn_digits

    digits = sklearn_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # from 0..16
    chosen = (np.arange(len(images)) % 5 == 4) == (split == "test")
    class_names = tuple(str(digit) for digit in digits.target_names)
    return _adapt(images[chosen], digits.target[chosen], class_names, options)


def load_class_folders(path, split, options):
    """Images of one's own; see `folder.LAYOUT`."""
    settings = options._asdict()
    del settings["download"]
    return Source(*read_folder(path, split, **settings))


def load_cifar10(_, split, options):
    """CIFAR-10 by TensorFlow Datasets, in the order of the original files."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        tf.config.set_visible_devices([], "GPU")  # TensorFlow would take the memory that the backend needs
    builder = tfds.builder("cifar10")
    if not builder.is_prepared():
        _prepare(builder, options.download)
    examples = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1, shuffle_files=False))
    order = np.argsort(examples["id"])
    labels = examples["label"][order].astype(np.int64)
    return _adapt(examples["image"][order], labels, tuple(builder.info.features["label"].names), options)


def _prepare(builder, download):
    """Downloads and checks a TFDS dataset, if allowed."""
    import tensorflow_datasets as tfds

    if not download:
        raise DataError(
            f"{builder.name} is not prepared",
            where=printable(str(builder.data_dir)),
            next_step=f"run again with --download, or use {builder.name} as class folders: folder:PATH",
        )
    config = tfds.download.DownloadConfig(force_checksums_validation=True, try_download_gcs=False)
    try:
        builder.download_and_prepare(download_config=config)
    except Exception as error:  # no network, a wrong checksum, a full disk: each its own class, none documented
        raise DataError(
            f"{builder.name} could not be downloaded and prepared",
            where=printable(str(builder.data_dir)),
            seen=printable(f"{type(error).__name__}: {error}", 600),
            next_step="check the network and the free disk space, and run again with --download",
        ) from error


DATASETS = {
    "digits": Row(
        loader=load_digits,
        description="1,797 real handwritten digits, 8x8, gray, 10 classes: runs in minutes on a CPU",
        how_to_get="comes with scikit-learn: pip install scikit-learn",
        flip=False,
        statistics=((0.30585521,), (0.37627913,)),
    ),
    "folder": Row(
        loader=load_class_folders,
        description="your own images as folder:PATH, one folder for each class",
        how_to_get="put images into PATH/train/CLASS/ and PATH/test/CLASS/",
        flip=True,
        path=True,
    ),
    "cifar10": Row(
        loader=load_cifar10,
        description="CIFAR-10, 60,000 photographs, 32x32, RGB, 10 classes (paper, Table 2)",
        how_to_get="pip install tensorflow-datasets importlib_resources, then run with --download (162 MB)",
        flip=True,
        statistics=((0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)),
    ),
}


def load(
    spec,
    split,
    *,
    image_size=None,
    channels=None,
    limit=None,
    skip_bad_images=False,
    follow_symlinks=False,
    download=False,
    statistics=None,
):
    """A split of a dataset, in memory.

    Args:
        spec: a name in DATASETS; `folder` goes on with `:PATH`.
        split: "train" or "test".
        image_size: pixels; the short side is resized to it and the centre cropped. None keeps the size.
        channels: 1 or 3; None takes what the images have.
        limit: number of images, the same ones each time and balanced over the classes; None for all.
        skip_bad_images: whether files that can not be read are left out.
        follow_symlinks: whether links that lead out of a folder are followed.
        download: whether the network may be used.
        statistics: (mean, deviation) of the training split where they are known, as those of a run that trained on
            it. Without, they are measured, for which the test split of a folder reads the training split too.

    Raises:
        UsageError: an unknown spec, split or option.
        DataError: missing, broken or unfitting data.
        ResourceError: the images do not fit into the memory.
    """
    row, path = _find(spec)
    _require("split", split, ("train", "test"))
    _require("--channels", channels, (None, 1, 3))
    if image_size is not None and image_size < 1:
        raise UsageError("images need a size", where="--image-size", seen=image_size, allowed="1 or more")
    options = Options(image_size, channels, limit, skip_bad_images, follow_symlinks, download)
    try:
        return _load(row, spec, path, split, options, statistics)
    except ImportError as error:
        raise DataError(f"{spec} needs {error.name}", seen=str(error), next_step=row.how_to_get) from error
    except OSError as error:
        raise DataError(f"{printable(spec)} can not be read", seen=str(error), next_step=row.how_to_get) from error


def measure(images):
    """Mean and deviation of each channel on the scale 0..1, exact, as two tuples.

    Args:
        images: uint8 (N, H, W, C).
    """
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(images), 1000):  # in parts, since bincount widens its input to 8 bytes
        for channel, pixels in enumerate(np.moveaxis(images[start : start + 1000], -1, 0)):
            counts[channel] += np.bincount(pixels.ravel(), minlength=256)
    shares = counts / counts.sum(axis=1, keepdims=True)  # (C, 256)
    levels = np.arange(256) / 255
    mean = shares @ levels
    deviation = np.sqrt((shares * (levels - mean[:, None]) ** 2).sum(axis=1))
    return tuple(mean.tolist()), tuple(np.maximum(deviation, 1 / 255).tolist())  # never 0: images of one colour


def _find(spec):
    """The row of a spec, and its path."""
    name, colon, path = spec.partition(":")
    row = DATASETS.get(name)
    if row and bool(path) == row.path and bool(colon) == row.path:
        return row, path
    specs = [f"{name}:PATH" if row.path else name for name, row in DATASETS.items()]
    near = difflib.get_close_matches(name, DATASETS, 1)
    guess = next((known for known in specs if near and known.partition(":")[0] == near[0]), specs[0])
    raise UsageError(
        "unknown dataset",
        where="--dataset",
        seen=spec,
        allowed=", ".join(specs),
        next_step=f"--dataset {'folder:' + printable(spec) if os.path.isdir(spec) else guess}",
    )


def _require(where, value, allowed):
    if value not in allowed:
        raise UsageError("unknown value", where=where, seen=value, allowed=", ".join(map(str, allowed)))


def _load(row, spec, path, split, options, statistics):
    if statistics is not None and options.channels is None:
        options = options._replace(channels=len(statistics[0]))
    if statistics is None and row.statistics and options.image_size is None and options.channels is None:
        statistics = row.statistics
    train = None
    if statistics is None and split == "test":
        train = _load(row, spec, path, "train", options, None)
        statistics = train.mean, train.deviation
        options = options._replace(channels=train.images.shape[-1])
    source = row.loader(path, split, options)
    if train is not None and source.images.shape[1:] != train.images.shape[1:]:
        raise DataError(
            "the images of train and test differ in size",
            where=printable(spec),
            seen=f"train {train.images.shape[1:3]}, test {source.images.shape[1:3]}",
            next_step="bring them to one size with --image-size",
        )
    mean, deviation = statistics or measure(source.images)
    return Dataset(spec, *source[:3], tuple(mean), tuple(deviation), row.flip, *source[3:])


def _adapt(images, labels, class_names, options):
    """Applies limit, size and channels to a dataset that comes as arrays."""
    notes = []
    if options.limit is not None and options.limit < len(images):
        notes.append(f"took {options.limit:,} of {len(images):,} images, balanced over the classes")
        chosen = balanced_subset(labels, options.limit)
        images, labels = images[chosen], labels[chosen]
    channels = options.channels or images.shape[-1]
    if options.image_size is not None or channels != images.shape[-1]:
        mode = {1: "L", 3: "RGB"}[channels]
        pixels = [image[..., 0] if image.shape[-1] == 1 else image for image in images]
        images = np.stack([fit(Image.fromarray(image).convert(mode), options.image_size) for image in pixels])
        images = images.reshape(*images.shape[:3], channels)
    return Source(images, labels, class_names, tuple(notes))
