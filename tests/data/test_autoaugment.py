"""AutoAugment against Pillow: each operation, whole policies by the same draws, and how often what is drawn."""

import os
import platform
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image, ImageOps
from support.pillow_autoaugment import PAPER, pillow, pillow_policy, to_array, to_pillow

from sharpkeras.data import augment, batches
from sharpkeras.data.autoaugment import NUM_DRAWS, POLICIES, AutoAugment, chosen_steps, read_policy
from sharpkeras.data.autoaugment_ops import OPERATIONS, transform
from sharpkeras.errors import UsageError

# Where Pillow's C compiler fuses multiplication and addition, its blending skips a rounding.
FUSES = platform.machine().lower() not in ("x86_64", "amd64")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
SHAPES = [(19, 20, 3), (9, 21, 1), (2, 3, 3)]


# ---- images


def made_images(shape):
    """Noise, few levels, few dark pixels, gradients, one colour, and low contrast: uint8 (B, *shape)."""
    rng = np.random.default_rng(0)
    height, width, _ = shape
    images = [
        rng.integers(0, 256, shape),
        rng.choice([3, 90, 200], shape),
        np.where(rng.random(shape) < 0.05, 10, 240),
        np.broadcast_to(np.linspace(0, 255, width)[None, :, None], shape),
        np.broadcast_to(np.linspace(20, 130, height)[:, None, None], shape),
        np.full(shape, 77),
        *(rng.normal(mean, 20, shape) for mean in (20, 128, 240)),
        *(rng.integers(low, high, shape) for low, high in ((31, 90), (7, 200))),
    ]
    return np.clip(images, 0, 255).astype(np.uint8)


def real_images(variable, size, count=6):
    """Images of a class folder that the environment names, at a size; skips without."""
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set")
    files = sorted(path for path in Path(os.environ[variable]).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    chosen = files[:: max(1, len(files) // count)][:count]
    return np.stack([to_array(Image.open(path).convert("RGB").resize((size, size))) for path in chosen])


def transformed(images, name, magnitudes, negative):
    operation = np.full(len(images), OPERATIONS.index(name), np.int32)
    images = ops.cast(images, "float32")
    return ops.convert_to_numpy(transform(images, operation, magnitudes.astype(np.int32), negative))


def compare(images, name):
    """All images at all magnitudes and both signs, in one batch."""
    magnitudes, signs, which = (axis.ravel() for axis in np.meshgrid(range(10), (1, -1), range(len(images))))
    found = transformed(images[which], name, magnitudes, signs < 0)
    expected = [
        to_array(pillow(to_pillow(images[i]), name, magnitude, sign))
        for magnitude, sign, i in zip(magnitudes, signs, which)
    ]
    blended = name in ("color", "contrast", "brightness", "sharpness")
    np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=1 if FUSES and blended else 0)


# ---- operations


@pytest.mark.parametrize("name", OPERATIONS[1:])
def test_operation_is_that_of_pillow(name):
    for shape in SHAPES:
        compare(made_images(shape), name)


@pytest.mark.parametrize("name", OPERATIONS[1:])
@pytest.mark.parametrize("variable, size", [("SHARPKERAS_CIFAR10_DIR", 32), ("SHARPKERAS_IMAGENET_DIR", 224)])
def test_operation_is_that_of_pillow_on_real_images(variable, size, name):
    compare(real_images(variable, size), name)


def test_operations_are_those_of_the_policies():
    named = {step[0] for policy in POLICIES for steps in PAPER[policy] for step in steps}
    assert named - {"cutout"} == set(OPERATIONS) - {"identity"} == set(PAPER["magnitudes"])
    for policy in POLICIES:
        for steps in PAPER[policy]:
            assert len(steps) == 2
            assert all(0 <= probability <= 1 and magnitude in range(10) for _, probability, magnitude in steps)


def test_autocontrast_rounds_as_doubles_do():
    # Each channel holds every level between two random ones.
    low, high = np.sort(np.random.default_rng(0).integers(0, 256, (2, 200, 1, 1, 3)), axis=0)
    images = np.clip(np.arange(256)[:, None], low, high).astype(np.uint8)
    found = transformed(images, "autocontrast", np.zeros(200), np.zeros(200, bool))
    np.testing.assert_array_equal(found, [ImageOps.autocontrast(to_pillow(image)) for image in images])
    assert (found.max(axis=2) == 254).any()  # where Pillow's doubles end just below 255


# ---- policies


def policy_input(count, shape):
    images = np.resize(made_images(shape), (count, *shape))
    draws = batches.epoch_uniforms(count, NUM_DRAWS, seed=0, epoch=0)
    draws[0], draws[1] = 0, np.nextafter(np.float32(1), np.float32(0))
    return images, draws


@pytest.mark.parametrize("shape", [(16, 16, 3), (9, 21, 1)])
@pytest.mark.parametrize("policy", POLICIES)
def test_policy_is_a_pillow_loop(policy, shape):
    images, draws = policy_input(150, shape)
    expected = np.stack([pillow_policy(image, policy, row) for image, row in zip(images, draws)])
    found = ops.convert_to_numpy(AutoAugment(policy)(images, draws))
    assert found.dtype == np.float32 and (found != images).any(axis=(1, 2, 3)).mean() > 0.4
    if FUSES:  # what follows may enlarge a level
        assert (np.abs(found - expected) > 1).mean() < 0.01
    else:
        np.testing.assert_array_equal(found, expected)


def test_an_image_does_not_depend_on_its_batch():
    layer = AutoAugment("imagenet")
    images, draws = policy_input(11, (8, 8, 3))
    whole = ops.convert_to_numpy(layer(images, draws))
    np.testing.assert_array_equal(whole, layer(images, draws))
    for count in (1, 3, 6):
        np.testing.assert_array_equal(whole[-count:], layer(images[-count:], draws[-count:]))
    np.testing.assert_array_equal(whole[::-1], layer(images[::-1].copy(), draws[::-1].copy()))


def outcomes(policy):
    """What the two steps may do, each (operation, magnitude) or None, with its probability by autoaugment.json."""
    found = Counter()
    for steps in PAPER[policy]:
        for first in (True, False):
            for second in (True, False):
                outcome, probability = [], 1 / len(PAPER[policy])
                for (name, applied, magnitude), does in zip(steps, (first, second)):
                    probability *= applied if does else 1 - applied
                    outcome.append((name, magnitude) if does and name != "cutout" else None)
                found[tuple(outcome)] += probability
    return {outcome: probability for outcome, probability in found.items() if probability > 1e-12}


@pytest.mark.parametrize("policy", POLICIES)
def test_frequencies_are_those_of_the_policy(policy):
    from scipy.stats import binomtest, chisquare

    count = 200_000
    steps = chosen_steps(batches.epoch_uniforms(count, NUM_DRAWS, seed=1, epoch=0), read_policy(policy))
    steps = [[ops.convert_to_numpy(column) for column in step] for step in steps]
    done = [
        [None if o == 0 else (OPERATIONS[o], m) for o, m in zip(operation.tolist(), magnitude.tolist())]
        for operation, magnitude, _ in steps
    ]
    observed, expected = Counter(zip(*done)), outcomes(policy)
    assert observed.keys() <= expected.keys()
    assert chisquare([observed[key] for key in expected], [count * p for p in expected.values()]).pvalue > 0.001
    for operation, _, negative in steps:
        signs = negative[operation > 0]
        assert binomtest(int(signs.sum()), len(signs)).pvalue > 0.001
    both = np.logical_and(steps[0][0] > 0, steps[1][0] > 0)  # the two signs are drawn independently
    assert binomtest(int((steps[0][2] == steps[1][2])[both].sum()), int(both.sum())).pvalue > 0.001


def test_unknown_policy():
    with pytest.raises(UsageError, match="cifar10, imagenet"):
        AutoAugment("svhn")


# ---- as a layer


def test_half_precision_and_configuration():
    before = keras.config.dtype_policy()
    images, draws = policy_input(20, (8, 8, 3))
    expected = AutoAugment("cifar10")(images, draws)
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        layer = AutoAugment("cifar10", name="named")
        np.testing.assert_array_equal(layer(images.astype("float32"), draws), expected)
    finally:
        keras.config.set_dtype_policy(before)
    assert not layer.trainable_variables
    again = AutoAugment.from_config(layer.get_config())
    assert (again.policy, again.name) == ("cifar10", "named")


def test_in_a_functional_model():
    images, draws = policy_input(6, (8, 8, 3))
    inputs = [keras.Input((8, 8, 3), dtype="uint8"), keras.Input((NUM_DRAWS,))]
    model = keras.Model(inputs, AutoAugment("cifar10")(*inputs))
    assert model.output_shape == (None, 8, 8, 3)
    np.testing.assert_array_equal(model([images, draws]), AutoAugment("cifar10")(images, draws))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_is_eager(jit_compile):
    images, draws = policy_input(40, (16, 16, 3))
    inputs = [keras.Input((16, 16, 3), dtype="uint8"), keras.Input((NUM_DRAWS,))]
    model = keras.Model(inputs, AutoAugment("cifar10")(*inputs))
    model.compile(jit_compile=jit_compile)
    np.testing.assert_array_equal(model.predict_on_batch([images, draws]), AutoAugment("cifar10")(images, draws))


def test_an_unknown_batch_size():
    if keras.config.backend() != "tensorflow":
        pytest.skip("tf.function")
    import tensorflow as tf

    layer = AutoAugment("imagenet")
    shapes = [tf.TensorSpec((None, 16, 16, 3), tf.uint8), tf.TensorSpec((None, NUM_DRAWS), tf.float32)]
    graph = tf.function(lambda images, draws: layer(images, draws), input_signature=shapes)
    assert graph.get_concrete_function().output_shapes.as_list() == [None, 16, 16, 3]
    for count in (1, 20):
        images, draws = policy_input(20, (16, 16, 3))
        np.testing.assert_array_equal(graph(images[:count], draws[:count]), layer(images[:count], draws[:count]))


# ---- within the augmentation


def test_augment_puts_it_between_flip_and_normalize():
    images, _ = policy_input(30, (12, 12, 3))
    draws = batches.epoch_uniforms(30, augment.NUM_DRAWS, seed=2, epoch=0)
    mean, deviation = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    crop_y, crop_x, flip, cutout_y, cutout_x = draws[:, :5].T
    cropped = ops.convert_to_numpy(augment.crop_and_flip(images, crop_y, crop_x, flip, crop_padding_px=2, fill=128))
    policy = [pillow_policy(image, "cifar10", row) for image, row in zip(cropped.astype(np.uint8), draws[:, 5:])]
    expected = augment.cutout(augment.normalize(np.stack(policy), mean, deviation), cutout_y, cutout_x, cutout_px=6)
    options = {"crop_padding_px": 2, "cutout_px": 6}
    found = augment.augment(images, draws, mean, deviation, autoaugment="cifar10", **options)
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.1 if FUSES else 1e-6)
    without = augment.augment(images, draws, mean, deviation, **options)
    np.testing.assert_array_equal(without, augment.augment(images, draws[:, :5], mean, deviation, **options))
    assert np.abs(np.asarray(without) - np.asarray(found)).max() > 0.1
