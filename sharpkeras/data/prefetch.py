"""Prefetching: batches are made ahead of their use, while the device works on those before."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def ahead(batches: Iterator[T], number: int = 2) -> Iterator[T]:
    """Prefetch batches in one thread: the same ones in the same order, up to `number` before they are asked for.

    What the thread raises is raised here, in the place of the batch that could not be made. The thread ends with this
    generator: after the last batch, or when it is closed before, as soon as the batch in work is done.

    Args:
        batches: an iterator.
        number: of batches that wait, at most.
    """
    end = object()
    thread = ThreadPoolExecutor(1)
    try:
        waiting: deque[Any] = deque(thread.submit(next, batches, end) for _ in range(number))
        while (batch := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, batches, end))
            yield batch
    finally:
        thread.shutdown(cancel_futures=True)
