"""Outputs and gradients of every primitive on one batch, to be compared between processes.

python -m support.primitive_gradients FILE.npz
"""

import sys

import numpy as np

import sharpkeras  # noqa: F401  before Keras: it sets what TensorFlow reads when it is imported


def outputs_and_gradients(filters=8, side=9, batch=2):
    """Name → array, for each op table, primitive and stride: outputs, gradients by the input and by each weight."""
    import tensorflow as tf

    from sharpkeras.primitives import OPS, build

    rng, found = np.random.default_rng(0), {}
    for ops, table in OPS.items():
        for name in table:
            for strides in (1, 2):
                layer = build(name, ops, filters, strides, affine=False)
                images = tf.constant(rng.normal(size=(batch, side, side, filters)).astype("float32"))
                layer.build(images.shape)
                for variable in layer.trainable_variables:
                    variable.assign(rng.normal(size=variable.shape).astype("float32") / 3)
                with tf.GradientTape() as tape:
                    tape.watch(images)
                    outputs = layer(images, training=True)
                    loss = tf.reduce_sum(outputs * rng.normal(size=outputs.shape).astype("float32"))
                weights = [variable.value for variable in layer.trainable_variables]
                gradients = tape.gradient(loss, [images, *weights], unconnected_gradients="zero")
                key = f"{ops}.{name}.{strides}"
                found |= {f"{key}.{place}": part.numpy() for place, part in enumerate((outputs, *gradients))}
    return found


if __name__ == "__main__":
    from sharpkeras.backend.tensorflow import conditions

    np.savez(sys.argv[1], onednn=conditions()["onednn"], **outputs_and_gradients())
