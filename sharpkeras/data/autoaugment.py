"""AutoAugment (Cubuk et al., arXiv 1805.09501) as a batched layer, with the policies that the official code uses.

Where it departs from the official code: that shears with bicubic interpolation, here every pixel is the nearest one, as
in the code of AutoAugment; that always rotates counterclockwise, here the sign is drawn, as the paper of AutoAugment
says. Where it does not: "cutout", which three sub-policies of CIFAR-10 name, does nothing there either.
"""

from collections.abc import Callable
from importlib import resources
from typing import Any

import keras
import numpy as np
from keras import ops

from sharpkeras.data.autoaugment_ops import OPERATIONS, transform
from sharpkeras.errors import UsageError
from sharpkeras.io import json_files

POLICIES = ("cifar10", "imagenet")

# What each column of `draws` decides.
DRAWS = ("sub_policy", "first_applied", "first_sign", "second_applied", "second_sign")
NUM_DRAWS = len(DRAWS)


@keras.saving.register_keras_serializable("sharpkeras")
class AutoAugment(keras.layers.Layer):
    """One sub-policy per image, drawn uniformly: two operations, each with its own probability, magnitude and sign.

    As any augmentation layer of Keras it works within a model, in `fit`, and does nothing at inference:

        augmentation = keras.Sequential([AutoAugment("cifar10", seed=0), Cutout(16, seed=0)])

    In `tf.data.Dataset.map` it needs the TensorFlow backend.

    Args:
        policy: "cifar10" (95 sub-policies) or "imagenet" (24).
        seed: of the random draws, an integer; None is another one each time.

    Raises:
        UsageError: there is no such policy.
    """

    def __init__(self, policy: str, seed: int | None = None, *, name: str | None = None) -> None:
        # Uniforms and pixels stay float32 where the network computes in half precision.
        super().__init__(name=name, dtype="float32", autocast=False)
        self.policy, self.seed = policy, seed
        self._sub_policies = read_policy(policy)
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any, draws: Any = None, training: bool = True) -> Any:
        """The images after the two operations of their sub-policies.

        Args:
            images: (B, H, W, C) or (H, W, C), whole numbers 0..255 of any dtype; C is 1 or 3; H, W and C are static.
            draws: uniforms in [0, 1), float32 (B, NUM_DRAWS), which are applied even where `training` is False; the
                columns are named in DRAWS. None draws new ones where it is True.
            training: whether images are changed where no draws are given.

        Returns:
            float32, of the shape of the images, whole numbers 0..255.
        """
        if draws is not None:
            return augmented(images, draws, self._sub_policies)
        if not training:
            return ops.cast(images, "float32")
        return drawn(lambda *batch: augmented(*batch, self._sub_policies), images, NUM_DRAWS, self.seed_generator)

    def compute_output_shape(self, images_shape: tuple, draws_shape: tuple | None = None) -> tuple:
        return images_shape

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "policy": self.policy, "seed": self.seed}


def autoaugment(images: Any, draws: Any, policy: str) -> Any:
    """The images (B, H, W, C), 0..255, by one sub-policy each; `draws` as in `AutoAugment.call`.

    Raises:
        UsageError: there is no such policy.
    """
    return augmented(images, draws, read_policy(policy))


def augmented(images: Any, draws: Any, sub_policies: tuple) -> Any:
    """The images (B, H, W, C) by one of the given sub-policies each, arrays as `read_policy` returns them."""
    images = ops.cast(images, "float32")
    for operation, magnitude, negative in chosen_steps(draws, sub_policies):
        images = transform(images, operation, magnitude, negative)
    return images


def chosen_steps(draws: Any, sub_policies: tuple) -> list[tuple]:
    """The arguments of `transform` for each of the two steps of a sub-policy, as `draws` decides them."""
    columns = dict(zip(DRAWS, ops.unstack(draws, NUM_DRAWS, axis=-1)))
    steps = []
    for step, name in enumerate(("first", "second")):
        tables = (table[:, step] for table in sub_policies)
        sub_policy = ops.cast(ops.floor(columns["sub_policy"] * len(sub_policies[0])), "int32")
        operation, probability, magnitude = (ops.take(table, sub_policy) for table in tables)
        operation = ops.where(columns[f"{name}_applied"] < probability, operation, OPERATIONS.index("identity"))
        steps.append((operation, magnitude, columns[f"{name}_sign"] < 0.5))
    return steps


def drawn(augmentation: Callable, images: Any, num_draws: int, seed_generator: keras.random.SeedGenerator) -> Any:
    """The images by (images, draws) → images, with draws from a seed generator; a single image is a batch of one."""
    if len(images.shape) == 3:
        return drawn(augmentation, images[None], num_draws, seed_generator)[0]
    draws = keras.random.uniform((ops.shape(images)[0], num_draws), dtype="float32", seed=seed_generator)
    return augmentation(images, draws)


def read_policy(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sub-policies: operations (int32), probabilities (float32) and magnitude indices (int32), each (N, 2).

    Raises:
        UsageError: there is no such policy.
    """
    if name not in POLICIES:
        allowed = ", ".join(POLICIES)
        raise UsageError("unknown AutoAugment policy", where="autoaugment", seen=name, allowed=allowed)
    file = resources.files("sharpkeras").joinpath("paper", "autoaugment.json")
    policy = json_files.loads(file.read_text("utf-8"), file.name)[name]
    names, probabilities, magnitudes = ([[step[k] for step in steps] for steps in policy] for k in range(3))
    # The official code has no cutout yet among its operations: "a no-op until this pull request is updated".
    operations = [[OPERATIONS.index("identity" if name == "cutout" else name) for name in steps] for steps in names]
    return np.array(operations, np.int32), np.array(probabilities, np.float32), np.array(magnitudes, np.int32)
