"""Images that stay encoded on disk and are decoded when a batch needs them.

1.28 million images of ImageNet at 224 pixels would be 193 GB in memory. JPEG's draft mode, which decodes at half the
size, is not used: it gives other pixels, and no half of ImageNet's usual 500 x 375 holds the 256 that are needed.
"""

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from sharpkeras.data.decoding import (
    BOMBS,
    BROKEN,
    FILES_PER_TASK,
    Look,
    allocate,
    broken_files,
    channels_of,
    conversions,
    convert,
    look_at,
    open_image,
    reason,
    require_one_size,
)
from sharpkeras.data.transforms import fit, random_resized_crop
from sharpkeras.errors import DataError, printable


class EncodedImages:
    """Encoded images that are indexed like an array uint8 (N, H, W, C), and decoded for it on all cores.

    What an index gives is the evaluation view; `random_crops` gives the training view. Nothing is kept.

    Args:
        open_image: index → Pillow image, not decoded yet; from any thread.
        names: what messages call each image; with `byte_sizes`, what tells these images from others.
        byte_sizes: (N,) integers.
        size: (H, W), of both views.
        channels: C, 1 or 3.
        view: Pillow image → Pillow image of `size`, the evaluation view.
        turns: (N,) EXIF's orientations of images that come upright; None leaves them as they are stored.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        open_image: Callable[[int], Image.Image],
        names: Sequence[str],
        byte_sizes: Sequence[int] | np.ndarray,
        size: tuple[int, int],
        channels: int,
        view: Callable[[Image.Image], Image.Image],
        turns: Sequence[int] | None = None,
    ) -> None:
        self.shape = (len(names), *size, channels)
        self._open_image, self._names, self._byte_sizes, self._view = open_image, names, byte_sizes, view
        self._turns = turns

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """The evaluation views of a slice, of indices or of a mask, uint8 (B, H, W, C); of a number, (H, W, C)."""
        indices = np.arange(len(self))[key]
        images = self._decoded([(index, self._view) for index in np.atleast_1d(indices)])
        return images if np.ndim(indices) else images[0]

    def random_crops(
        self, indices: Sequence[int] | np.ndarray, generators: Iterable[np.random.Generator]
    ) -> np.ndarray:
        """The training views of images, each a function of the image and of its generator.

        Args:
            indices: (B,).
            generators: a numpy.random.Generator for each.

        Returns:
            uint8 (B, H, W, C).
        """
        size = self.shape[1:3]
        views = [functools.partial(random_resized_crop, size=size, generator=generator) for generator in generators]
        return self._decoded(list(zip(indices, views, strict=True)))

    def digest(self) -> bytes:
        """SHA-256 over each file's name, size in bytes and, if it is turned upright by EXIF, its orientation.

        Not over the content: reading all of ImageNet takes minutes. Runs from before images came upright had another.
        """
        digest = hashlib.sha256()
        for name, byte_size, turn in zip(self._names, self._byte_sizes, self._turns or [1] * len(self)):
            turned = f"\0turn {turn}" if turn != 1 else ""
            digest.update(f"{name}\0{byte_size}{turned}\n".encode(errors="surrogateescape"))
        return digest.digest()

    def _decoded(self, wanted: Sequence[tuple[int, Callable[[Image.Image], Image.Image]]]) -> np.ndarray:
        images = allocate(len(wanted), *self.shape[1:])

        def fill(row: int) -> None:
            images[row] = self._decode(*wanted[row])

        for _ in _threads().map(fill, range(len(wanted))):
            pass
        return images

    def _decode(self, index: int, view: Callable[[Image.Image], Image.Image]) -> np.ndarray:
        try:
            with self._open_image(index) as image:
                mode = "L" if self.shape[-1] == 1 else "RGB"
                pixels = np.asarray(view(convert(image, mode, upright=self._turns is not None)))
        except (*BROKEN, *BOMBS) as error:
            raise DataError(
                "an image cannot be decoded",
                where=printable(self._names[index]),
                seen=f"{type(error).__name__}: {error}",
                allowed="a whole JPEG, PNG or BMP image",
                next_step="replace the file, or remove it",
            ) from error
        return pixels[..., None] if pixels.ndim == 2 else pixels


def read_headers(
    files: Sequence[str],
    root: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    resize_size: int | None = None,
    channels: int | None = None,
    skip_bad_images: bool = False,
    upright: bool = True,
) -> tuple[EncodedImages, np.ndarray, tuple[str, ...]]:
    """Look at the headers of all files and leave the images where they are.

    Finds what is no image, empty or above the cap of pixels. A file that breaks off in the middle is found when it is
    decoded.

    Args:
        files: paths below `root`, at least one.
        root, image_size, resize_size, channels, skip_bad_images, upright: as in `decoding.read_images`.

    Returns:
        `(images, kept, notes)` as `decoding.read_images`, the images as EncodedImages.

    Raises:
        DataError: files that are no images, none that is, or without `image_size` images of several sizes.
    """
    tasks = [files[start : start + FILES_PER_TASK] for start in range(0, len(files), FILES_PER_TASK)]
    headers = [header for task in _threads().map(functools.partial(_headers, upright), tasks) for header in task]
    problems = {index: problem for index, (_, _, problem) in enumerate(headers) if problem}
    if problems and (len(problems) == len(files) or not skip_bad_images):
        raise broken_files(files, root, problems)
    kept = np.array([index for index in range(len(files)) if index not in problems], np.int64)
    files, headers = [files[index] for index in kept], [headers[index] for index in kept]
    looks, byte_sizes, _ = zip(*headers)
    if image_size is None:
        require_one_size(Counter(look.size for look in looks))
    channels = channels or channels_of(looks)
    images = EncodedImages(
        open_image=lambda index: open_image(files[index]),
        names=[path.removeprefix(f"{root}{os.sep}") for path in files],
        byte_sizes=byte_sizes,
        size=looks[0].size if image_size is None else (image_size, image_size),
        channels=channels,
        view=functools.partial(fit, image_size=image_size, resize_size=resize_size),
        turns=[look.turn for look in looks] if upright else None,
    )
    return images, kept, conversions(looks, channels, image_size, upright)


def _headers(upright: bool, paths: Sequence[str]) -> list[tuple[Look | None, int | None, str | None]]:
    return [_header(path, upright) for path in paths]


def _header(path: str, upright: bool) -> tuple[Look | None, int | None, str | None]:
    """Look, size in bytes and None; or twice None and what is wrong."""
    try:
        with open_image(path) as image:
            return look_at(image, upright), os.path.getsize(path), None
    except (*BROKEN, *BOMBS) as error:
        return None, None, reason(path, error)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """One pool for all images: Pillow frees the interpreter while it decodes and resizes."""
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), "decode")
