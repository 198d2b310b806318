"""Datasets that come by TensorFlow Datasets (TFDS): CIFAR-10, CIFAR-10.1 and ImageNet."""

import functools
import io
import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from sharpkeras.data.arrays import CIFAR10_CLASSES
from sharpkeras.data.dataset import LoadedSplit, Options, adapt, limited
from sharpkeras.data.decoding import open_image
from sharpkeras.data.encoded_images import EncodedImages
from sharpkeras.data.transforms import fit
from sharpkeras.errors import DataError, ResourceError, RunError, printable
from sharpkeras.io import atomic_writes

IMAGENET_SPLITS = {"train": "train", "test": "validation"}  # the official test images have no labels
IMAGENET_TARS = {"ILSVRC2012_img_train.tar": "138 GB", "ILSVRC2012_img_val.tar": "6.3 GB"}
RECORDS_AT_ONCE = 64


def _quiet_tfds() -> Any:
    """The package, which logs a warning for each dataset that is not there; what to do is told by our own message."""
    import tensorflow_datasets

    logging.getLogger("absl").setLevel(logging.ERROR)
    return tensorflow_datasets


def load_cifar10(split: str, options: Options) -> LoadedSplit:
    """CIFAR-10 in the order of the original files."""
    examples, builder = _arrays("cifar10", "cifar10", split, options)
    order = np.argsort(examples["id"])
    labels = examples["label"][order].astype(np.int64)
    return adapt(examples["image"][order], labels, tuple(builder.info.features["label"].names), options)


def load_cifar10_1(split: str, options: Options, *, version: str) -> LoadedSplit:
    """CIFAR-10.1 of a version, "v4" or "v6", in the order of TFDS, which is not that of the original arrays."""
    examples, _ = _arrays(f"cifar10_1/{version}", f"cifar10.1-{version}", split, options)
    return adapt(examples["image"], examples["label"].astype(np.int64), CIFAR10_CLASSES, options)


def load_imagenet(split: str, options: Options) -> LoadedSplit:
    """ImageNet, its images encoded and on disk, in the order of TFDS; the test split is the official validation.

    Needs files of the format array_record, which can be read in any order. Reading them does not need TensorFlow.
    The labels lie among the images there, so the first time reads all records, and keeps what it found beside them.
    """
    tfds = _quiet_tfds()

    # From the folder and not by name: only so does TFDS see a format that was added by its convert_format.
    builder = tfds.builder_from_directory(_prepared_imagenet(options.download))
    source = builder.as_data_source(IMAGENET_SPLITS[split], decoders={"image": tfds.decode.SkipDecoding()})
    index, notes = _index(builder, IMAGENET_SPLITS[split], source)
    class_names = tuple(builder.info.features["label"].names)
    chosen, limit_note = limited(index["labels"], options.limit, class_names)
    records = np.arange(len(source))[chosen]
    images = EncodedImages(
        open_image=lambda i: open_image(io.BytesIO(source[int(records[i])]["image"])),
        names=[name.decode(errors="replace") for name in index["names"][chosen].tolist()],
        byte_sizes=index["byte_sizes"][chosen],
        size=(options.image_size, options.image_size),
        channels=options.channels or 3,
        view=functools.partial(fit, image_size=options.image_size, resize_size=options.resize_size),
    )
    return LoadedSplit(images, index["labels"][chosen], class_names, (*notes, *limit_note))


def _arrays(name: str, spec: str, split: str, options: Options) -> tuple[dict[str, np.ndarray], Any]:
    """All examples of a split as arrays, and the builder; `spec` is what `load` calls the builder `name`."""
    tfds = _quiet_tfds()

    _keep_tensorflow_off_the_gpu()
    builder = tfds.builder(name)
    if not builder.is_prepared():
        if not options.download:
            raise _not_prepared(builder, f"run again with `download`, or read the original files: `dataset={spec}:DIR`")
        _prepare(builder)
    return tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1, shuffle_files=False)), builder


def _keep_tensorflow_off_the_gpu() -> None:
    """TFDS makes arrays with TensorFlow, which would take the memory that another backend needs."""
    import tensorflow as tf

    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        tf.config.set_visible_devices([], "GPU")


def _prepared_imagenet(download: bool) -> str | os.PathLike[str]:
    """The folder of ImageNet in the format array_record, made from the two tar files if allowed."""
    tfds = _quiet_tfds()

    builder = tfds.builder("imagenet2012")
    if builder.is_prepared():
        return _with_random_access(builder)
    manual = Path(os.path.expanduser(builder.data_dir)).parents[1] / "downloads" / "manual"
    missing = [name for name in IMAGENET_TARS if not (manual / name).is_file()]
    if missing or not download:
        how = f"run again with `download`, which makes it from the files in {printable(str(manual))} without network"
        if missing:
            files = " and ".join(f"{name} ({IMAGENET_TARS[name]})" for name in missing)
            how = (
                f"register at https://image-net.org/download-images, put {files}\n"
                f"    into {printable(str(manual))} and run again with `download`, which needs no network"
            )
        raise _not_prepared(builder, f"{how};\n    or unpack them as class folders: `dataset=imagenet:DIR`")
    _keep_tensorflow_off_the_gpu()
    builder = tfds.builder("imagenet2012", file_format="array_record")
    _prepare(builder)
    return builder.data_dir


def _with_random_access(builder: Any) -> str | os.PathLike[str]:
    """The folder of a prepared builder; raises DataError if its files can only be read from front to back."""
    tfds = _quiet_tfds()

    formats = {known.value for known in tfds.builder_from_directory(builder.data_dir).info.available_file_formats()}
    if "array_record" in formats:
        return builder.data_dir
    raise DataError(
        f"{builder.name} is prepared in a format without random access",
        where=printable(str(builder.data_dir)),
        seen=", ".join(sorted(formats)),
        allowed="array_record",
        next_step="pip install apache-beam, then python -m tensorflow_datasets.scripts.convert_format "
        f"--dataset_version_dir={printable(str(builder.data_dir))} --out_file_format=array_record;\n"
        "    or use class folders: `dataset=imagenet:DIR`",
    )


def _not_prepared(builder: Any, how: str) -> DataError:
    return DataError(f"{builder.name} is not prepared", where=printable(str(builder.data_dir)), next_step=how)


def _prepare(builder: Any) -> None:
    """Downloads and checks a TFDS dataset, or makes it from files that were downloaded by hand."""
    tfds = _quiet_tfds()

    config = tfds.download.DownloadConfig(force_checksums_validation=True, try_download_gcs=False)
    try:
        builder.download_and_prepare(download_config=config)
    except Exception as error:  # no network, a wrong checksum, a full disk: each its own class, none documented
        raise DataError(
            f"{builder.name} could not be downloaded and prepared",
            where=printable(str(builder.data_dir)),
            seen=printable(f"{type(error).__name__}: {error}", 600),
            next_step="check the network and the free disk space, and run again with `download`",
        ) from error


def _index(builder: Any, split: str, source: Any) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Labels, names and sizes of all records, from the file that keeps them or from the records; and notes."""
    path = Path(builder.data_dir) / f"sharpkeras_{split}.npz"
    stamp = np.array([len(source), builder.info.splits[split].num_bytes])
    try:
        with np.load(path, allow_pickle=False) as stored:
            if np.array_equal(stored["stamp"], stamp):
                return {name: stored[name] for name in ("labels", "names", "byte_sizes")}, ()
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile):
        pass  # not there, or damaged
    index = _read_index(source)
    file = io.BytesIO()
    np.savez(file, stamp=stamp, **index)
    try:
        atomic_writes.write(path, file.getvalue())
    except (ResourceError, RunError) as error:
        return index, (f"every start reads all records, since their labels could not be kept: {error.seen}",)
    return index, ()


def _read_index(source: Any) -> dict[str, np.ndarray]:
    labels, names, byte_sizes = np.empty(len(source), np.int64), [], np.empty(len(source), np.int64)
    for start in range(0, len(source), RECORDS_AT_ONCE):
        records = range(start, min(start + RECORDS_AT_ONCE, len(source)))
        for index, example in zip(records, source.__getitems__(list(records))):
            labels[index], byte_sizes[index] = example["label"], len(example["image"])
            names.append(example["file_name"])
    return {"labels": labels, "names": np.array(names, "S"), "byte_sizes": byte_sizes}
