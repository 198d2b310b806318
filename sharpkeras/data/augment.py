"""The augmentation of the official code, batched and on the device: crop, flip, AutoAugment, normalise, cutout.

All randomness comes in as an argument: `draws`, uniforms in [0, 1) with one row per example (`batches.epoch_uniforms`).
TensorFlow and JAX then give the same images, and a resumed run the images that it would have had.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from sharpkeras.data import autoaugment as policies
from sharpkeras.data.autoaugment_ops import FILL
from sharpkeras.errors import UsageError

# What each column of `draws` decides.
OWN_DRAWS = ("crop_y", "crop_x", "flip", "cutout_y", "cutout_x")
DRAWS = (*OWN_DRAWS, *policies.DRAWS)
NUM_DRAWS = len(DRAWS)


def normalize(images: Any, mean: Sequence[float], std: Sequence[float], dtype: str = "float32") -> Any:
    """(x / 255 − mean) / std for each channel.

    Args:
        images: (B, H, W, C) on the scale 0..255, of any dtype.
        mean, std: C numbers each, on the scale 0..1.
        dtype: of the result; the arithmetic is float32.

    Returns:
        (B, H, W, C).
    """
    images = ops.cast(images, "float32") / 255.0
    mean = ops.convert_to_tensor(mean, "float32")
    std = ops.convert_to_tensor(std, "float32")
    return ops.cast((images - mean) / std, dtype)


def crop_and_flip(
    images: Any, crop_y: Any, crop_x: Any, flip: Any, *, crop_padding_px: int = 4, fill: float = 0
) -> Any:
    """Crops each image, padded with one colour, back to its size at a random place, and mirrors half of them.

    As torchvision's RandomCrop(size, padding) and RandomHorizontalFlip on the raw image: the padding is black before
    the normalisation, not the mean after it. Both are one gather of pixels.

    Args:
        images: (B, H, W, C) on the scale 0..255.
        crop_y, crop_x: uniforms (B,).
        flip: uniforms (B,), mirrored below 0.5; None mirrors none.
        crop_padding_px: pixels on every side before the crop; the crop moves by as many at most.
        fill: the padding, on the scale 0..255.

    Returns:
        float32 (B, H, W, C) on the scale 0..255.
    """
    _, height, width, channels = images.shape
    pad = crop_padding_px
    # TensorFlow gathers float32 on a GPU, but not uint8.
    images = ops.pad(ops.cast(images, "float32"), [[0, 0], [pad, pad], [pad, pad], [0, 0]], constant_values=fill)
    rows = ops.arange(height, dtype="int32") + _choice(crop_y, 2 * pad + 1)[:, None]  # (B, H)
    columns = ops.arange(width, dtype="int32")[None, :]  # (1, W)
    if flip is not None:
        columns = ops.where(flip[:, None] < 0.5, width - 1 - columns, columns)  # (B, W)
    columns = columns + _choice(crop_x, 2 * pad + 1)[:, None]
    first_row = ops.arange(ops.shape(images)[0], dtype="int32")[:, None] * (height + 2 * pad)  # of each image
    pixels = (first_row + rows)[:, :, None] * (width + 2 * pad) + columns[:, None, :]  # (B, H, W)
    return ops.take(ops.reshape(images, (-1, channels)), pixels, axis=0)


def cutout(images: Any, center_y: Any, center_x: Any, *, cutout_px: int = 16) -> Any:
    """Sets a square of each image to zero, which is the mean colour where images are normalised.

    As the official Cutout: the centre is uniform over the pixels, so the square may stick out and lose a part; rows
    from centre − px // 2 up to, but without, centre + px // 2.

    Args:
        images: (B, H, W, C), normalised.
        center_y, center_x: uniforms (B,).
        cutout_px: side of the square; 0 for none.

    Returns:
        (B, H, W, C).

    Raises:
        UsageError: the square is larger than the image.
    """
    _, height, width, _ = images.shape
    if not 0 <= cutout_px <= min(height, width):
        raise UsageError(
            "the cutout does not fit into the image",
            where="`cutout_px`",
            seen=f"{cutout_px} px on images of {height} x {width} px",
            allowed=f"0 to {min(height, width)}",
        )
    inside_rows = _near(center_y, height, cutout_px)[:, :, None, None]
    inside_columns = _near(center_x, width, cutout_px)[:, None, :, None]
    return ops.where(ops.logical_and(inside_rows, inside_columns), ops.zeros_like(images), images)


@keras.saving.register_keras_serializable("sharpkeras")
class Cutout(keras.layers.Layer):
    """Sets a square of each image to zero, at a random place; does nothing at inference (see `cutout`).

    Zero is the mean colour of images that are normalised, as the paper has them, and black of those that are not.

    Args:
        cutout_px: side of the square.
        seed: of the random places, an integer; None is another one each time.
    """

    def __init__(self, cutout_px: int = 16, seed: int | None = None, *, name: str | None = None) -> None:
        super().__init__(name=name, autocast=False)  # so that uniforms stay float32
        self.cutout_px, self.seed = cutout_px, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any, training: bool = True) -> Any:
        """The images, (B, H, W, C) or (H, W, C), with a square of zeros where `training`; H and W are static."""
        if not training:
            return images

        def cut(images: Any, draws: Any) -> Any:
            return cutout(images, draws[:, 0], draws[:, 1], cutout_px=self.cutout_px)

        return policies.drawn(cut, images, 2, self.seed_generator)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "cutout_px": self.cutout_px, "seed": self.seed}


def augment(
    images: Any,
    draws: Any,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    crop_padding_px: int = 4,
    flip: bool = True,
    autoaugment: str | None = None,
    cutout_px: int = 16,
    dtype: str = "float32",
) -> Any:
    """The official training augmentation: crop, flip, AutoAugment, normalise, cutout.

    As in the official code the crop pads with black, or with AutoAugment's gray where that follows.

    Args:
        images: uint8 (B, H, W, C).
        draws: uniforms, float32 (B, NUM_DRAWS or more); the columns are named in DRAWS.
        mean, std: C numbers each, on the scale 0..1.
        crop_padding_px: see `crop_and_flip`; 0 for no crop.
        flip: whether images may be mirrored, `Dataset.flip`.
        autoaugment: a policy, "cifar10" or "imagenet"; None for no AutoAugment, whose columns are not needed then.
        cutout_px: see `cutout`; 0 for none.
        dtype: of the result.

    Returns:
        (B, H, W, C).

    Raises:
        UsageError: the cutout is larger than the image, or there is no such policy.
    """
    own = len(OWN_DRAWS)
    crop_y, crop_x, flip_draw, cutout_y, cutout_x = ops.unstack(draws[:, :own], own, axis=-1)
    crop = {"crop_padding_px": crop_padding_px, "fill": 0 if autoaugment is None else FILL}
    images = crop_and_flip(images, crop_y, crop_x, flip_draw if flip else None, **crop)
    if autoaugment is not None:
        images = policies.autoaugment(images, draws[:, own:NUM_DRAWS], autoaugment)
    images = normalize(images, mean, std, dtype)
    return cutout(images, cutout_y, cutout_x, cutout_px=cutout_px)


def _choice(uniform: Any, n: int) -> Any:
    """One of 0..n−1, int32, from uniforms in [0, 1)."""
    return ops.cast(ops.floor(uniform * n), "int32")


def _near(center: Any, size: int, length: int) -> Any:
    """Which of `size` pixels lie in the square around the pixel that `center`, a uniform, chooses: bool (B, size)."""
    center = _choice(center, size)[:, None]
    pixel = ops.arange(size, dtype="int32")
    return ops.logical_and(pixel >= center - length // 2, pixel < center + length // 2)
