"""AutoAugment on one core: images/s of the compiled layer, and of a Pillow loop that makes the same images.

    python benchmarks/autoaugment.py [--backend jax] [--batches 12] [--repeats 5]

Batches of 64 at 32×32 by the CIFAR-10 policy and of 32 at 224×224 by the ImageNet policy, of made images. The seconds
are those of the processor, not of the clock, so that other load does not count; each batch counts with its fastest
repeat, and both loops see the same draws. Prints one JSON object.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from sharpkeras.measure.machine import device_name
from sharpkeras_cli.options import choose_backend

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--backend", default="tensorflow", choices=("tensorflow", "jax"))
parser.add_argument("--batches", type=int, default=12)
parser.add_argument("--repeats", type=int, default=5)


def main():
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])  # before the frameworks count the cores
    choose_backend(arguments.backend)
    report = {"configuration": vars(arguments), "machine": device_name()}
    for policy, batch_size, side in (("cifar10", 64, 32), ("imagenet", 32, 224)):
        ours, pillow = measure(policy, batch_size, side, arguments)
        report[policy] = {
            "batch": [batch_size, side, side, 3],
            "images_per_s": round(ours),
            "pillow_images_per_s": round(pillow),
            "ratio": round(ours / pillow, 2),
        }
    print(json.dumps(report, indent=2))


def measure(policy, batch_size, side, arguments):
    """Images per second of the layer and of Pillow."""
    import numpy as np

    from sharpkeras.data.autoaugment import NUM_DRAWS, AutoAugment

    sys.path.append(str(Path(__file__).parent.parent / "tests"))
    from support.pillow_autoaugment import pillow_policy

    rng = np.random.default_rng(0)
    blocks = np.kron(rng.normal(128, 50, (batch_size, side // 8, side // 8, 3)), np.ones((1, 8, 8, 1)))
    images = np.clip(blocks + rng.normal(0, 10, blocks.shape), 0, 255).astype(np.uint8)
    draws = rng.random((arguments.batches, batch_size, NUM_DRAWS), np.float32)
    layer = compiled(AutoAugment(policy), arguments.backend)

    def ours(uniforms):
        return np.asarray(layer(images, uniforms))

    def pillow(uniforms):
        return np.stack([pillow_policy(image, policy, row) for image, row in zip(images, uniforms)])

    assert np.mean(ours(draws[0]) != pillow(draws[0])) < 0.01  # the same images; this call compiles, too
    rates = []
    for function in (ours, pillow):
        seconds = [min(timed(function, uniforms) for _ in range(arguments.repeats)) for uniforms in draws]
        rates.append(batch_size * len(draws) / sum(seconds))
    return rates


def timed(function, uniforms):
    """Processor seconds of one call."""
    start = time.process_time()
    function(uniforms)
    return time.process_time() - start


def compiled(layer, backend):
    """The layer as the backend's training step runs it."""
    if backend == "jax":
        import jax

        return jax.jit(lambda images, draws: layer(images, draws))
    import tensorflow as tf

    return tf.function(lambda images, draws: layer(images, draws))


if __name__ == "__main__":
    main()
