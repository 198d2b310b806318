"""Generated images in the sizes of real datasets, to try a recipe in seconds without any data (`--smoke`)."""

import functools
from typing import NamedTuple

import numpy as np
from PIL import Image

from sharpkeras.data.dataset import LoadedSplit, Options, adapt, limited
from sharpkeras.data.encoded_images import EncodedImages
from sharpkeras.data.transforms import fit

NUMBERS = {"train": 64, "test": 32}


class Kind(NamedTuple):
    """What images are like: their sides in pixels from `smallest` to `largest`, channels and classes."""

    smallest: int
    largest: int
    channels: int
    num_classes: int


KINDS = {
    "digits": Kind(8, 8, 1, 10),
    "cifar10": Kind(32, 32, 3, 10),
    "imagenet": Kind(256, 320, 3, 1000),
}


def load_generated(split: str, options: Options, *, kind: str) -> LoadedSplit:
    """A few dozen images of one of KINDS, the same ones each time: a colour for each class, and noise over it.

    Images of several sizes go through the same views as those that stay on disk. Of a thousand classes, only as many
    as there are images have one.
    """
    row = KINDS[kind]
    number = NUMBERS[split]
    labels = np.arange(number, dtype=np.int64) * row.num_classes // number
    class_names = tuple(f"class {label}" for label in range(row.num_classes))
    seed = list(NUMBERS).index(split)
    if row.smallest == row.largest:
        images = np.stack([_pixels(row, seed, index, label) for index, label in enumerate(labels)])
        return adapt(images, labels, class_names, options)
    chosen, notes = limited(labels, options.limit, class_names)
    indices = np.arange(number)[chosen]
    images = EncodedImages(
        open_image=lambda i: Image.fromarray(_pixels(row, seed, indices[i], labels[indices[i]])),
        names=[f"generated {split} image {index}" for index in indices],
        byte_sizes=np.zeros(len(indices), np.int64),
        size=(options.image_size, options.image_size),
        channels=options.channels or row.channels,
        view=functools.partial(fit, image_size=options.image_size, resize_size=options.resize_size),
    )
    return LoadedSplit(images, labels[chosen], class_names, notes)


def _pixels(kind: Kind, seed: int, index: int, label: int) -> np.ndarray:
    """One image, uint8 (H, W, C)."""
    generator = np.random.default_rng([seed, index])
    height, width = generator.integers(kind.smallest, kind.largest + 1, 2)
    color = np.random.default_rng(label).integers(64, 192, kind.channels)
    return (color + generator.integers(-64, 64, (height, width, kind.channels))).astype(np.uint8)
