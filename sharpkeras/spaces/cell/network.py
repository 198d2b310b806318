"""The final network of a genotype, for images of CIFAR's and of ImageNet's size (§3.3, Fig. 2)."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from sharpkeras import primitives
from sharpkeras.errors import ConfigError, DataError
from sharpkeras.layers import (
    CHANNELS_LAST,
    BatchNormalization,
    Composite,
    Conv2D,
    DropPath,
    Identity,
    adopt,
    fan_in_uniform,
)
from sharpkeras.spaces.cell import topology
from sharpkeras.spaces.cell.genotype import Genotype
from sharpkeras.spaces.final_network import FinalNetwork, classify, default_name, dense, image_input
from sharpkeras.spaces.state_dict import Slot, layer_slots

AUXILIARY_STRIDES = {"cifar": 3, "imagenet": 2}


@keras.saving.register_keras_serializable("sharpkeras", name="Network")  # as files name it
class CellNetwork(FinalNetwork):
    """A stack of cells with one classifier, and in training an auxiliary one (Fig. 2).

    Images (B, H, W, C), normalised → {"logits": (B, classes), "auxiliary": (B, classes) if asked, "unread": states that
    nothing reads, if the genotype has such}; see FinalNetwork.

    Args:
        genotype: Genotype.
        ops: op table.
        stem: "cifar" (3×3 convolution) or "imagenet" (three 3×3 convolutions of stride 2).
        input_shape: (H, W, C).
        num_classes, init_channels, num_cells: as in the paper's tables.
        mid_filters: middle channels of the choke primitives; None is 32.
        auxiliary: True adds the auxiliary head.
        drop_path_seed: seed of drop path; its rate starts at 0 and is set by `drop_path_rate.assign`.

    Raises:
        ConfigError: for an unknown primitive, an odd width, or images that do not fit the auxiliary head.
        DataError: for images too small for the stem and the cells.
    """

    def __init__(
        self,
        genotype: Genotype,
        ops: str = "sharp",
        stem: str = "cifar",
        input_shape: tuple[int, int, int] = (32, 32, 3),
        num_classes: int = 10,
        init_channels: int = 36,
        num_cells: int = 20,
        mid_filters: int | None = None,
        auxiliary: bool = False,
        drop_path_seed: int = 0,
        name: str | None = None,
    ) -> None:
        check_size(input_shape, stem, auxiliary)
        check_channels(init_channels, "init_channels")
        drop_path = DropPath(0.0, drop_path_seed, assignable=True, name="drop_path")
        images = image_input(input_shape)
        states, outputs = STEMS[stem](images, init_channels), {}
        unread: list[Any] = []
        stages: list[tuple] = [((images,), states if states[0] is not states[1] else states[:1])]
        for plan in topology.plan_cells(num_cells, init_channels, after_reduction=stem == "imagenet"):
            # The official ImageNet network concatenates normal cells by `reduce_concat`; its checkpoints fit no other.
            concat = genotype.reduce_concat if stem == "imagenet" else None
            output, unread_here = cell(states, plan, genotype, ops, mid_filters, drop_path, concat)
            stages.append((states if states[0] is not states[1] else states[:1], (output, *unread_here)))
            states, unread = (states[1], output), unread + unread_here
            if auxiliary and plan.index == topology.auxiliary_position(num_cells):
                head = AuxiliaryHead(num_classes, AUXILIARY_STRIDES[stem], name="auxiliary_head")
                outputs["auxiliary"] = head(states[1])
                stages.append((states[1:], (outputs["auxiliary"],)))
        outputs["logits"] = classify(states[1], num_classes)
        stages.append((states[1:], (outputs["logits"],)))
        if unread:
            outputs["unread"] = unread
        super().__init__(images, outputs, stages, name=name or default_name("network"))


def cell(
    states: Sequence[Any],
    plan: topology.CellPlan,
    genotype: Genotype,
    ops: str,
    mid_filters: int | None,
    drop_path: DropPath,
    concat: Sequence[int] | None = None,
) -> tuple[Any, list[Any]]:
    """One cell: preprocess both states to the cell's width, then add pairs of primitives at each node.

    Args:
        states: outputs of the two cells before, the older first.
        plan: CellPlan.
        concat: states to concatenate; None takes the genotype's.

    Returns:
        (B, H', W', len(concat)·plan.filters), and the states that nothing reads.
    """
    nodes, own_concat = genotype.cell(plan.reduction)
    prefix = f"cells.{plan.index}"
    pairs = [pair for node in nodes for pair in node]

    def apply(edge: int, state: Any) -> Any:
        name, source = pairs[edge]
        strides = topology.edge_strides(plan.reduction, source)
        layer = primitives.build(
            name, ops, plan.filters, strides, mid_filters=mid_filters, name=f"{prefix}._ops.{edge}"
        )
        return layer(state) if isinstance(layer, Identity) else drop_path(layer(state))

    edges = tuple(tuple((2 * node + i, pairs[2 * node + i][1]) for i in range(2)) for node in range(len(nodes)))
    inputs = preprocess(states, plan, prefix)
    return topology.run_cell(inputs, edges, apply, own_concat if concat is None else concat)


def preprocess(states: Sequence[Any], plan: topology.CellPlan, prefix: str, affine: bool = True) -> tuple[Any, Any]:
    """Both states at the cell's width and size; see `topology.preprocessing`."""
    older, newer = topology.preprocessing(plan)
    return (
        older(plan.filters, affine=affine, name=f"{prefix}.preprocess0")(states[0]),
        newer(plan.filters, affine=affine, name=f"{prefix}.preprocess1")(states[1]),
    )


def cifar_stem(images: Any, init_channels: int) -> tuple[Any, Any]:
    """3×3 convolution to 3C and BatchNorm; both states start from it."""
    features = Conv2D(topology.STEM_MULTIPLIER * init_channels, 3, name="stem.0")(images)
    features = BatchNormalization(name="stem.1")(features)
    return features, features


def imagenet_stem(images: Any, init_channels: int) -> tuple[Any, Any]:
    """Three 3×3 convolutions of stride 2; the states are the outputs of the second and the third."""
    features = Conv2D(init_channels // 2, 3, 2, name="stem0.0")(images)
    features = BatchNormalization(name="stem0.1")(features)
    features = keras.layers.ReLU(name="stem0.2")(features)
    features = Conv2D(init_channels, 3, 2, name="stem0.3")(features)
    older = BatchNormalization(name="stem0.4")(features)
    features = keras.layers.ReLU(name="stem1.0")(older)
    features = Conv2D(init_channels, 3, 2, name="stem1.1")(features)
    return older, BatchNormalization(name="stem1.2")(features)


STEMS = {"cifar": cifar_stem, "imagenet": imagenet_stem}


@keras.saving.register_keras_serializable("sharpkeras")
class AuxiliaryHead(Composite):
    """A second classifier in the middle of the network, whose loss is added with weight 0.4 in training.

    Args:
        num_classes: of the logits.
        strides: of its average pool: 3 for CIFAR (8×8 → 2×2), 2 for ImageNet (7×7 → 2×2).

    Input (B, H, W, C) that pools to 2×2, output (B, num_classes).
    """

    def __init__(self, num_classes: int, strides: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strides = strides
        features = [
            keras.layers.ReLU(),
            keras.layers.AveragePooling2D(5, strides, data_format=CHANNELS_LAST),
            Conv2D(128),
            BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Conv2D(
                768,
                2,
                data_format=CHANNELS_LAST,
                use_bias=False,
                kernel_initializer=fan_in_uniform(128 * 4),
            ),
            BatchNormalization(),
            keras.layers.ReLU(),
        ]
        self.features = adopt(self, features)
        self.classifier = dense(num_classes, 768, self.dtype_policy)
        self.classifier.trainable = self.trainable

    def followers(self) -> list[keras.layers.Layer]:
        return self.features

    def state_slots(self, name: str) -> Iterator[tuple[str, Slot]]:
        """Where the arrays of an official state dict go, by the name of the official module."""
        for position, step in enumerate(self.features):
            yield from layer_slots(step, f"{name}.features.{position}")
        yield from layer_slots(self.classifier, f"{name}.classifier")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        for layer in self.features:
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)
        self.classifier.build((input_shape[0], 768))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        for layer in self.features:
            inputs = layer(inputs, training=training) if isinstance(layer, BatchNormalization) else layer(inputs)
        return self.classifier(ops.reshape(inputs, (-1, 768)))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.classifier.units)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> keras.KerasTensor:
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.classifier.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_classes": self.classifier.units, "strides": self.strides}


def check_channels(init_channels: int, where: str) -> None:
    if init_channels < 2 or init_channels % 2:
        # FactorizedReduce gives half of its channels to each of its two convolutions.
        raise ConfigError("expected an even number of channels", where=where, seen=init_channels, allowed="2, 4, 6, …")


def check_size(input_shape: Sequence[int | None], stem: str, auxiliary: bool) -> None:
    """Two reductions, three more in the ImageNet stem, and an auxiliary head that is made for one size.

    A side that is None is not known yet, and does for all but that head.
    """
    smallest = {"cifar": 4, "imagenet": 32}[stem]
    if min(side or smallest for side in input_shape[:2]) < smallest:
        allowed = f"at least {smallest} × {smallest} pixels for the {stem} network"
        raise DataError("images are smaller than the network's total stride", seen=input_shape, allowed=allowed)
    side = {"cifar": 4, "imagenet": 32}[stem]
    at_head = {size and -(-size // side) for size in input_shape[:2]}
    fitting = {"cifar": {8, 9, 10}, "imagenet": {7, 8}}[stem]
    if auxiliary and not at_head <= fitting:
        pixels = {"cifar": "29 to 40", "imagenet": "193 to 256"}[stem]
        allowed = f"{pixels} pixels per side for the {stem} network, or no auxiliary head"
        raise ConfigError("the auxiliary head does not fit these images", seen=input_shape, allowed=allowed)
