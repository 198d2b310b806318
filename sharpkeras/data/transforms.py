"""Resizing and cropping: the centre crop of evaluation and the random resized crop of training.

As torchvision's transforms on Pillow images, bilinear and with Pillow's antialiasing.
"""

import math

import numpy as np
from PIL import Image, ImageOps

BILINEAR = Image.Resampling.BILINEAR
# RandomResizedCrop: the crop's share of the image's area, its ratio of width to height, and how often it tries.
SCALE, RATIO, ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10
MAX_PIXELS = 64_000_000  # of one image: above photographs, far below a decompression bomb


def fit(image: Image.Image, image_size: int | None, resize_size: int | None = None) -> Image.Image:
    """The evaluation view of a Pillow image: its short side is resized and its centre cropped.

    Args:
        image: a Pillow image.
        image_size: pixels of the sides of the square that is left; None leaves the image as it is.
        resize_size: pixels of the short side before the crop, `image_size` or more, such as 256 for 224: torchvision's
            Resize and CenterCrop. None resizes to `image_size`, so that the largest square is kept.

    Raises:
        ValueError: the image is so narrow that it would have more than MAX_PIXELS before the crop.
    """
    if image_size is None:
        return image
    if resize_size is None:
        if image.size == (image_size, image_size):
            return image
        return ImageOps.fit(image, (image_size, image_size), method=BILINEAR)
    short = min(image.size)
    width, height = (int(resize_size * side / short) for side in image.size)
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels before the crop, more than the cap of {MAX_PIXELS:,}")
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    if image.size != (width, height):
        image = image.resize((width, height), BILINEAR)
    return image.crop((left, top, left + image_size, top + image_size))


def random_resized_crop(image: Image.Image, size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    """The training view of a Pillow image: a random part of it, resized to `size`, (height, width) in pixels.

    As torchvision's RandomResizedCrop. All that is random comes from `generator`, a numpy.random.Generator.
    """
    return image.crop(random_box(*image.size, generator)).resize((size[1], size[0]), BILINEAR)


def random_box(width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """The part of an image that RandomResizedCrop takes: (left, top, right, bottom) in pixels."""
    for _ in range(ATTEMPTS):
        area = width * height * generator.uniform(*SCALE)
        ratio = math.exp(generator.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(generator.integers(height - crop_height + 1))
            left = int(generator.integers(width - crop_width + 1))
            return left, top, left + crop_width, top + crop_height
    crop_width = min(width, round(height * RATIO[1]))  # the centre, as much of it as the ratio allows
    crop_height = min(height, round(width / RATIO[0]))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height
