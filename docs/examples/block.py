"""What should a block be made of? The structure of SharpSepConv as a HyperCuboid, searched on handwritten digits.

SharpSepConv was designed by hand, and the paper's conclusion proposes "a new HyperCuboid … to empirically optimize the
number, sequence, type, layers, activations, normalization" of it. Here is one. A block has four steps, and each step is
an activation, a layer and a normalisation, of which any may be left out:

    SharpSepConv = relu, depthwise | pointwise, batch | relu, depthwise | pointwise, batch

so that the block of the paper is one path among 18⁴. A few minutes on two cores:

    python docs/examples/block.py
"""

import keras
from keras import layers

import sharpkeras as sk
from sharpkeras.layers import BatchNormalization, Conv2D, DepthwiseConv2D
from sharpkeras.recipes import SearchRecipe, TrainRecipe
from sharpkeras.spaces.hypercuboid import path as paths
from sharpkeras.spaces.hypercuboid.space import HyperCuboid
from sharpkeras_cli.progress import ConsoleProgress

FILTERS = 16


def step(activation, layer, normalisation):
    """One step of the block; None is left out."""
    parts = [make() for make in (activation, layer, normalisation) if make]
    return keras.Sequential(parts) if parts else layers.Identity()


BLOCK = HyperCuboid(
    axes={
        "activation": {"relu": layers.ReLU, "silu": lambda: layers.Activation("silu"), "none": None},
        "layer": {"depthwise": lambda: DepthwiseConv2D(3), "pointwise": lambda: Conv2D(FILTERS), "none": None},
        "normalisation": {"batch": BatchNormalization, "none": None},
    },
    layer=step,
    positions=4,
    name="block",
)
SHARP_SEP_CONV = paths.Path.from_dict(
    {
        "space": "block",
        "name": "SharpSepConv",
        "routes": [
            [
                {},
                {"activation": "relu", "layer": "depthwise", "normalisation": "none"},
                {"activation": "none", "layer": "pointwise", "normalisation": "batch"},
                {"activation": "relu", "layer": "depthwise", "normalisation": "none"},
                {"activation": "none", "layer": "pointwise", "normalisation": "batch"},
            ]
        ],
    }
)


def main(search=None, train=None, out="runs/block"):
    """Searches a block, and trains it, SharpSepConv and a random block alike."""
    search = search or SearchRecipe(epochs=30, arch_learning_rate=1e-2)
    train = train or TrainRecipe()
    with ConsoleProgress("search") as progress:
        found = sk.search(search, f"{out}/search", space=BLOCK, progress=progress)
    print(found.as_json())
    for name, block in {"found": found, "sharp": SHARP_SEP_CONV, "random": BLOCK.sample(seed=0)}.items():
        with ConsoleProgress(name) as progress:
            cost = sk.train(block, f"{out}/{name}", recipe=train, space=BLOCK, progress=progress)
        error = sk.evaluate(f"{out}/{name}", space=BLOCK)["text"]
        print(f"{name:6} {cost.parameters:6,} parameters, {cost.addmults_paper:7,} AddMults, test error {error}")


if __name__ == "__main__":
    main()
