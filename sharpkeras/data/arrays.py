"""Datasets that come as arrays: in files of their original form, or with scikit-learn."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sharpkeras.data.dataset import LoadedSplit, Options, adapt
from sharpkeras.errors import DataError, SafetyError, printable
from sharpkeras.io.hashes import sha256_of_file

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_FILES = {"train": tuple(f"data_batch_{k}.bin" for k in range(1, 6)), "test": ("test_batch.bin",)}
IMAGES_PER_FILE = 10_000
RECORD_BYTES = 1 + 3 * 32 * 32  # the label, then the red, the green and the blue plane
CIFAR10_1_IMAGES = {"v4": 2021, "v6": 2000}
# SHA-256 of the published files; TensorFlow Datasets checks for the same.
CIFAR10_1_SHA256 = {
    "cifar10.1_v4_data.npy": "5aaedc268df8f4cffca2ac0cf9e608ae1897a8cddb630c7a850a2ea8f6558e75",
    "cifar10.1_v4_labels.npy": "1f9544300ded199539b6662364ce7fe6c2e1ea9f87408f06db4b1a6184cffb18",
    "cifar10.1_v6_data.npy": "2997188e5816f5bd545dc77771b6227828c28146049fcecf3fa10775474cacc6",
    "cifar10.1_v6_labels.npy": "ae40beda001693674edc94d925ee8268cfe68905f8f9aff800c8dcdfcd6c9448",
}


def load_digits(split: str, options: Options) -> LoadedSplit:
    """The 1,797 real handwritten digits of 8x8 pixels that scikit-learn carries; every fifth is for the test."""
    from sklearn.datasets import load_digits as sklearn_digits

    digits = sklearn_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # from 0..16
    chosen = (np.arange(len(images)) % 5 == 4) == (split == "test")
    class_names = tuple(str(digit) for digit in digits.target_names)
    return adapt(images[chosen], digits.target[chosen], class_names, options)


def read_cifar10(path: str | os.PathLike[str], split: str, options: Options) -> LoadedSplit:
    """CIFAR-10 from the files of its binary version: data_batch_1.bin to data_batch_5.bin and test_batch.bin.

    Raises:
        DataError: a file is missing, of another size, or holds labels above 9.
        SafetyError: the folder holds the Python version, which is pickled.
    """
    folder = Path(path).expanduser()
    names = CIFAR10_FILES[split]
    missing = [name for name in names if not (folder / name).is_file()]
    how = f"unpack cifar-10-binary.tar.gz into {printable(str(folder))}, or run `dataset=cifar10` `download`"
    if missing and (folder / names[0].removesuffix(".bin")).is_file():
        raise SafetyError(
            "this is the Python version of CIFAR-10, whose files are pickles: opening one can run code",
            where=printable(str(folder)),
            seen=names[0].removesuffix(".bin"),
            allowed=f"the binary version: {', '.join(names)}",
            next_step=how,
        )
    if missing:
        raise _missing("CIFAR-10 is not there", folder, missing, names, how)
    records = np.concatenate([_records(folder / name, how) for name in names])  # (N, 3073)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return adapt(np.ascontiguousarray(images), records[:, 0].astype(np.int64), CIFAR10_CLASSES, options)


def read_cifar10_1(path: str | os.PathLike[str], split: str, options: Options, *, version: str) -> LoadedSplit:
    """CIFAR-10.1 from the two arrays that its authors published for a version, "v4" or "v6".

    Raises:
        DataError: an array is missing, of another version, form, type or length, or holds labels outside of 0..9.
        SafetyError: a file holds Python objects, which only pickle can read.
    """
    folder = Path(path).expanduser()
    names = [name for name in CIFAR10_1_SHA256 if f"_{version}_" in name]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise _missing_cifar10_1(folder, missing, names, version)
    images = _read_array(folder / names[0], (32, 32, 3), "u1", version)
    labels = _read_array(folder / names[1], (), "iu", version)
    if not ((labels >= 0) & (labels < len(CIFAR10_CLASSES))).all():
        raise _wrong_labels(folder / names[1], labels)
    source = adapt(np.ascontiguousarray(images), labels.astype(np.int64), CIFAR10_CLASSES, options)
    others = [name for name in names if _sha256_of(folder / name) != CIFAR10_1_SHA256[name]]
    if not others:
        return source
    note = f"not the published bytes of CIFAR-10.1: {', '.join(others)}; a number on them is not comparable"
    return source._replace(notes=(*source.notes, note))


def _records(path: Path, how: str) -> np.ndarray:
    """One file of the binary version, uint8 (N, 3073)."""
    expected, found = IMAGES_PER_FILE * RECORD_BYTES, path.stat().st_size
    if found != expected:
        raise DataError(
            "is no whole file of CIFAR-10's binary version",
            where=printable(str(path)),
            seen=f"{found:,} bytes",
            allowed=f"{expected:,} bytes: {IMAGES_PER_FILE:,} records of {RECORD_BYTES:,}",
            next_step=how,
        )
    records = np.fromfile(path, np.uint8).reshape(-1, RECORD_BYTES)
    if records[:, 0].max() >= len(CIFAR10_CLASSES):
        raise _wrong_labels(path, records[:, 0])
    return records


def _read_array(path: Path, shape: tuple[int, ...], kinds: str, version: str) -> np.ndarray:
    """The array in a .npy file, once its header says that it is what it should be; nothing is unpickled.

    Args:
        path: the file.
        shape: of one image or label.
        kinds: the dtypes: "u1" for uint8, "iu" for any integers.
        version: of CIFAR-10.1.
    """
    expected = (CIFAR10_1_IMAGES[version], *shape)
    found, dtype, data_bytes = _read_header(path)
    right_type = dtype == np.uint8 if kinds == "u1" else dtype.kind in kinds
    if found == expected and right_type and data_bytes == dtype.itemsize * np.prod(expected, dtype=np.int64):
        return np.load(path, allow_pickle=False)
    problem = f"is not an array of CIFAR-10.1 {version}"
    for other, count in CIFAR10_1_IMAGES.items():
        if other != version and found == (count, *shape):
            problem = f"holds {count:,} images, which is {other} of CIFAR-10.1 and not {version}"
    raise DataError(
        problem,
        where=printable(str(path)),
        seen=f"{dtype} {printable(found)} in {data_bytes:,} bytes",
        allowed=f"{'uint8' if kinds == 'u1' else 'integers'} {expected}",
        next_step=_how_to_get(version),
    )


def _read_header(path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape and dtype that a .npy file declares, and the bytes behind its header.

    Raises:
        DataError: it is no .npy file.
        SafetyError: it holds Python objects, or is a pickle.
    """
    numpy_format = np.lib.format
    readers = {(1, 0): numpy_format.read_array_header_1_0, (2, 0): numpy_format.read_array_header_2_0}
    with open(path, "rb") as file:
        start = file.read(1)
        file.seek(0)
        try:
            shape, _, dtype = readers[numpy_format.read_magic(file)](file)
        except (ValueError, LookupError, RecursionError) as error:
            pickled = start == b"\x80"
            raise (SafetyError if pickled else DataError)(
                "is a pickle: opening it can run code" if pickled else "is no array in NumPy's format",
                where=printable(str(path)),
                seen=printable(str(error)),
                allowed="a .npy file of numbers",
            ) from None
        if dtype.hasobject:
            raise SafetyError(
                "holds Python objects: opening it can run code",
                where=printable(str(path)),
                seen=f"dtype {printable(str(dtype))}",
                allowed="numbers",
            )
        return shape, dtype, path.stat().st_size - file.tell()


def _missing_cifar10_1(folder: Path, missing: Sequence[str], names: Sequence[str], version: str) -> DataError:
    other = {"v4": "v6", "v6": "v4"}[version]
    others = [name for name in CIFAR10_1_SHA256 if f"_{other}_" in name and (folder / name).is_file()]
    if others:
        return DataError(
            f"CIFAR-10.1 {version} was asked for, and this is {other}",
            where=printable(str(folder)),
            seen=", ".join(others),
            allowed=", ".join(names),
            next_step=f"`dataset=cifar10.1-{other}:{printable(str(folder))}`, or {_how_to_get(version)}",
        )
    return _missing(f"CIFAR-10.1 {version} is not there", folder, missing, names, _how_to_get(version))


def _how_to_get(version: str) -> str:
    return (
        "git clone --depth 1 https://github.com/modestyachts/CIFAR-10.1, then "
        f"`dataset=cifar10.1-{version}:CIFAR-10.1/datasets`; or run `dataset=cifar10.1-{version}` `download`"
    )


def _missing(problem: str, folder: Path, missing: Sequence[str], names: Sequence[str], how: str) -> DataError:
    seen = f"no {', '.join(missing)}" if folder.is_dir() else "no such folder"
    return DataError(problem, where=printable(str(folder)), seen=seen, allowed=", ".join(names), next_step=how)


def _wrong_labels(path: Path, labels: np.ndarray) -> DataError:
    return DataError(
        "has labels that are no classes of CIFAR-10",
        where=printable(str(path)),
        seen=f"labels from {labels.min()} to {labels.max()}",
        allowed=f"0 to {len(CIFAR10_CLASSES) - 1}",
    )


def _sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return sha256_of_file(file)
