"""AutoAugment by Pillow, an image at a time: what the layer is tested against and timed beside."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

import sharpkeras

PAPER = json.loads((Path(sharpkeras.__file__).parent / "paper" / "autoaugment.json").read_text("utf-8"))


def pillow(image, name, magnitude, sign):
    """The operation with the magnitude index of a policy on a PIL image, as autoaugment.json and Pillow define it."""
    width, height = image.size
    fill = tuple(PAPER["fill"]) if image.mode == "RGB" else PAPER["fill"][0]

    def between(first, last):
        return np.linspace(first, last, 10)[magnitude]

    def affine(*coefficients):
        return image.transform(image.size, Image.Transform.AFFINE, coefficients, fillcolor=fill)

    def enhance(kind):
        return kind(image).enhance(1 + sign * between(0, 0.9))

    operations = {
        "shearX": lambda: affine(1, sign * between(0, 0.3), 0, 0, 1, 0),
        "shearY": lambda: affine(1, 0, 0, sign * between(0, 0.3), 1, 0),
        "translateX": lambda: affine(1, 0, sign * between(0, 150 / 331) * width, 0, 1, 0),
        "translateY": lambda: affine(1, 0, 0, 0, 1, sign * between(0, 150 / 331) * height),
        "rotate": lambda: image.rotate(sign * between(0, 30), fillcolor=fill),
        "invert": lambda: ImageOps.invert(image),
        "solarize": lambda: ImageOps.solarize(image, between(256, 0)),
        "posterize": lambda: ImageOps.posterize(image, int(np.round(between(8, 4)))),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "color": lambda: enhance(ImageEnhance.Color),
        "contrast": lambda: enhance(ImageEnhance.Contrast),
        "brightness": lambda: enhance(ImageEnhance.Brightness),
        "sharpness": lambda: enhance(ImageEnhance.Sharpness),
        "cutout": lambda: image,  # nothing, as in the official code
    }
    return operations[name]()


def to_pillow(image):
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def to_array(image):
    return np.atleast_3d(np.asarray(image))


def pillow_policy(image, policy, draws):
    image = to_pillow(image)
    steps = PAPER[policy][int(draws[0] * len(PAPER[policy]))]
    for (name, probability, magnitude), applied, sign in zip(steps, draws[1::2], draws[2::2]):
        if applied < np.float32(probability):
            image = pillow(image, name, magnitude, -1 if sign < 0.5 else 1)
    return to_array(image)
