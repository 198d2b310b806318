"""Networks with weights in which no mistake can hide."""

import numpy as np

from sharpkeras.primitives import OPS
from sharpkeras.spaces.cell.genotype import Genotype
from sharpkeras.spaces.cell.network import CellNetwork


def randomize(model, seed=0):
    """Every variable at random: with fresh statistics and biases, half of what could be wrong would not show."""
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        if "seed" not in variable.path and "rate" not in variable.path:
            if variable.path.endswith(("variance", "gamma")):
                value = generator.uniform(0.5, 2, variable.shape)
            else:  # of a variance that keeps what passes through a layer at its size
                fan_in = np.prod(variable.shape[:-1]) if len(variable.shape) > 1 else 10
                fan_in = np.prod(variable.shape[:2]) if "depthwise" in variable.path else fan_in
                value = generator.normal(0, fan_in**-0.5, variable.shape)
            variable.assign(value)
    return model


def random_network(seed, image_size=8, init_channels=4, num_cells=3):
    """A small network of random primitives, sources and concatenations of one op table, with random weights."""
    generator = np.random.default_rng(seed)
    ops = ("sharp", "darts")[seed % 2]
    names = [name for name in OPS[ops] if name != "none"]

    def cell():
        num_nodes = int(generator.integers(1, 5))
        pairs = [
            [str(generator.choice(names)), int(generator.integers(0, 2 + node))]
            for node in range(num_nodes)
            for _ in range(2)
        ]
        states = 2 + generator.permutation(num_nodes)[: generator.integers(1, num_nodes + 1)]
        return pairs, sorted(int(state) for state in states)

    (normal, normal_concat), (reduce, reduce_concat) = cell(), cell()
    fields = {"normal": normal, "normal_concat": normal_concat, "reduce": reduce, "reduce_concat": reduce_concat}
    sizes = {"init_channels": init_channels, "num_cells": num_cells, "num_classes": 5}
    network = CellNetwork(Genotype.from_dict(fields, ops=ops), ops, input_shape=(image_size, image_size, 3), **sizes)
    return randomize(network, seed).inference_model()
