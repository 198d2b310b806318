"""Decoding of image files: which files are images, and how each pixel format is converted.

Every file is decoded before the first image is handed out, so that a broken one shows up at once, in a list with all
others, and not in the middle of an epoch.

Photographs that EXIF says are turned come upright, as every viewer shows them, but for ImageNet's: there the paper's
numbers are those of torchvision's ImageFolder, which leaves them as they lie. An animated image is its first frame.
"""

import contextlib
import os
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from sharpkeras.data.transforms import MAX_PIXELS, fit
from sharpkeras.errors import DataError, ResourceError, printable

FORMATS = ("JPEG", "PNG", "BMP")  # by content; a name's extension means nothing
# What other files turn out to be, by their first bytes.
SIGNATURES = {b"GIF8": "a GIF image", b"RIFF": "a WebP image", b"II*\0": "a TIFF image", b"<": "HTML or XML"}
# Pillow's mode → how a note calls it. Transparency is dropped, as torchvision's ImageFolder does.
KINDS = {
    "1": "bilevel",
    "L": "grayscale",
    "LA": "transparent grayscale",
    "I;16": "16-bit grayscale",
    "P": "palette",
    "RGB": "RGB",
    "RGBA": "transparent",
    "CMYK": "CMYK",
}
GRAYSCALE = {"bilevel", "grayscale", "transparent grayscale", "16-bit grayscale"}
TARGETS = {1: "grayscale", 3: "RGB"}  # by channels
# EXIF's orientation → what makes such an image upright. 1 is upright, all other numbers mean nothing.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
EXIF_INTEGERS = {3: "H", 4: "I"}
ON_THE_SIDE = {5, 6, 7, 8}  # of which height and width change places
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)  # Pillow's, at photographs that are whole
# What Pillow raises on broken content. No MemoryError: that is no property of the file.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, LookupError, OverflowError, struct.error, zlib.error)
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)  # a warning, where warnings are errors
# Pillow frees the interpreter while it decodes, but not while it reads a header. Measured on 2 cores, threads against a
# loop: 1.4 times the time at 1.1 kB a file (32x32), equal at 2.3 kB (64x64), 0.6 at 6.3 kB (128x128).
BYTES_WORTH_A_THREAD = 3000
FILES_PER_TASK = 64
FILES_NAMED = 20  # in the message about broken ones


class Look(NamedTuple):
    """Facts in the header of an image.

    Attributes:
        size: height and width, of the upright image where it is made upright.
        kind: as in KINDS.
        turn: EXIF's orientation where it is in TURNS, else 1.
    """

    size: tuple[int, int]
    kind: str
    turn: int


def read_images(
    files: Sequence[str],
    root: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    resize_size: int | None = None,
    channels: int | None = None,
    skip_bad_images: bool = False,
    upright: bool = True,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Decode all files, large ones on all cores.

    Args:
        files: paths, at least one.
        root: the folder that messages name them from.
        image_size, resize_size: pixels; see `transforms.fit`. None: the images have one size already.
        channels: 1 or 3; None takes 3 unless every image is grayscale.
        skip_bad_images: whether files that cannot be read are left out.
        upright: whether images that EXIF says are turned come upright.

    Returns:
        `(images, kept, notes)`: uint8 (N, H, W, C); the indices of the files that they come from, int64 (N,); and
        lines that count what was done to them.

    Raises:
        DataError: files that cannot be read, none that can, or images of several sizes.
        ResourceError: the images do not fit into the memory.
    """
    settings = image_size, channels, resize_size, upright
    decoded = (_try_read(path, *settings) for path in files)
    first = next((pixels for pixels, _, _ in decoded if pixels is not None), None)
    images = allocate(len(files), *(first.shape[:2] if first is not None else (1, 1)), 3)

    def fill(indices: Iterable[int]) -> list[tuple]:
        return [_fill(images, index, *_try_read(files[index], *settings)) for index in indices]

    tasks = [range(start, min(start + FILES_PER_TASK, len(files))) for start in range(0, len(files), FILES_PER_TASK)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # starts no thread until it is used
        run = pool.map if os.path.getsize(files[0]) > BYTES_WORTH_A_THREAD else map
        results = [result for task in run(fill, tasks) for result in task]
    problems = {index: problem for index, (_, _, problem) in enumerate(results) if problem}
    if problems and (first is None or not skip_bad_images):
        raise broken_files(files, root, problems)
    kept = np.array([index for index in range(len(files)) if index not in problems], np.int64)
    require_one_size(Counter(results[index][0] for index in kept))
    looks = [results[index][1] for index in kept]
    channels = channels or channels_of(looks)
    images = np.ascontiguousarray((images[kept] if problems else images)[..., :channels])
    return images, kept, conversions(looks, channels, image_size, upright)


def read_image(
    path: str | os.PathLike[str],
    image_size: int | None = None,
    channels: int | None = None,
    resize_size: int | None = None,
    upright: bool = True,
) -> tuple[np.ndarray, Look]:
    """One file's pixels, uint8 (H, W, 1 or 3), and its Look.

    Grayscale stays at one channel, unless `channels` says 1 all other becomes RGB.

    Raises:
        One of BROKEN or BOMBS: no readable image of one of FORMATS, or one of more than MAX_PIXELS.
    """
    with open_image(path) as image:
        look = look_at(image, upright)
        grayscale = channels == 1 or look.kind in GRAYSCALE
        pixels = np.asarray(fit(convert(image, "L" if grayscale else "RGB", upright), image_size, resize_size))
    return (pixels[..., None] if grayscale else pixels), look


def open_image(file: str | os.PathLike[str] | BinaryIO) -> Image.Image:
    """A path or binary file as a Pillow image of which only the header has been read; raises as `read_image`."""
    image = Image.open(file, formats=FORMATS)
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise ValueError(f"{width} x {height} pixels, more than the cap of {MAX_PIXELS:,}")
    return image


def kind_of(image: Image.Image) -> str:
    """What kind of image it is, as in KINDS, before it is decoded."""
    if any("RGB;16" in str(tile[-1]) for tile in image.tile):
        return "16-bit RGB"  # Pillow keeps the upper bytes by itself
    return KINDS.get(image.mode, image.mode)


def look_at(image: Image.Image, upright: bool = True) -> Look:
    """The Look of an image that may not be decoded yet."""
    turn = turn_of(image)
    width, height = reversed(image.size) if upright and turn in ON_THE_SIDE else image.size
    return Look((height, width), kind_of(image), turn)


def turn_of(image: Image.Image) -> int:
    """EXIF's orientation where it is in TURNS, else 1.

    Pillow's getexif would decode a PNG, to look behind its pixels, and warn about damaged data, which harm no image.
    """
    exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    with contextlib.suppress(struct.error):
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (number,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * number, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
            if tag == ExifTags.Base.Orientation and kind in EXIF_INTEGERS:
                (turn,) = struct.unpack_from(f"{order}{EXIF_INTEGERS[kind]}", exif, entry + 8)
                return turn if turn in TURNS else 1
    return 1


def convert(image: Image.Image, mode: str, upright: bool = True) -> Image.Image:
    """A Pillow image of one of KINDS in `mode`, "L" or "RGB", and upright. 16 bits lose the lower 8."""
    turn = turn_of(image) if upright else 1
    if image.mode == "I;16":
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P":
        image = image.convert("RGBA")  # else Pillow warns about palettes with transparency
    image = image.convert(mode)
    return image.transpose(TURNS[turn]) if turn in TURNS else image


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, singular or plural: "3 images", "1 image"."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def _try_read(path: str, *settings: Any) -> tuple[np.ndarray | None, Look | None, str | None]:
    """Pixels, Look and None; or None, None and what is wrong."""
    try:
        return *read_image(path, *settings), None
    except (*BROKEN, *BOMBS) as error:
        return None, None, reason(path, error)


def _fill(
    images: np.ndarray, index: int, pixels: np.ndarray | None, look: Look | None, problem: str | None
) -> tuple[tuple[int, ...] | None, Look | None, str | None]:
    """Put one image into its row, if it has the size; return its size there, its Look and what is wrong."""
    if pixels is None:
        return None, None, problem
    if pixels.shape[:2] == images.shape[1:3]:
        images[index] = pixels  # one channel fills all three
    return pixels.shape[:2], look, None


def reason(path: str | os.PathLike[str], error: BaseException) -> str:
    """What is wrong with a file, in a few words."""
    if isinstance(error, BOMBS):
        return f"more pixels than the cap of {MAX_PIXELS:,}"
    if not isinstance(error, UnidentifiedImageError):
        return str(error)
    with open(path, "rb") as file:
        head = file.read(64).lstrip()
    if not head:
        return "empty file"
    found = next((what for signature, what in SIGNATURES.items() if head.startswith(signature)), "something else")
    return f"{found}, not JPEG, PNG or BMP"


def allocate(number: int, height: int, width: int, channels: int) -> np.ndarray:
    """An uninitialised uint8 array (N, H, W, C); raises ResourceError where it is larger than the machine's memory."""
    needed = number * height * width * channels
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise ResourceError(
            f"{count(number, 'image')} of {height} x {width} pixels do not fit into the memory",
            seen=f"{needed / 1e9:.1f} GB needed, {memory / 1e9:.1f} GB there",
            next_step=("use fewer images", "take some of them with `limit`", "make them smaller with `image_size`"),
        )
    return np.empty((number, height, width, channels), np.uint8)


def broken_files(files: Sequence[str], root: str | os.PathLike[str], problems: Mapping[int, str]) -> DataError:
    """The error that names the broken ones of `files`; `problems` holds index → what is wrong."""
    named = [
        f"    {printable(os.path.relpath(files[index], root))}: {printable(problem, 100)}"
        for index, problem in list(problems.items())[:FILES_NAMED]
    ]
    if len(problems) > FILES_NAMED:
        named.append(f"    and {len(problems) - FILES_NAMED:,} more")
    all_broken = len(problems) == len(files)
    return DataError(
        "\n".join([f"{len(problems):,} of {count(len(files), 'file')} cannot be read", *named]),
        where=printable(str(root)),
        allowed="JPEG, PNG or BMP images (by their content)",
        next_step=("replace these files", *([] if all_broken else ["leave them out with `skip_bad_images`"])),
    )


def require_one_size(sizes: Counter[tuple[int, int]]) -> None:
    """Raise DataError when images differ in size."""
    if len(sizes) > 1:
        common = ", ".join(f"{height} x {width} ({number:,})" for (height, width), number in sizes.most_common(5))
        raise DataError(
            f"the images have {len(sizes):,} different sizes",
            seen=f"height x width (images): {common}{', ...' if len(sizes) > 5 else ''}",
            allowed="one size",
            next_step=(
                "resize and crop them with `image_size`, such as `image_size=32`",
                "bring the files to one size",
            ),
        )


def channels_of(looks: Sequence[Look]) -> int:
    """1 where all images are grayscale, else 3."""
    return 1 if {look.kind for look in looks} <= GRAYSCALE else 3


def conversions(looks: Sequence[Look], channels: int, image_size: int | None, upright: bool) -> tuple[str, ...]:
    """A line for each kind of change (pixel format, upright by EXIF, size), and one for images that stay turned."""
    target, kinds = TARGETS[channels], Counter(look.kind for look in looks)
    turned = sum(look.turn != 1 for look in looks)
    resized = 0 if image_size is None else sum(look.size != (image_size, image_size) for look in looks)
    lines = [
        f"converted {count(number, f'{kind} image')} to {target}"
        for kind, number in sorted(kinds.items())
        if kind != target
    ]
    if turned and upright:
        lines.append(f"turned {count(turned, 'image')} upright, as EXIF says")
    elif turned:
        lines.append(f"left {count(turned, 'image')} as stored, though EXIF says that they are turned: the paper's way")
    if resized:
        lines.append(f"resized {count(resized, 'image')} to {image_size} x {image_size}")
    return tuple(lines)
