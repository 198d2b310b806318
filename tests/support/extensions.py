"""Additions from outside: importing this module adds a row to each table, and no line of sharpkeras changes.

A layer, a primitive, a weighting, a path strategy, a dataset, a search space with its architectures, and recipes. Copy
what you need; `sharpkeras --import MODULE …` has the rows on the command line too.
"""

from dataclasses import dataclass

import keras
import networkx as nx
import numpy as np
from keras import ops

from sharpkeras import primitives
from sharpkeras.data import datasets
from sharpkeras.data.dataset import LoadedSplit, adapt
from sharpkeras.layers import ConvBN, SharpSepConv
from sharpkeras.primitives import PRIMITIVES, SHARP_OPS, Primitive
from sharpkeras.recipes import SEARCHES, TRAININGS, SearchRecipe, TrainRecipe
from sharpkeras.recipes.rows import RecipeEntry
from sharpkeras.spaces import ARCHITECTURES, SPACES, Architecture, ArchitectureEntry, SearchSpace, SpaceEntry
from sharpkeras.spaces.architecture import SCHEMA_VERSION, check_fields, check_name
from sharpkeras.spaces.final_network import FinalNetwork, classify, image_input
from sharpkeras.spaces.hypercuboid import path_search as graphs
from sharpkeras.spaces.hypercuboid.space import HyperCuboid
from sharpkeras.weighting import WEIGHTINGS

# --- a layer, of Keras alone, so that it runs on every backend ---


@keras.saving.register_keras_serializable("extensions")
class GatedConv(keras.layers.Layer):
    """A gated linear unit: one half of a convolution's output says how much of the other half passes.

    Args:
        filters, kernel_size, strides: as in Conv2D.
        affine: True gives the BatchNorm scale and offset.
    """

    def __init__(self, filters, kernel_size=3, strides=1, affine=True, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.kernel_size, self.strides, self.affine = filters, kernel_size, strides, affine
        form = {"strides": strides, "padding": "same", "use_bias": False, "data_format": "channels_last"}
        self.convolution = keras.layers.Conv2D(2 * filters, kernel_size, dtype=self.dtype_policy, **form)
        self.norm = keras.layers.BatchNormalization(center=affine, scale=affine, dtype=self.dtype_policy)

    def build(self, input_shape):
        self.convolution.build(input_shape)
        self.norm.build(self.compute_output_shape(input_shape))

    def call(self, inputs, training=None):
        values, gates = ops.split(self.convolution(inputs), 2, axis=-1)
        return self.norm(values * ops.sigmoid(gates), training=training)

    def compute_output_shape(self, input_shape):
        return (*self.convolution.compute_output_shape(input_shape)[:-1], self.filters)

    def get_config(self):
        names = ("filters", "kernel_size", "strides", "affine")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


# --- primitives: rows of an op table; and a list of primitives, which is a space by its name ---

POOL = {"pool_size": 2, "padding": "same", "data_format": "channels_last"}
SHARP_OPS["gated_conv_3x3"] = Primitive("conv", GatedConv, {"kernel_size": 3})
SHARP_OPS["avg_pool_2x2"] = Primitive("pool", keras.layers.AveragePooling2D, POOL)
PRIMITIVES["gated"] = ("none", "avg_pool_2x2", "skip_connect", "gated_conv_3x3")


# --- a weighting: softmax weights (…, P) → mixing weights ---


def squared(weights):
    """w_i² / Σ w²: closer to a single choice than the softmax itself."""
    squares = weights * weights
    return squares / ops.sum(squares, axis=-1, keepdims=True)


WEIGHTINGS["squared"] = squared


# --- a path strategy: the graph of a HyperCuboid → the nodes of a path ---


def widest_path(graph):
    """The path whose weakest choice is as strong as can be."""
    weights = nx.get_edge_attributes(graph, "weight")
    for least in sorted({weight for edge, weight in weights.items() if "alpha" in graph.edges[edge]}, reverse=True):
        kept = [edge for edge, weight in weights.items() if "alpha" not in graph.edges[edge] or weight >= least]
        strong = graph.edge_subgraph(kept)
        if nx.has_path(strong, graphs.SOURCE, graphs.SINK):
            return nx.shortest_path(strong, graphs.SOURCE, graphs.SINK)
    raise nx.NetworkXNoPath("no path leads through the graph")


graphs.STRATEGIES["widest"] = widest_path


# --- a dataset: (split, options) → images uint8 (N, H, W, C), labels (N,), class names ---


def load_stripes(split: str, options: datasets.Options) -> LoadedSplit:
    """Stripes along the rows, along the columns or along the diagonal, with noise."""
    generator = np.random.default_rng(["train", "test"].index(split))
    labels = np.arange(240) % 3
    row, column = np.mgrid[:8, :8]
    phase = np.stack([row, column, row + column])[labels] + generator.integers(4, size=(240, 1, 1))
    pixels = 128 + 90 * np.sin(phase * np.pi / 2) + generator.normal(0, 20, phase.shape)
    images = pixels.clip(0, 255).astype(np.uint8)[..., None]
    return adapt(images, labels, ("rows", "columns", "diagonal"), options)


datasets.DATASETS["stripes"] = datasets.DatasetEntry(
    "stripes in three directions, 8x8, gray", "is generated", load_stripes
)


# --- a HyperCuboid of one's own, which finds paths as any other does ---


class Blocks(HyperCuboid):
    """Convolutions of two widths and two kernel sizes at three positions, the second of which halves the image."""

    def __init__(self, weighting="max_w"):
        axes, positions = {"filters": (4, 8), "kernel_size": (3, 5)}, [{}, {"strides": 2}, {}]
        super().__init__(axes, SharpSepConv, positions, weighting=weighting, name="blocks")


SPACES["blocks"] = SpaceEntry(Blocks, architecture="path", summary="convolutions of two widths and two kernel sizes")


# --- a search space: at each of N positions one of P primitives, and the architectures that it finds ---


@dataclass(frozen=True)
class Chain(Architecture):
    """The primitive of each position."""

    chain: tuple[str, ...]
    name: str | None = None

    kind, words, space = "chain", "a chain of primitives", "chain"
    expected = '{"chain": ["sep_conv_3x3", "skip_connect", …]}'

    @classmethod
    def from_dict(cls, fields, where="chain", ops=None):
        check_fields(fields, where, ("chain",), cls.expected)
        for index, name in enumerate(fields["chain"]):
            primitives.lookup(name, ops or "sharp", f"{where}: chain[{index}]")
        return cls(tuple(fields["chain"]), check_name(fields.get("name"), f"{where}: name"))

    def as_dict(self):
        named = {"name": self.name} if self.name else {}
        return {"schema_version": SCHEMA_VERSION, **named, "chain": list(self.chain)}


class ChainSpace(SearchSpace):
    name, network_settings = "chain", ("init_channels",)

    def __init__(self, length=4, weighting="max_w", names=PRIMITIVES["gated"][1:]):
        self.length, self.weighting, self.names = length, weighting, names

    @classmethod
    def from_recipe(cls, recipe):
        return cls(recipe.num_cells, recipe.weighting)

    def supernet_options(self, recipe):
        return {"filters": recipe.init_channels}

    network_options = supernet_options

    def init_alphas(self, seed):
        return [np.random.default_rng(seed).normal(scale=1e-3, size=(self.length, len(self.names))).astype("float32")]

    def mixing_weights(self, alphas):
        return [WEIGHTINGS[self.weighting](ops.softmax(alphas[0], axis=-1))]

    def supernet(self, input_shape, num_classes, filters):
        images, weights = keras.Input(input_shape), keras.Input(batch_shape=(self.length, len(self.names)))
        state = ConvBN(filters, 3)(images)
        for position in range(self.length):
            layers = [primitives.build(name, "sharp", filters, affine=False) for name in self.names]
            state = sum(weights[position, p] * layer(state) for p, layer in enumerate(layers))
        return keras.Model([images, [weights]], classify(state, num_classes))

    def extract(self, alphas, name=None):
        return Chain(tuple(self.names[p] for p in np.argmax(alphas[0], axis=-1)), name)

    def sample(self, seed, name=None):
        return self.extract([np.random.default_rng(seed).random((self.length, len(self.names)))], name)

    def decisions(self, alphas):
        kinds = self.kinds_of(Chain(self.names))
        return {"chain": [(logits, kinds) for logits in alphas[0]]}

    def kinds_of(self, architecture):
        return [SHARP_OPS[name].kind for name in architecture.chain]

    def network(self, architecture, input_shape, num_classes, filters):
        images = image_input(input_shape)
        state = ConvBN(filters, 3, name="stem")(images)
        for position, name in enumerate(architecture.chain):
            state = primitives.build(name, "sharp", filters, name=f"chain.{position}")(state)
        logits = classify(state, num_classes)
        return FinalNetwork(images, {"logits": logits}, [((images,), (logits,))])

    def draw(self, architecture, alphas, place, title):
        from sharpkeras.view import curves

        by_epoch, positions = np.array([epoch[0] for epoch in alphas]), list(map(str, range(self.length)))
        curves.draw_alphas(by_epoch, self.names, place("alphas.png"), title, positions)


SPACES["chain"] = SpaceEntry(ChainSpace, architecture="chain", summary="one primitive at each position of a chain")
ARCHITECTURES["chain"] = ArchitectureEntry(Chain, fields=("chain",))


# --- recipes: a search, and the training of what it finds, which it names ---

SIZES = {"dataset": "stripes", "init_channels": 4, "batch_size": 16, "epochs": 1}
SEARCHES["stripes"] = RecipeEntry(
    SearchRecipe(**SIZES, space="chain", weighting="squared", num_cells=3, training="stripes"),
    "a chain of primitives for stripes, in seconds",
)
TRAININGS["stripes"] = RecipeEntry(TrainRecipe(**SIZES, warmup_epochs=0, label_smoothing=0.0), "the same stripes")
