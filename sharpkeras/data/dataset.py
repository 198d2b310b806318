"""Dataset, the arguments and results of its loaders, and preprocessing of images that come as arrays."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from PIL import Image

from sharpkeras.data.batches import balanced_subset
from sharpkeras.data.encoded_images import EncodedImages
from sharpkeras.data.transforms import fit
from sharpkeras.errors import printable


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a dataset, in memory or with its images on disk.

    Args:
        name: the spec that it was loaded by.
        images: uint8 (N, H, W, C): an array, or EncodedImages, which decodes what is indexed.
        labels: int64 (N,), indices into `class_names`.
        class_names: one for each class.
        mean, std: C numbers each on the scale 0..1, of the training split, also where this is the test split.
        flip: whether a mirrored image is still one of its class.
        notes: what was ignored or converted, one line each.
        skipped_files: broken files that were left out, as paths from the dataset's folder.
    """

    name: str
    images: np.ndarray | EncodedImages
    labels: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    notes: tuple[str, ...] = ()
    skipped_files: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over the images with their shape, the labels and the class names.

        Of images on disk it sees the relative paths and the sizes in bytes, not the content.
        """
        fingerprint = Fingerprint(self)
        fingerprint.add(self.images.digest() if isinstance(self.images, EncodedImages) else self.images)
        return fingerprint.hexdigest()


class Fingerprint:
    """SHA-256 over the images of a Dataset with their shape, the labels and the class names, image by image.

    Args:
        dataset: the Dataset; its images are not read.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._digest = hashlib.sha256(repr((dataset.images.shape, dataset.class_names)).encode())
        self._labels = dataset.labels

    def add(self, images: np.ndarray | bytes) -> None:
        """The next images, in their order, or what stands for all of them."""
        self._digest.update(np.ascontiguousarray(images) if isinstance(images, np.ndarray) else images)

    def hexdigest(self) -> str:
        """The result, once all images were added."""
        self._digest.update(self._labels.astype("<i8"))
        return self._digest.hexdigest()


class Options(NamedTuple):
    """Arguments of `load` that are handed to a loader."""

    image_size: int | None = None
    resize_size: int | None = None
    channels: int | None = None
    limit: int | None = None
    skip_bad_images: bool = False
    follow_symlinks: bool = False
    on_disk: bool = False
    download: bool = False


class LoadedSplit(NamedTuple):
    """What a loader returns of one split: five fields of Dataset; `load` adds the rest."""

    images: np.ndarray | EncodedImages
    labels: np.ndarray
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    skipped_files: tuple[str, ...] = ()


def adapt(images: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...], options: Options) -> LoadedSplit:
    """Apply limit, size and channels to a dataset that comes as arrays; return its LoadedSplit."""
    chosen, notes = limited(labels, options.limit, class_names)
    images, labels = images[chosen], labels[chosen]
    channels = options.channels or images.shape[-1]
    if options.image_size is not None or channels != images.shape[-1]:
        mode = {1: "L", 3: "RGB"}[channels]
        pixels = [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in images]
        images = np.stack([fit(image.convert(mode), options.image_size, options.resize_size) for image in pixels])
        images = images.reshape(*images.shape[:3], channels)
    return LoadedSplit(images, labels, class_names, notes)


def limited(
    labels: np.ndarray, limit: int | None, class_names: tuple[str, ...]
) -> tuple[slice | np.ndarray, tuple[str, ...]]:
    """The images that a limit leaves, and the notes on it: indices or a slice of all, and a tuple of lines."""
    if limit is None or limit >= len(labels):
        return slice(None), ()
    chosen = balanced_subset(labels, limit)
    there = np.unique(labels)  # of a thousand classes, generated images have some
    counts = np.bincount(labels[chosen], minlength=len(class_names))[there]
    took, lost = f"took {limit:,} of {len(labels):,} images", there[counts == 0]
    if len(lost):
        some = ", ".join(printable(class_names[label], 60) for label in lost[:5]) + (", …" if len(lost) > 5 else "")
        return chosen, (f"{took}, of {limit:,} of the {len(there):,} classes: there is none of {some}",)
    if np.ptp(counts) > 1:
        return chosen, (
            f"{took}, as equal over the classes as they allow: {counts.min():,} to {counts.max():,} of each",
        )
    return chosen, (f"{took}, balanced over the classes",)


def measure(
    images: np.ndarray | EncodedImages, number: int | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel on the scale 0..1, two tuples of C floats, exact for these images.

    A deviation is 1/255 at least, so that images of one colour can be divided by it.

    Args:
        images: uint8 (N, H, W, C).
        number: of images to look at, evenly spaced; None for all.
    """
    count = len(images) if number is None else min(number, len(images))
    chosen = np.linspace(0, len(images) - 1, count).astype(np.int64)
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, count, 250):  # in parts, since bincount widens its input to 8 bytes
        for channel, pixels in enumerate(np.moveaxis(images[chosen[start : start + 250]], -1, 0)):
            counts[channel] += np.bincount(pixels.ravel(), minlength=256)
    shares = counts / counts.sum(axis=1, keepdims=True)  # (C, 256)
    levels = np.arange(256) / 255
    mean = shares @ levels
    std = np.sqrt((shares * (levels - mean[:, None]) ** 2).sum(axis=1))
    return tuple(mean.tolist()), tuple(np.maximum(std, 1 / 255).tolist())  # never 0: images of one colour
