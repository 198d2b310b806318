"""The supernet of the cell space: every primitive on every edge, mixed by weights that come in as an input."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from sharpkeras.backend import fused_ops
from sharpkeras.backend.rematerialization import recomputed
from sharpkeras.layers import BatchNormalization, Conv2D
from sharpkeras.spaces.cell import network, topology
from sharpkeras.spaces.cell.search_cell import SearchCell
from sharpkeras.spaces.final_network import default_name, dense
from sharpkeras.spaces.state_dict import Slot, layer_slots


@keras.saving.register_keras_serializable("sharpkeras", name="Supernet")  # as files name it
class CellSupernet(keras.Model):
    """The network of the search: a stack of search cells (Fig. 2) that takes its mixing weights as an input.

    Args:
        primitive_names: P published names.
        ops: op table.
        num_classes, init_channels, num_cells, num_nodes, num_concatenated: sizes.

    Inputs: images (B, H, W, C) and a pair of mixing weights (E, P), normal and reduction cells. Output: logits
    (B, num_classes), float32. `build((None, H, W, C))` before the first call.

    With `remat` set, a training pass keeps what goes in and out of each cell and computes the rest again for the
    gradient.
    """

    remat = False

    def __init__(
        self,
        primitive_names: Sequence[str],
        ops: str = "sharp",
        num_classes: int = 10,
        init_channels: int = 16,
        num_cells: int = 8,
        num_nodes: int = 4,
        num_concatenated: int = 4,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        # The mixing weights reach the cells as they are.
        super().__init__(autocast=False, name=name or default_name("supernet"), **kwargs)
        network.check_channels(init_channels, "init_channels")
        self._arguments = dict(primitive_names=tuple(primitive_names), ops=ops, num_classes=num_classes)
        self._arguments |= dict(init_channels=init_channels, num_cells=num_cells)
        self._arguments |= dict(num_nodes=num_nodes, num_concatenated=num_concatenated)
        stem_filters = topology.STEM_MULTIPLIER * init_channels
        self.stem = [Conv2D(stem_filters, 3, name="stem.0"), BatchNormalization(name="stem.1")]
        functions = fused_ops.recorded_functions()
        self.cells = [
            SearchCell(plan, primitive_names, num_nodes, num_concatenated, ops, functions, name=f"cells.{plan.index}")
            for plan in topology.plan_cells(num_cells, init_channels)
        ]
        self.classifier = dense(num_classes, self.cells[-1].filters * num_concatenated)

    def build(self, images_shape: tuple[int | None, ...]) -> None:
        """Makes all variables for images of shape (None, H, W, C); nothing is traced."""
        self.stem[0].build(images_shape)
        older = newer = self.stem[0].compute_output_shape(images_shape)
        self.stem[1].build(newer)
        for cell in self.cells:
            cell.build(older, newer)
            older, newer = newer, cell.compute_output_shape(older, newer)
        self.classifier.build((None, newer[-1]))

    def call(self, inputs: Sequence[Any], training: bool | None = None) -> Any:
        images, mixing_weights = inputs
        normal, reduce = mixing_weights
        older = newer = self.stem[1](self.stem[0](images), training=training)
        for cell in self.cells:
            run = functools.partial(cell, training=training)
            run = recomputed(run, cell.variables) if self.remat and training else run
            older, newer = newer, run(older, newer, reduce if cell.plan.reduction else normal)
        return self.classifier(ops.mean(ops.cast(newer, self.classifier.compute_dtype), axis=(1, 2)))

    def state_slots(self) -> Iterator[tuple[str, Slot]]:
        """Where the arrays of an official state dict go."""
        for layer in (*self.stem, self.classifier, *self.cells):
            yield from layer_slots(layer, layer.name)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, **self._arguments}
