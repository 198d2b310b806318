"""AutoAugment (Cubuk et al., arXiv 1805.09501) as a batched layer, with the policies that the official code uses.

Where it departs from the official code: that shears with bicubic interpolation, here every pixel is the nearest one, as
in the code of AutoAugment; that always rotates counterclockwise, here the sign is drawn, as the paper of AutoAugment
says. Where it does not: "cutout", which three sub-policies of CIFAR-10 name, does nothing there either.
"""

from importlib import resources

import keras
import numpy as np
from keras import ops

from sharpkeras.data.image_ops import OPERATIONS, transform
from sharpkeras.errors import UsageError
from sharpkeras.io import json_files

POLICIES = ("cifar10", "imagenet")

# What each column of `draws` decides.
DRAWS = ("sub_policy", "first_applied", "first_sign", "second_applied", "second_sign")
NUM_DRAWS = len(DRAWS)


@keras.saving.register_keras_serializable("sharpkeras")
class AutoAugment(keras.layers.Layer):
    """One sub-policy per image, drawn uniformly: two operations, each with its own probability, magnitude and sign.

    Args:
        policy: "cifar10" (95 sub-policies) or "imagenet" (24).

    Raises:
        UsageError: there is no such policy.
    """

    def __init__(self, policy, *, name=None):
        # Uniforms and pixels stay float32 where the network computes in half precision.
        super().__init__(name=name, dtype="float32", autocast=False)
        self.policy = policy
        self._sub_policies = read_policy(policy)

    def call(self, images, draws):
        """The images after both steps.

        Args:
            images: (B, H, W, C), whole numbers 0..255 of any dtype; C is 1 or 3; H, W and C are static.
            draws: uniforms in [0, 1), float32 (B, NUM_DRAWS); the columns are named in DRAWS.

        Returns:
            float32 (B, H, W, C), whole numbers 0..255.
        """
        images = ops.cast(images, "float32")
        for operation, magnitude, negative in self.choose(draws):
            images = transform(images, operation, magnitude, negative)
        return images

    def choose(self, draws):
        """What `draws` decides: for each of the two steps the arguments of `transform`."""
        columns = dict(zip(DRAWS, ops.unstack(draws, NUM_DRAWS, axis=-1)))
        steps = []
        for step, name in enumerate(("first", "second")):
            tables = (table[:, step] for table in self._sub_policies)
            drawn = ops.cast(ops.floor(columns["sub_policy"] * len(self._sub_policies[0])), "int32")
            operation, probability, magnitude = (ops.take(table, drawn) for table in tables)
            operation = ops.where(columns[f"{name}_applied"] < probability, operation, OPERATIONS.index("identity"))
            steps.append((operation, magnitude, columns[f"{name}_sign"] < 0.5))
        return steps

    def get_config(self):
        return {"name": self.name, "policy": self.policy}


def read_policy(name):
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
