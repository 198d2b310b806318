"""Splits, orders and batches of examples, each a deterministic function of its arguments.

No generator object outlives a call. A run that stops at (epoch, batch) or at a step goes on there with the very
examples and random draws that it would have had, and nothing but that position has to be saved.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpkeras.data.prefetch import ahead
from sharpkeras.errors import DataError, UsageError, printable

if TYPE_CHECKING:
    from sharpkeras.data.dataset import Dataset
    from sharpkeras.data.encoded_images import EncodedImages

# The last word of every generator key, so that no two uses of one (seed, epoch, stream) share random numbers.
SPLIT, ORDER, UNIFORMS, CROPS = 0, 1, 2, 3


def _generator(seed: int, epoch: int, stream: int, use: int, *example: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch, stream, use, *example])


def search_split(n: int, train_portion: float, batch_size: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Split of the training images for the bilevel search: for the weights and for the alphas.

    A fixed permutation that depends on `n` alone is cut in two: the same for every seed, and with all classes in both
    halves although class folders come sorted by class (the official code cuts the unshuffled list, which it can
    since CIFAR-10's files are shuffled already).

    Args:
        n: number of training images.
        train_portion: share of the first half, between 0 and 1, both excluded.
        batch_size: images that either half must have at least.

    Returns:
        `(train_indices, validation_indices)`, int64, each sorted, disjoint, together all of `range(n)`.

    Raises:
        UsageError: `train_portion` is not between 0 and 1.
        DataError: a half has fewer than `batch_size` images.
    """
    if not 0 < train_portion < 1:
        raise UsageError(
            "the train portion must leave images on both sides",
            where="`train_portion`",
            seen=train_portion,
            allowed="more than 0 and less than 1, such as 0.5",
        )
    cut = int(n * train_portion)
    if min(cut, n - cut) < batch_size:
        raise DataError(
            f"a half of the search has fewer images than one batch of {batch_size}",
            seen=f"{cut} to train weights and {n - cut} to train alphas, of {n} images at portion {train_portion}",
            next_step=("use more images", "lower `batch_size`", "change `train_portion`"),
        )
    order = _generator(0, 0, 0, SPLIT).permutation(n)
    return np.sort(order[:cut]), np.sort(order[cut:])


def balanced_subset(labels: Sequence[int] | np.ndarray, limit: int) -> np.ndarray:
    """Indices of `limit` examples, as equal in number over the classes as the data allow: the first ones of each.

    A larger limit holds every example of a smaller one.

    Args:
        labels: (N,) integers.
        limit: number of examples; with `limit` ≥ N all are taken.

    Returns:
        Sorted indices, int64 (min(limit, N),).

    Raises:
        UsageError: `limit` is below 1.
    """
    if limit < 1:
        raise UsageError("a limit on the images must leave some", where="`limit`", seen=limit, allowed="1 or more")
    labels = np.asarray(labels)
    by_class = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), np.int64)  # how many examples of the same class come before this one
    rank[by_class] = np.arange(len(labels)) - np.searchsorted(labels[by_class], labels[by_class])
    return np.sort(np.lexsort((labels, rank))[:limit])


def epoch_order(n: int, seed: int, epoch: int, stream: int = 0) -> np.ndarray:
    """The order of one epoch: a permutation of `range(n)`, int64 (n,).

    Args:
        n: number of examples.
        seed, epoch: integers ≥ 0.
        stream: 0 for the training stream; another number gives an independent order.
    """
    return _generator(seed, epoch, stream, ORDER).permutation(n)


def epoch_uniforms(n: int, num_uniforms: int, seed: int, epoch: int, stream: int = 0) -> np.ndarray:
    """Uniforms in [0, 1) for the augmentation of one epoch, float32 (n, num_uniforms).

    Row i belongs to example i wherever the order puts it, and does not change when examples are appended.
    """
    return _generator(seed, epoch, stream, UNIFORMS).random((n, num_uniforms), dtype=np.float32)


def crop_generators(
    indices: Sequence[int] | np.ndarray, seed: int, epoch: int, stream: int = 0
) -> list[np.random.Generator]:
    """A generator for the random resized crop of each example: as `epoch_uniforms`, one belongs to its example."""
    return [_generator(seed, epoch, stream, CROPS, index) for index in indices]


def batches(
    images: "np.ndarray | EncodedImages",
    labels: np.ndarray,
    indices: Sequence[int] | np.ndarray,
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    num_uniforms: int = 0,
    stream: int = 0,
    drop_remainder: bool = True,
    first_batch: int = 0,
    random_crops: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """One epoch over `indices`, shuffled.

    Args:
        images: uint8 (N, H, W, C), in memory or on disk (`encoded_images.EncodedImages`, read two batches ahead).
        labels: (N,).
        indices: (M,), the examples of this stream.
        batch_size: B.
        seed, epoch: integers ≥ 0.
        num_uniforms: per example that the augmentation wants, such as `augment.NUM_DRAWS`.
        stream: see `epoch_order`.
        drop_remainder: whether the last, smaller batch is left out, so that all shapes are static.
        first_batch: batches to leave out at the beginning; a resumed run goes on there.
        random_crops: whether images on disk come as random resized crops. Those in memory come as they are.

    Yields:
        `(images, labels, uniforms)`: uint8 (B, H, W, C), int32 (B,), float32 (B, num_uniforms).

    Raises:
        DataError: at the first batch, when there are fewer examples than one batch.
    """
    if len(indices) < (batch_size if drop_remainder else 1):
        raise DataError(
            f"fewer images than one batch of {batch_size}",
            seen=f"{len(indices)} images",
            next_step="lower `batch_size` or use more images",
        )
    order = np.asarray(indices)[epoch_order(len(indices), seed, epoch, stream)]
    uniforms = epoch_uniforms(len(images), num_uniforms, seed, epoch, stream)
    end = len(order) - len(order) % batch_size if drop_remainder else len(order)

    def read(start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        batch = order[start : min(start + batch_size, end)]
        if random_crops and hasattr(images, "random_crops"):
            pixels = images.random_crops(batch, crop_generators(batch, seed, epoch, stream))
        else:
            pixels = images[batch]
        return pixels, labels[batch].astype(np.int32), uniforms[batch]

    yield from _ahead_of_disk(images, map(read, range(first_batch * batch_size, end, batch_size)))


def endless(
    images: "np.ndarray | EncodedImages",
    labels: np.ndarray,
    indices: Sequence[int] | np.ndarray,
    batch_size: int,
    seed: int,
    *,
    first_step: int = 0,
    num_uniforms: int = 0,
    stream: int = 1,
    random_crops: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Endless stream of the `batches` of one epoch after another: the validation stream of the bilevel search.

    The batch of a step is a function of the step's number. Re-opening an iterator every step would be slow and, with
    a fixed seed, give the same batch for ever.

    Args:
        first_step: the step of the first batch that is yielded; a resumed run passes its step.
        images, labels, indices, batch_size, seed, num_uniforms, stream, random_crops: as in `batches`.

    Yields:
        As `batches`, always full ones.

    Raises:
        DataError: at the first batch, when there are fewer examples than one batch.
    """
    epoch, first_batch = divmod(first_step, max(1, len(indices) // batch_size))
    options: dict[str, Any] = {"num_uniforms": num_uniforms, "stream": stream, "random_crops": random_crops}
    while True:
        yield from batches(images, labels, indices, batch_size, seed, epoch, first_batch=first_batch, **options)
        epoch, first_batch = epoch + 1, 0


def evaluation_batches(
    images: "np.ndarray | EncodedImages",
    labels: np.ndarray,
    batch_size: int,
    indices: Sequence[int] | np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Every example once, in order, in batches of one static shape.

    Args:
        images, labels: as in `batches`.
        batch_size: B.
        indices: (M,), the examples wanted; all of them when None.

    Yields:
        `(images, labels, valid)`: uint8 (B, H, W, C), int32 (B,) and how many of them, from the first on, count. The
        last batch is filled up with its last example, since another shape would compile the step again.

    Raises:
        DataError: at the first batch, when there is no example.
    """
    indices = np.arange(len(images)) if indices is None else np.asarray(indices)
    if len(indices) == 0:
        raise DataError("no images to evaluate", seen="0 images", allowed="1 or more")

    def read(start: int) -> tuple[np.ndarray, np.ndarray, int]:
        batch = indices[start : start + batch_size]
        valid = len(batch)
        batch = np.pad(batch, (0, batch_size - valid), mode="edge")
        return images[batch], labels[batch].astype(np.int32), valid

    yield from _ahead_of_disk(images, map(read, range(0, len(indices), batch_size)))


def _ahead_of_disk(images: "np.ndarray | EncodedImages", batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches, read before they are asked for where the images have to be read from disk."""
    return batches if isinstance(images, np.ndarray) else ahead(batches)


def check(dataset: "Dataset", batch_size: int) -> None:
    """Raise DataError, with the counts per class, unless there are two classes and one full batch at least."""
    counts = np.bincount(dataset.labels, minlength=len(dataset.class_names))
    per_class = ", ".join(f"{printable(name, 40)}: {n}" for name, n in zip(dataset.class_names, counts))
    if np.count_nonzero(counts) < 2:
        raise DataError(
            f"{printable(dataset.name)} has images of fewer than two classes",
            seen=per_class or "no classes",
            allowed="two classes or more",
        )
    if len(dataset.labels) < batch_size:
        raise DataError(
            f"{printable(dataset.name)} has {len(dataset.labels)} images, fewer than one batch of {batch_size}",
            seen=per_class,
            next_step="lower `batch_size` or use more images",
        )
