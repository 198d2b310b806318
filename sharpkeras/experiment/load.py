"""A trained network as a Keras model that takes images as they are stored and knows its classes."""

import os
from typing import Any

import keras

from sharpkeras.data import augment
from sharpkeras.engine.step_model import backend_step
from sharpkeras.errors import DataError
from sharpkeras.experiment.paper_tables import trained_network


@keras.saving.register_keras_serializable("sharpkeras")
class ImageClassifier(keras.Model):
    """A final network with its preprocessing: images (N, H, W, C) as they are stored, 0..255 → logits (N, classes).

    `predict`, `fit`, `save` and `keras.saving.load_model` work as of any Keras model.

    Args:
        network: the final network, of normalised images → {"logits": …}.
        mean, deviation: C numbers each on the scale 0..1, by which the images of its training were normalised.
        class_names: one for each logit.
    """

    def __init__(
        self,
        network: keras.Model,
        mean: list[float],
        deviation: list[float],
        class_names: list[str],
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.network = network
        self.class_names = list(class_names)
        self._mean, self._deviation = list(mean), list(deviation)
        self.jit_compile = backend_step().JIT_COMPILE
        self.built = True

    def call(self, images: Any, training: bool | None = None) -> Any:
        """Logits of images.

        Raises:
            DataError: the images are not of the training's size.
        """
        expected, shape = tuple(self.network.input_shape[1:]), tuple(images.shape[1:])
        if len(images.shape) != 4 or any(size not in (None, own) for size, own in zip(shape, expected)):
            problem, step = "the images are not of the training's size", "resize them, and put them into one array"
            allowed = f"(N, {', '.join(map(str, expected))})"
            raise DataError(problem, where="images", seen=tuple(images.shape), allowed=allowed, next_step=step)
        normalized = augment.normalize(images, self._mean, self._deviation)
        return self.network(normalized, training=training)["logits"]

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "network": keras.saving.serialize_keras_object(self.network),
            "mean": self._mean,
            "deviation": self._deviation,
            "class_names": self.class_names,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> "ImageClassifier":
        network = keras.saving.deserialize_keras_object(config["network"], custom_objects)
        return cls(**{**config, "network": network})


def load(run: str | os.PathLike, space: Any = None) -> ImageClassifier:
    """The network of a training run as a model that takes images as they are stored; see `ImageClassifier`.

    Args:
        run: the directory of a finished training.
        space: the HyperCuboid of a path, where it is not MultiChannelNet.

    Raises:
        RunError: there is no such run, it has not ended, or its weights are damaged or not finite.
    """
    network, _, facts, *_ = trained_network(run, space)
    return ImageClassifier(network, facts["mean"], facts["deviation"], facts["class_names"])
