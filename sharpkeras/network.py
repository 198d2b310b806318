"""What the final networks of all spaces share: their outputs, their classifier, and the forms they are used in."""

import keras

from sharpkeras import kernels
from sharpkeras.layers import fan_in_uniform


class FinalNetwork(keras.Model):
    """A functional model: image (B, H, W, C), normalised → {"logits": (B, classes), …}.

    A space may add "auxiliary", the logits of a head for training, and "unread", states that nothing reads but that
    count all the same. Layers carry the names of the official modules, which is how `from_torch` finds them.
    """

    def deployed(self):
        """The same layers as a model from images to logits alone: what is exported."""
        return keras.Model(self.inputs[0], self.output["logits"], name=self.name)

    def counted(self):
        """The network without its auxiliary head: what the paper counts, states that nothing reads included."""
        return keras.Model(self.inputs[0], [self.output["logits"], *self.output.get("unread", [])], name=self.name)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        raise NotImplementedError("a network is rebuilt from its architecture, never from a config")


def classify(features, num_classes):
    """Global average pooling and the dense layer: (B, H, W, C) → logits (B, num_classes).

    Of a list of features, which may have images of different sizes, the sum is classified.
    """
    features = features if isinstance(features, list) else [features]
    classifier = dense(num_classes, features[0].shape[-1])
    names = ["global_pooling", *(f"global_pooling_{number}" for number in range(1, len(features)))]
    pools = [keras.layers.GlobalAveragePooling2D(dtype=classifier.compute_dtype, name=name) for name in names]
    pooled = [pool(part) for pool, part in zip(pools, features)]
    return classifier(sum(pooled[1:], pooled[0]))


def dense(num_classes, features, name="classifier"):
    """The dense layer of PyTorch's initial distribution; logits in float32 under any precision below it."""
    uniform = fan_in_uniform(features)
    dtype = kernels.at_least_float32(keras.config.dtype_policy().compute_dtype)
    return keras.layers.Dense(num_classes, kernel_initializer=uniform, bias_initializer=uniform, dtype=dtype, name=name)
