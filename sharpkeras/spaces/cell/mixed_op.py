"""The mixed operation of DARTS as the paper writes it; `search_cell` computes the same fast."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from sharpkeras import primitives
from sharpkeras.backend import fused_ops
from sharpkeras.layers import BatchNormalization, Composite, adopt, strided_shape


@keras.saving.register_keras_serializable("sharpkeras")
class MixedOp(Composite):
    """The mixed operation of DARTS on one edge: Σ_p w_p · primitive_p(x) (§2).

    In the search every pool is followed by a BatchNorm, and no BatchNorm has scale or offset.

    Args:
        primitive_names: P published names, in the order of the weights.
        filters: channels of input and output.
        strides: 1 or 2.
        ops: op table.

    Inputs: (B, H, W, C) and the edge's mixing weights (P,). Output: (B, H', W', C).
    """

    def __init__(
        self, primitive_names: Sequence[str], filters: int, strides: int = 1, ops: str = "sharp", **kwargs: Any
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # the mixing weights come as they are
        self.primitive_names, self.filters, self.strides, self.ops = tuple(primitive_names), filters, strides, ops
        self.layers = [primitives.build(name, ops, filters, strides, affine=False) for name in self.primitive_names]
        is_pool = [primitives.lookup(name, ops).kind == "pool" for name in self.primitive_names]
        self.norms = [BatchNormalization(center=False, scale=False) if pool else None for pool in is_pool]
        adopt(self, self.followers())

    def build(self, inputs_shape: tuple[int | None, ...], mixing_weights_shape: tuple[int | None, ...]) -> None:
        for layer, norm in zip(self.layers, self.norms):
            outputs = layer(keras.KerasTensor(inputs_shape))  # which builds it and what it holds
            if norm is not None:
                norm(outputs)

    def call(self, inputs: Any, mixing_weights: Any, training: bool | None = None) -> Any:
        weights = ops.cast(mixing_weights, fused_ops.at_least_float32(self.compute_dtype))
        weights = ops.unstack(weights, num=len(self.layers))
        return fused_ops.add(*[fused_ops.weigh(self._branch(p, inputs, training), w) for p, w in enumerate(weights)])

    def _branch(self, p: int, inputs: Any, training: bool | None) -> Any:
        outputs = self.layers[p](inputs, training=training)
        norm = self.norms[p]
        return outputs if norm is None else norm(outputs, training=training)

    def compute_output_shape(
        self, inputs_shape: tuple[int | None, ...], mixing_weights_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        return strided_shape(inputs_shape, (self.strides, self.strides), self.filters)

    def get_config(self) -> dict[str, Any]:
        arguments = dict(primitive_names=self.primitive_names, filters=self.filters, strides=self.strides, ops=self.ops)
        return {**super().get_config(), **arguments}
