"""AutoAugment and Cutout as layers of anyone's pipeline: in fit, in tf.data, at inference, saved and loaded."""

import keras
import numpy as np
import pytest
from keras import ops

import sharpkeras as sk
from sharpkeras.errors import UsageError

IMAGES = np.random.default_rng(0).integers(1, 256, (12, 16, 16, 3), dtype=np.uint8)


def pipeline(seed=0):
    return keras.Sequential([sk.AutoAugment("cifar10", seed=seed), sk.Cutout(4, seed=seed)])


def test_nothing_changes_at_inference():
    model = pipeline()
    np.testing.assert_array_equal(model(IMAGES, training=False), IMAGES)
    np.testing.assert_array_equal(model.predict(IMAGES, verbose=0), IMAGES)


def test_a_seed_gives_the_same_images_and_each_call_other_ones():
    first, same, other = pipeline(), pipeline(), pipeline(seed=1)
    once, twice = (ops.convert_to_numpy(first(IMAGES, training=True)) for _ in "12")
    np.testing.assert_array_equal(once, same(IMAGES, training=True))
    assert (once != twice).any() and (once != ops.convert_to_numpy(other(IMAGES, training=True))).any()


def test_cutout_sets_one_square_to_zero():
    cut = ops.convert_to_numpy(sk.Cutout(4, seed=0)(IMAGES, training=True))
    assert cut.dtype == np.uint8
    for before, after in zip(IMAGES, cut):
        zero = (after == 0).all(axis=-1)
        rows, columns = (np.flatnonzero(zero.any(axis=axis)) for axis in (1, 0))
        assert 2 <= len(rows) <= 4 and 2 <= len(columns) <= 4  # a part of it may lie outside
        assert zero.sum() == len(rows) * len(columns)
        np.testing.assert_array_equal(after[~zero], before[~zero])
    with pytest.raises(UsageError, match="does not fit"):
        sk.Cutout(17)(IMAGES, training=True)


@pytest.mark.parametrize("layer", [sk.AutoAugment("imagenet", seed=0), sk.Cutout(4, seed=0)], ids=["auto", "cutout"])
def test_a_single_image_is_taken(layer):
    assert layer(IMAGES[0], training=True).shape == (16, 16, 3)


def test_it_trains_within_a_model_that_is_saved_and_loaded(tmp_path):
    parts = [keras.Input((16, 16, 3)), pipeline(), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
    model = keras.Sequential([*parts, keras.layers.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(IMAGES, np.arange(12) % 2, batch_size=4, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0), rtol=1e-6)
    augmentation = loaded.layers[0]
    assert augmentation.layers[0].get_config()["seed"] == augmentation.layers[1].get_config()["seed"] == 0
    np.testing.assert_array_equal(augmentation(IMAGES, training=True), pipeline()(IMAGES, training=True))


def test_in_tf_data():
    if keras.config.backend() != "tensorflow":
        pytest.skip("tf.data runs operations of TensorFlow")
    import tensorflow as tf

    data, augment = tf.data.Dataset.from_tensor_slices(IMAGES), pipeline()
    batched = list(data.batch(6).map(lambda images: augment(images, training=True)))
    assert [batch.shape for batch in batched] == [(6, 16, 16, 3)] * 2
    assert (np.concatenate(batched) != IMAGES).any(axis=(1, 2, 3)).mean() > 0.5
    layer = sk.AutoAugment("imagenet", seed=0)
    singles = data.map(lambda image: layer(image, training=True)).take(2)
    assert [image.shape for image in singles] == [(16, 16, 3)] * 2
