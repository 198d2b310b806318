"""AutoAugment's operations as Pillow defines them, to the last bit, on a batch with one operation for each image.

Keras has operations of the same names by other definitions, which is why they are not used (measured at 32×32 unless it
says otherwise):

- `keras.layers.AutoContrast` does not truncate to whole levels: 43 % of the values differ, by up to 1.
  `keras.layers.Equalization` spreads the histogram by another formula: 98 % differ, by up to 45.
- `keras.ops.image.affine_transform` counts from the centre of a pixel, Pillow from its corner: 24 % of a rotated image
  differ. With Pillow's matrix moved by that half pixel, 4 of 5,017,600 pixels differ at 224×224, and more from 256
  pixels on, where float32 cannot hold Pillow's 16.16 fixed point; on JAX it takes 14 times as long as the gather here.
- Keras' random layers draw from seeds of their own; here all randomness is an argument, as in `augment`.

Pillow's blending is that of `blend` where its C compiler does not fuse multiplication and addition, as on x86-64;
elsewhere they may differ by 1.
"""

import functools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from keras import ops

# The operations by what they do to an image, with their magnitudes at the indices 0 to 9 of the policies.
NO_MAGNITUDE = np.zeros(10)
MOVING = {
    "shearX": np.linspace(0, 0.3, 10),
    "shearY": np.linspace(0, 0.3, 10),
    "translateX": np.linspace(0, 150 / 331, 10),  # of the width
    "translateY": np.linspace(0, 150 / 331, 10),  # of the height
    "rotate": np.linspace(0, 30, 10),  # degrees
}
MAPPING = {
    "invert": NO_MAGNITUDE,
    "solarize": np.linspace(256, 0, 10),  # the threshold
    "posterize": np.round(np.linspace(8, 4, 10)),  # bits kept
    "autocontrast": NO_MAGNITUDE,
    "equalize": NO_MAGNITUDE,
}
BLENDING = dict.fromkeys(("color", "contrast", "brightness", "sharpness"), np.linspace(0, 0.9, 10))  # 1 ± magnitude
MAGNITUDES = {"identity": NO_MAGNITUDE, **MOVING, **MAPPING, **BLENDING}
OPERATIONS = tuple(MAGNITUDES)  # on the device an operation is its index here

FILL = 128  # gray, for what comes into view
LEVELS = np.arange(256)
CHUNK = 4  # images that are changed at a time; see `transform`


def transform(images: Any, operation: Any, magnitude: Any, negative: Any) -> Any:
    """Each image by one operation of its own.

    Args:
        images: float32 (B, H, W, C), whole numbers 0..255.
        operation: int32 (B,), indices into OPERATIONS.
        magnitude: int32 (B,), 0..9.
        negative: bool (B,), whether the sign of the magnitude is minus, for operations that have one.

    Returns:
        float32 (B, H, W, C), whole numbers 0..255.
    """
    batch, height, width, channels = ops.shape(images)
    signed = magnitude * 2 + ops.cast(negative, "int32")
    row = operation * 20 + signed
    families = (
        (move, MOVING, _matrices(height, width), row),
        (remap, MAPPING, _tables(), row),
        (blend, BLENDING, _products(), ops.where(_among(operation, BLENDING), signed, 0)),
    )
    order = ops.argsort(operation)  # equal operations together
    filled = ops.take(order, ops.minimum(ops.arange(-(-batch // CHUNK) * CHUNK, dtype="int32"), batch - 1))

    def change(where: Any) -> Any:
        chunk, here = ops.take(images, where, axis=0), ops.take(operation, where)
        for function, names, table, chosen in families:
            parameters = ops.take(table, ops.take(chosen, where), axis=0)  # those of the identity for other families
            changed = functools.partial(function, chunk, here, parameters)
            chunk = ops.cond(ops.any(_among(here, names)), changed, lambda chunk=chunk: chunk)
        return chunk

    # Chunks spare work: whole batches of 32 at 224×224 take three times as long, since every family changes all images.
    chunks = ops.map(change, ops.reshape(filled, (-1, CHUNK)))
    changed = ops.reshape(chunks, (-1, height, width, channels))
    return ops.take(changed, ops.argsort(order), axis=0)


def _index(name: str) -> int:
    return OPERATIONS.index(name)


def _is(operation: Any, name: str) -> Any:
    """Where the operation is that of a name, as bool (B, 1, 1, 1)."""
    return ops.equal(operation, _index(name))[:, None, None, None]


def _among(operation: Any, names: Iterable[str]) -> Any:
    """Where the operation is one of some names, as bool (B,)."""
    return ops.any(ops.equal(operation[:, None], np.array([_index(name) for name in names], np.int32)), axis=1)


def _rows() -> list[tuple[str, float, int]]:
    """Every operation, magnitude and sign, in the order of `row` in `transform`."""
    return [(name, magnitude, sign) for name in OPERATIONS for magnitude in MAGNITUDES[name] for sign in (1, -1)]


def _look_up(tables: Any, values: Any) -> Any:
    """For each pixel its entry: tables (B, C, E) at values (B, H, W, C) in 0..E-1."""
    return ops.take(ops.reshape(tables, (-1,)), _places(values, tables.shape[-1]))


def _places(values: Any, entries: int) -> Any:
    """Where the entry of each pixel lies in flattened tables (B, C, entries): int32 (B, H, W, C)."""
    batch, channels = ops.shape(values)[0], values.shape[-1]
    first = ops.arange(batch * channels, dtype="int32") * entries
    return ops.cast(values, "int32") + ops.reshape(first, (batch, 1, 1, channels))


# ---- moving: Image.transform(AFFINE, NEAREST) and Image.rotate


def move(images: Any, operation: Any, matrices: Any) -> Any:
    """Images under affine maps from the pixels of the result to those of the image.

    Args:
        images: (B, H, W, C).
        operation: (B,), not needed.
        matrices: int32 (B, 6), a row of `_matrices` each.
    """
    _, height, width, channels = images.shape
    a, b, c, d, e, f = ops.unstack(matrices[:, None, None], 6, axis=-1)  # (B, 1, 1)
    y, x = np.arange(height, dtype=np.int32)[:, None], np.arange(width, dtype=np.int32)
    from_x = ops.right_shift(a * x + b * y + c, 16)  # (B, H, W)
    from_y = ops.right_shift(d * x + e * y + f, 16)
    inside_x = ops.logical_and(from_x >= 0, from_x < width)
    inside = ops.logical_and(inside_x, ops.logical_and(from_y >= 0, from_y < height))
    first = ops.arange(ops.shape(images)[0], dtype="int32")[:, None, None] * (height * width)
    pixels = ops.where(inside, first + from_y * width + from_x, 0)
    moved = ops.take(ops.reshape(images, (-1, channels)), pixels, axis=0)
    return ops.where(inside[..., None], moved, float(FILL))


def _matrices(height: int, width: int) -> np.ndarray:
    """For each row a, b, c, d, e, f of x' = ax + by + c, y' = dx + ey + f: 16.16 fixed point, as Pillow rounds it."""
    rows = []
    for name, magnitude, sign in _rows():
        a, b, c, d, e, f = _matrix(name, magnitude * sign, height, width)
        rows.append([a, b, c + (a + b) / 2, d, e, f + (d + e) / 2])  # the centre of a pixel lies half a pixel in
    return np.floor(np.array(rows) * 2**16 + 0.5).astype(np.int32)


def _matrix(name: str, amount: float, height: int, width: int) -> tuple[float, ...]:
    if name == "shearX":
        return 1, amount, 0, 0, 1, 0
    if name == "shearY":
        return 1, 0, 0, amount, 1, 0
    if name == "translateX":
        return 1, 0, amount * width, 0, 1, 0
    if name == "translateY":
        return 1, 0, 0, 0, 1, amount * height
    if name == "rotate":  # about the centre; Image.rotate rounds to 15 digits too
        angle = -math.radians(amount % 360)
        cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
        x, y = width / 2, height / 2
        return cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y
    return 1, 0, 0, 0, 1, 0


# ---- mapping: ImageOps, one new level for each old one


def remap(images: Any, operation: Any, tables: Any) -> Any:
    """Images through look-up tables, those of "autocontrast" and "equalize" made from the histogram of each channel.

    Args:
        images: (B, H, W, C).
        operation: int32 (B,).
        tables: float32 (B, 256), a row of `_tables` each.
    """
    tables = ops.repeat(tables[:, None], images.shape[-1], axis=1)  # (B, C, 256)

    def adapt() -> Any:
        counts = _histograms(images)
        adapted = ops.where(_is(operation, "equalize")[..., 0], ops.cast(_equalize(counts), "float32"), tables)
        return ops.where(_is(operation, "autocontrast")[..., 0], ops.cast(_autocontrast(counts), "float32"), adapted)

    # This spares histograms, and keeps XLA from making the tables anew for every pixel: 3.1 ms, not 0.4, at 224×224.
    tables = ops.cond(ops.any(_among(operation, ("autocontrast", "equalize"))), adapt, lambda: tables)
    return _look_up(tables, images)


def _tables() -> np.ndarray:
    """For each row the new level of every level, where it needs no histogram: float32 (rows, 256)."""
    return np.array([_table(name, magnitude) for name, magnitude, _ in _rows()], np.float32)


def _table(name: str, magnitude: float) -> np.ndarray:
    if name == "invert":
        return 255 - LEVELS
    if name == "solarize":
        return np.where(magnitude > LEVELS, LEVELS, 255 - LEVELS)
    if name == "posterize":
        return LEVELS & -(2 ** (8 - int(magnitude)))
    return LEVELS


def _histograms(images: Any) -> Any:
    """How often each level occurs: int32 (B, C, 256)."""
    batch, channels = ops.shape(images)[0], images.shape[-1]
    places = ops.reshape(_places(images, 256), (-1,))
    counts = ops.segment_sum(ops.ones_like(places), places, num_segments=batch * channels * 256)
    return ops.reshape(counts, (batch, channels, 256))


def _equalize(counts: Any) -> Any:
    """ImageOps.equalize: the levels below, in steps that spread all pixels but those of the highest level over 255."""
    up_to = ops.cumsum(counts, axis=-1)
    pixels = up_to[..., -1:]
    below_highest = ops.max(ops.where(ops.equal(up_to, pixels), 0, up_to), axis=-1, keepdims=True)
    step = ops.floor_divide(below_highest, 255)
    spread = ops.floor_divide(ops.floor_divide(step, 2) + up_to - counts, ops.maximum(step, 1))
    return ops.where(step > 0, ops.minimum(spread, 255), LEVELS.astype(np.int32))


def _autocontrast(counts: Any) -> Any:
    """ImageOps.autocontrast: from the lowest level 0 to the highest level 255."""
    levels, seen = LEVELS.astype(np.int32), ops.cast(counts > 0, "int32")
    low = ops.cast(ops.argmax(seen, axis=-1, keepdims=True), "int32")
    high = 255 - ops.cast(ops.argmax(ops.flip(seen, axis=-1), axis=-1, keepdims=True), "int32")
    stretched = ops.floor_divide((levels - low) * 255, ops.maximum(high - low, 1))
    rounded_down = ops.convert_to_tensor(_rounded_down())
    code = (low * 256 + high) * 256 + levels
    nearest = ops.minimum(ops.searchsorted(rounded_down, ops.reshape(code, (-1,))), len(_rounded_down()) - 1)
    is_rounded_down = ops.equal(ops.reshape(ops.take(rounded_down, nearest), ops.shape(code)), code)
    stretched = ops.clip(stretched - ops.cast(is_rounded_down, "int32"), 0, 255)
    return ops.where(high > low, stretched, levels)


@functools.cache
def _rounded_down() -> np.ndarray:
    """The cases (low · 256 + high) · 256 + level, sorted, in which Pillow's doubles end just below a whole number.

    Pillow truncates level · scale + offset. In 12,094 of 2,828,800 cases where the exact value is whole (often 255 at
    the highest level) its value is less by one. Neither JAX nor a GPU's float32 has the doubles to follow it.
    """
    cases = []
    for low in range(255):
        high = np.arange(low + 1, 256)[:, None]
        scale = 255.0 / (high - low)
        pillow = np.clip((LEVELS * scale + -low * scale).astype(int), 0, 255)
        exact = np.clip((LEVELS - low) * 255 // (high - low), 0, 255)
        row, level = np.nonzero(exact - pillow)
        cases.append((low * 256 + high[row, 0]) * 256 + level)
    return np.concatenate(cases).astype(np.int32)


# ---- blending: ImageEnhance, an image and a degenerate form of it


def blend(images: Any, operation: Any, products: Any) -> Any:
    """degenerate + factor · (image - degenerate), which is gray, evenly gray, black or smooth.

    The products are looked up, since a compiler may fuse multiplication and addition, which skips a rounding, and
    truncation then makes a level of the difference.

    Args:
        images: (B, H, W, C).
        operation: int32 (B,).
        products: float32 (B, 511), a row of `_products` each.
    """
    _, height, width, channels = images.shape
    gray = _gray(images)
    total, size = ops.sum(ops.cast(gray, "int32"), axis=(1, 2, 3), keepdims=True), height * width
    mean = ops.cast(ops.floor_divide(2 * total + size, 2 * size), "float32")
    degenerate = ops.where(_is(operation, "color"), gray, ops.where(_is(operation, "contrast"), mean, 0.0))
    smooth = ops.cond(ops.any(_is(operation, "sharpness")), lambda: _smooth(images), lambda: images)
    degenerate = ops.where(_is(operation, "sharpness"), smooth, degenerate)
    products = ops.repeat(products[:, None], channels, axis=1)  # (B, C, 511)
    return ops.floor(ops.clip(degenerate + _look_up(products, images - degenerate + 255), 0, 255))


def _products() -> np.ndarray:
    """For each factor 1 ± magnitude its products with the differences -255..255, rounded to float32: (20, 511)."""
    factors = [1 + magnitude * sign for magnitude in BLENDING["color"] for sign in (1, -1)]
    return np.array(factors, np.float32)[:, None] * np.arange(-255, 256, dtype=np.float32)


def _gray(images: Any) -> Any:
    """Image.convert("L"), (B, H, W, 1): whole numbers below 2²⁴, which float32 holds exactly."""
    if images.shape[-1] == 1:
        return images
    red, green, blue = ops.split(images, 3, axis=-1)
    return ops.floor((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536)


def _smooth(images: Any) -> Any:
    """ImageFilter.SMOOTH: weights 1, and 5 in the centre, over 13; the outermost pixels stay."""
    _, height, width, _ = images.shape
    padded = ops.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]])
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * images
    inner = np.zeros((height, width, 1), bool)
    inner[1:-1, 1:-1] = True
    return ops.where(inner, ops.floor(sums / 13 + 0.5), images)
