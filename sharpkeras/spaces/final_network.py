"""What the final networks of all spaces share: their outputs, their classifier, and the forms they are used in."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import keras

from sharpkeras.backend import fused_ops
from sharpkeras.backend.rematerialization import recomputed
from sharpkeras.layers import CHANNELS_LAST, DropPath, fan_in_uniform


@keras.saving.register_keras_serializable("sharpkeras")
class FinalNetwork(keras.Model):
    """A functional model: image (B, H, W, C), normalised → {"logits": (B, classes), …}.

    A space may add "auxiliary", the logits of a head for training, and "unread", states that nothing reads but that
    count all the same. Layers carry the names of the official modules, which is how `state_dict` finds them.

    With `remat` set, a training pass keeps what goes in and out of each stage (a cell, a position) and computes the
    rest again for the gradient.

    Args:
        images: keras.Input.
        outputs: symbolic tensors by name.
        stages: (tensors that go in, tensors that come out) of each stage, in order, which together are the network.
    """

    remat = False

    def __init__(
        self, images: Any, outputs: Mapping[str, Any], stages: Sequence[tuple], name: str | None = None
    ) -> None:
        super().__init__(images, outputs, name=name)
        self.autocast = False  # so that a stage is handed its variables as they are; its layers cast them
        self._stages = stages
        # The same layers once more, which Keras neither tracks nor saves in a function.
        self._parts = functools.cache(lambda: [keras.Model(list(ins), list(outs)) for ins, outs in stages])
        rates = [layer.rate for layer in self.layers if isinstance(layer, DropPath) and layer.assignable]
        if rates:
            self.drop_path_rate = rates[0]

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not training:
            return super().call(inputs, training=training, mask=mask)
        known = {id(self.inputs[0]): inputs}  # symbolic tensor → its value
        for (sources, targets), part in zip(self._stages, self._parts()):
            # By stages with `remat` or without: the order of layers decides which path gets which draw of drop path.
            run: Callable[..., Any] = functools.partial(_run_part, part)
            run = recomputed(run, part.variables) if self.remat else run
            known |= dict(zip(map(id, targets), run(*[known[id(source)] for source in sources])))
        return keras.tree.map_structure(lambda tensor: known[id(tensor)], self.output)

    def inference_model(self) -> keras.Model:
        """The same layers as a model from images to logits alone: what is exported."""
        return keras.Model(self.inputs[0], self.output["logits"], name=self.name)

    def without_auxiliary(self) -> keras.Model:
        """The network without its auxiliary head: what the paper counts, states that nothing reads included."""
        return keras.Model(self.inputs[0], [self.output["logits"], *self.output.get("unread", [])], name=self.name)

    def get_config(self) -> dict[str, Any]:
        """That of a functional model with the stages among its outputs, and the policy, from which training tells."""
        graph = keras.Model(self.inputs[0], [self.output, self._stages], name=self.name, trainable=self.trainable)
        return {**graph.get_config(), "dtype": keras.dtype_policies.serialize(self.dtype_policy)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Self:
        policy = keras.dtype_policies.get(config["dtype"])
        graph = keras.Model.from_config(
            {name: value for name, value in config.items() if name != "dtype"}, custom_objects
        )
        outputs, stages = graph.output
        network = cls.__new__(cls)  # its own constructor would want an architecture
        FinalNetwork.__init__(network, graph.inputs[0], outputs, stages, name=graph.name)
        network.dtype_policy, network._trainable = policy, graph.trainable
        return network


def _run_part(part: keras.Model, *tensors: Any) -> list[Any]:
    return keras.tree.flatten(part(list(tensors), training=True))


def default_name(word: str) -> str:
    """The name that Keras gives to the next layer without one: `word`, then `word_1`, …

    For classes whose default name, which files hold, is not that of the class.
    """
    number = keras.backend.get_uid(word) - 1
    return f"{word}_{number}" if number else word


def classify(features: Any, num_classes: int) -> Any:
    """Global average pooling and the dense layer: (B, H, W, C) → logits (B, num_classes).

    Of a list of features, which may have images of different sizes, the sum is classified.
    """
    features = features if isinstance(features, list) else [features]
    classifier = dense(num_classes, features[0].shape[-1])
    names = ["global_pooling", *(f"global_pooling_{number}" for number in range(1, len(features)))]
    settings = {"data_format": CHANNELS_LAST, "dtype": classifier.compute_dtype}
    pools = [keras.layers.GlobalAveragePooling2D(name=name, **settings) for name in names]
    pooled = [pool(part) for pool, part in zip(pools, features)]
    return classifier(sum(pooled[1:], pooled[0]))


def image_input(shape: tuple[int, int, int]) -> Any:
    """The input of a network for images (H, W, C): float32 under any precision below it, whatever `floatx` is."""
    dtype = fused_ops.at_least_float32(keras.config.dtype_policy().variable_dtype)
    return keras.Input(shape, dtype=dtype, name="images")


def dense(
    num_classes: int, features: int, policy: keras.DTypePolicy | None = None, name: str = "classifier"
) -> keras.layers.Dense:
    """The dense layer of PyTorch's initial distribution; logits in float32 under any precision below it.

    Args:
        policy: the dtype policy of the layer that it belongs to; None is the one that is set.
    """
    uniform = fan_in_uniform(features)
    dtype = fused_ops.at_least_float32((policy or keras.config.dtype_policy()).compute_dtype)
    return keras.layers.Dense(num_classes, kernel_initializer=uniform, bias_initializer=uniform, dtype=dtype, name=name)
