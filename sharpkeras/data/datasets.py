"""DATASETS, one row each, and `load`, which makes a Dataset of a spec such as `digits` or `folder:PATH`."""

import difflib
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sharpkeras.data import arrays, folder, synthetic, tfds
from sharpkeras.data.dataset import Dataset, LoadedSplit, Options, measure
from sharpkeras.data.encoded_images import EncodedImages
from sharpkeras.errors import DataError, UsageError, printable

CIFAR10_STATISTICS = ((0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768))
DIGITS_STATISTICS = ((0.30585521,), (0.37627913,))
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
IMAGENET_SIZES = (224, 256)
MEASURED = 5000  # images on disk whose mean and deviation stand for all


@dataclass(frozen=True)
class DatasetEntry:
    """A dataset that `load` knows, by its name alone, as `name:PATH`, or as both.

    Args:
        description: one line.
        how_to_get: what to do when it is not there, one line.
        loader: (split, options) → LoadedSplit, for the name alone.
        path_loader: (path, split, options) → LoadedSplit, for `name:PATH`.
        flip: whether images may be mirrored.
        statistics: (mean, std) of the training split, None to measure them.
        any_size: whether these statistics are used for images that are resized too.
        sizes: the default image_size, and the resize_size that goes with it; other sizes in the same proportion.
        on_disk: whether images stay on disk: "never", "on request" or "by default".
        test_only: whether there are no images to train on.
    """

    description: str
    how_to_get: str
    loader: Callable[..., LoadedSplit] | None = None
    path_loader: Callable[..., LoadedSplit] | None = None
    flip: bool = True
    statistics: tuple[Sequence[float], Sequence[float]] | None = None
    any_size: bool = False
    sizes: tuple[int, int] | None = None
    on_disk: str = "never"
    test_only: bool = False


def _cifar10_1(version: str, description: str) -> DatasetEntry:
    """The row of a version of CIFAR-10.1."""
    return DatasetEntry(
        description=description,
        how_to_get="pip install tensorflow-datasets importlib_resources, then run with `download` (6 MB)",
        loader=functools.partial(tfds.load_cifar10_1, version=version),
        path_loader=functools.partial(arrays.read_cifar10_1, version=version),
        statistics=CIFAR10_STATISTICS,
        any_size=True,
        test_only=True,
    )


def _generated(kind: str, description: str, **settings: Any) -> DatasetEntry:
    """The row of a kind of generated images."""
    loader = functools.partial(synthetic.load_generated, kind=kind)
    return DatasetEntry(description, "is generated", loader, any_size=True, **settings)


DATASETS = {
    "digits": DatasetEntry(
        description="1,797 real handwritten digits, 8x8, gray, 10 classes: runs in minutes on a CPU",
        how_to_get="comes with scikit-learn: pip install scikit-learn",
        loader=arrays.load_digits,
        flip=False,
        statistics=DIGITS_STATISTICS,
    ),
    "folder": DatasetEntry(
        description="your own images as folder:PATH, one folder for each class",
        how_to_get="put images into PATH/train/CLASS/ and PATH/test/CLASS/",
        path_loader=folder.read_folder,
        on_disk="on request",
    ),
    "cifar10": DatasetEntry(
        description="CIFAR-10, 60,000 photographs, 32x32, RGB, 10 classes (Table 2); :DIR reads its binary version",
        how_to_get="pip install tensorflow-datasets importlib_resources, then run with `download` (162 MB)",
        loader=tfds.load_cifar10,
        path_loader=arrays.read_cifar10,
        statistics=CIFAR10_STATISTICS,
    ),
    "cifar10.1": _cifar10_1("v6", "the same as cifar10.1-v6"),
    "cifar10.1-v6": _cifar10_1(
        "v6", "CIFAR-10.1 v6, 2,000 new test images for CIFAR-10, balanced; :DIR reads its arrays"
    ),
    "cifar10.1-v4": _cifar10_1("v4", "CIFAR-10.1 v4, 2,021 new test images for CIFAR-10; :DIR reads its arrays"),
    "imagenet": DatasetEntry(
        description="ImageNet 2012, 1.28 million photographs, 1,000 classes (Table 3); :DIR reads class folders",
        how_to_get="pip install tensorflow-datasets importlib_resources, or use class folders: imagenet:DIR",
        loader=tfds.load_imagenet,
        path_loader=folder.read_imagenet,
        statistics=IMAGENET_STATISTICS,
        any_size=True,
        sizes=IMAGENET_SIZES,
        on_disk="by default",
    ),
    "generated:digits": _generated(
        "digits", "96 generated images, 8x8, gray", statistics=DIGITS_STATISTICS, flip=False
    ),
    "generated:cifar10": _generated("cifar10", "96 generated images, 32x32, RGB", statistics=CIFAR10_STATISTICS),
    "generated:imagenet": _generated(
        "imagenet",
        "96 generated images, about 256 to 320 pixels, RGB, 1,000 classes",
        statistics=IMAGENET_STATISTICS,
        sizes=IMAGENET_SIZES,
        on_disk="by default",
    ),
}


def load(
    spec: str,
    split: str,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    limit: int | None = None,
    skip_bad_images: bool = False,
    follow_symlinks: bool = False,
    download: bool = False,
    statistics: tuple[Sequence[float], Sequence[float]] | None = None,
    resize_size: int | None = None,
    on_disk: bool | None = None,
) -> Dataset:
    """A split of a dataset.

    Args:
        spec: a name in DATASETS, alone or with `:PATH` as its row says.
        split: "train" or "test".
        image_size: pixels; the short side is resized to it and the centre cropped. None keeps the size, and takes 224
            for ImageNet.
        channels: 1 or 3; None takes what the images have.
        limit: number of images, the same ones each time and balanced over the classes; None for all.
        skip_bad_images: whether files that cannot be read are left out.
        follow_symlinks: whether links that lead out of a folder are followed.
        download: whether the network may be used.
        statistics: (mean, std) of the training split where they are known, as those of a run that trained on
            it. Without, they are measured, for which the test split of a folder reads the training split too.
        resize_size: pixels of the short side before the centre is cropped to `image_size`. None: `image_size`, and
            for ImageNet 8/7 of it, as 256 to 224.
        on_disk: whether the images stay encoded on disk and are decoded when they are indexed (`EncodedImages`). None:
            for ImageNet. Class folders can stay too.

    Raises:
        UsageError: an unknown spec, split or option.
        DataError: missing, broken or unfitting data.
        ResourceError: the images do not fit into the memory.
    """
    row, path = find(spec)
    _require("split", split, ("train", "test"))
    _require("channels", channels, (None, 1, 3))
    image_size, resize_size = _sizes(row, image_size, resize_size)
    on_disk = _stays_on_disk(spec, row, on_disk)
    options = Options(image_size, resize_size, channels, limit, skip_bad_images, follow_symlinks, on_disk, download)
    try:
        return _load(row, spec, path, split, options, statistics)
    except ImportError as error:
        raise DataError(f"{spec} needs {error.name}", seen=str(error), next_step=row.how_to_get) from error
    except OSError as error:
        raise DataError(f"{printable(spec)} cannot be read", seen=str(error), next_step=row.how_to_get) from error


def find(spec: str) -> tuple[DatasetEntry, str | None]:
    """The row of a spec, and its path; raises UsageError where there is none."""
    if spec in DATASETS and DATASETS[spec].loader:
        return DATASETS[spec], None
    name, _, path = spec.partition(":")
    if path and name in DATASETS and DATASETS[name].path_loader:
        return DATASETS[name], path
    specs = {known: _written(known) for known in DATASETS}
    near = difflib.get_close_matches(spec, DATASETS, 1) or difflib.get_close_matches(name, DATASETS, 1)
    guess = specs[near[0]] if near else "digits"
    raise UsageError(
        "unknown dataset",
        where="`dataset`",
        seen=spec,
        allowed=", ".join(specs.values()),
        next_step=f"`dataset={'folder:' + printable(spec) if os.path.isdir(spec) else guess}`",
    )


def _written(name: str) -> str:
    """How a spec of a row is written: `digits`, `folder:PATH`, `cifar10[:PATH]`."""
    row = DATASETS[name]
    if not row.path_loader:
        return name
    return f"{name}[:PATH]" if row.loader else f"{name}:PATH"


def _require(where: str, value: Any, allowed: tuple) -> None:
    if value not in allowed:
        raise UsageError("unknown value", where=where, seen=value, allowed=", ".join(map(str, allowed)))


def _sizes(row: DatasetEntry, image_size: int | None, resize_size: int | None) -> tuple[int | None, int | None]:
    """The size of the images and of their short side before the crop, those of the row where they are not given."""
    if image_size is not None and image_size < 1:
        raise UsageError("images need a size", where="`image_size`", seen=image_size, allowed="1 or more")
    if row.sizes:
        image_size = image_size or row.sizes[0]
        resize_size = resize_size or round(image_size * row.sizes[1] / row.sizes[0])
    if resize_size is not None and (image_size is None or resize_size < image_size):
        raise UsageError(
            "the centre that is cropped must lie in the resized image",
            where="`resize_size`",
            seen=f"{resize_size}, with `image_size={image_size}`",
            allowed="`image_size` or more, such as 256 for 224",
        )
    return image_size, resize_size


def _stays_on_disk(spec: str, row: DatasetEntry, asked: bool | None) -> bool:
    if asked and row.on_disk == "never":
        able = ", ".join(_written(name) for name, other in DATASETS.items() if other.on_disk != "never")
        raise UsageError(
            "random resized crops are cut from images that stay on disk, which these do not",
            where="`dataset`",
            seen=spec,
            allowed=able,
            next_step=("class folders of the same images", "`random_resized_crop=False`"),
        )
    return row.on_disk == "by default" if asked is None else asked


def _load(
    row: DatasetEntry,
    spec: str,
    path: str | None,
    split: str,
    options: Options,
    statistics: tuple[Sequence[float], Sequence[float]] | None,
) -> Dataset:
    if row.test_only and split == "train":
        raise DataError(
            f"{printable(spec)} has test images only",
            seen="the training split",
            allowed="the test split, to evaluate a network that was trained on CIFAR-10",
            next_step="train with `dataset=cifar10`, then evaluate on this",
        )
    if statistics is not None and options.channels is None:
        options = options._replace(channels=len(statistics[0]))
    if statistics is None:
        statistics = _known_statistics(row, options)
    train = None
    if statistics is None and split == "test" and not row.test_only:
        train = _load(row, spec, path, "train", options, None)
        statistics = train.mean, train.std
        options = options._replace(channels=train.images.shape[-1])
    source = row.path_loader(path, split, options) if path else row.loader(split, options)
    if train is not None and source.images.shape[1:] != train.images.shape[1:]:
        raise DataError(
            "the images of train and test differ in size",
            where=printable(spec),
            seen=f"train {train.images.shape[1:3]}, test {source.images.shape[1:3]}",
            next_step=("bring them to one size with `image_size`", "bring the files to one size"),
        )
    if isinstance(source.images, EncodedImages) and not options.on_disk:
        source = source._replace(images=source.images[:])
    if statistics is None:
        source, statistics = _measured(source)
    mean, std = statistics
    return Dataset(spec, *source[:3], tuple(mean), tuple(std), row.flip, *source[3:])


def _known_statistics(row: DatasetEntry, options: Options) -> tuple[Sequence[float], Sequence[float]] | None:
    """The statistics of a row, where they hold for images of the size and channels that were asked for."""
    if not row.statistics:
        return None
    if row.any_size:
        return row.statistics if options.channels in (None, len(row.statistics[0])) else None
    return row.statistics if options.image_size is None and options.channels is None else None


def _measured(source: LoadedSplit) -> tuple[LoadedSplit, tuple[tuple[float, ...], tuple[float, ...]]]:
    """A LoadedSplit, with a note where only some of its images were looked at, and its statistics."""
    if not isinstance(source.images, EncodedImages) or len(source.images) <= MEASURED:
        return source, measure(source.images)
    note = f"mean and deviation are those of {MEASURED:,} of the {len(source.images):,} images"
    return source._replace(notes=(*source.notes, note)), measure(source.images, MEASURED)
