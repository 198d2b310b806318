"""Table 1: what an edge of a cell can be, by its published name.

An op table says which layer a published name stands for: `sharp`, where every convolution is a SharpSepConv, and
`darts`, the layers of DARTS itself. A primitive list says which names a search chooses from.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sharpkeras.errors import ConfigError

if TYPE_CHECKING:
    import keras

CHOKE_FILTERS = 32  # c_mid of the choke primitives in every supernet (Table 1)


@dataclass(frozen=True)
class Primitive:
    """A row of Table 1.

    Args:
        kind: "none", "skip", "pool" or "conv".
        layer: the Keras layer, by its name in `layers`: the table is read without Keras. Of a row that is added from
            outside the class itself, of (filters, strides, affine, name); a pool takes (strides, name).
        options: its further arguments.
    """

    kind: str
    layer: str | Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)


NONE = Primitive("none", "Zero")
SKIP = Primitive("skip", "Identity")  # FactorizedReduce at stride 2


def _sharp(kernel_size: int, **options: Any) -> Primitive:
    return Primitive("conv", "SharpSepConv", {"kernel_size": kernel_size, **options})


SHARP_OPS = {
    "none": NONE,
    "avg_pool_3x3": Primitive("pool", "ResizablePool", {"pool": "average"}),
    "max_pool_3x3": Primitive("pool", "ResizablePool", {"pool": "max"}),
    "skip_connect": SKIP,
    "sep_conv_3x3": _sharp(3),
    "sep_conv_5x5": _sharp(5),
    "sep_conv_7x7": _sharp(7),
    "dil_conv_3x3": _sharp(3, dilation_rate=2),
    "dil_conv_5x5": _sharp(5, dilation_rate=2),
    "flood_conv_3x3": _sharp(3, mid_multiplier=4),
    "flood_conv_5x5": _sharp(5, mid_multiplier=4),
    "dil_flood_conv_3x3": _sharp(3, dilation_rate=2, mid_multiplier=4),
    # The official code pads this one by 2 instead of 4, so that its output does not fit any sum; here it is padded.
    "dil_flood_conv_5x5": _sharp(5, dilation_rate=2, mid_multiplier=4),
    "choke_conv_3x3": _sharp(3, mid_filters=CHOKE_FILTERS),
    # Table 1 prints stride 2 for this row; the official code has stride 1 like all others, and so has this.
    "dil_choke_conv_3x3": _sharp(3, dilation_rate=2, mid_filters=CHOKE_FILTERS),
    "conv_7x1_1x7": Primitive("conv", "SplitConv", {"kernel_size": 7, "epsilon": 1e-3}),  # as in ResizablePool
}

DARTS_OPS = {
    "none": NONE,
    "avg_pool_3x3": Primitive("pool", "AveragePool", {"counted_padding": False}),
    "max_pool_3x3": Primitive("pool", "MaxPool"),
    "skip_connect": SKIP,
    "sep_conv_3x3": _sharp(3),
    "sep_conv_5x5": _sharp(5),
    "sep_conv_7x7": _sharp(7),
    "dil_conv_3x3": Primitive("conv", "DilConv", {"kernel_size": 3, "dilation_rate": 2}),
    "dil_conv_5x5": Primitive("conv", "DilConv", {"kernel_size": 5, "dilation_rate": 2}),
    "conv_7x1_1x7": Primitive("conv", "SplitConv", {"kernel_size": 7}),
    "nor_conv_3x3": Primitive("conv", "ConvBNReLU", {"kernel_size": 3}),
    "nor_conv_5x5": Primitive("conv", "ConvBNReLU", {"kernel_size": 5}),
    "nor_conv_7x7": Primitive("conv", "ConvBNReLU", {"kernel_size": 7}),
}

OPS = {"sharp": SHARP_OPS, "darts": DARTS_OPS}

_SHARP = (
    "sep_conv_3x3",
    "dil_conv_3x3",
    "flood_conv_3x3",
    "dil_flood_conv_3x3",
    "choke_conv_3x3",
    "dil_choke_conv_3x3",
)

PRIMITIVES = {
    # the primitives of DARTS (§4.2, item 1 and 2)
    "darts": (
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    ),
    # the default list of the official code; it leaves avg_pool_3x3 out
    "sharp": ("none", "max_pool_3x3", "skip_connect", *_SHARP),
    # Table 1 as printed
    "table1": ("none", "avg_pool_3x3", "max_pool_3x3", "skip_connect", *_SHARP),
    "sharper": (
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "sep_conv_7x7",
        "dil_conv_3x3",
        "dil_conv_5x5",
        "flood_conv_3x3",
        "flood_conv_5x5",
        "dil_flood_conv_3x3",
    ),
}


def lookup(name: str, ops: str, where: str | None = None) -> Primitive:
    """The row of `name` in the op table `ops`; raises ConfigError with the nearest name if there is none."""
    table = OPS[ops]
    if name not in table:
        near = difflib.get_close_matches(str(name), table, n=1)
        hint = f"did you mean {near[0]}?" if near else None
        raise ConfigError(
            f"unknown primitive in op table {ops!r}", where=where, seen=name, allowed=", ".join(table), next_step=hint
        )
    return table[name]


def build(
    name: str,
    /,
    ops: str,
    filters: int,
    strides: int = 1,
    affine: bool = True,
    mid_filters: int | None = None,
    **kwargs: Any,
) -> "keras.Layer":
    """The Keras layer of a primitive between states of `filters` channels.

    Args:
        name: published name.
        ops: op table, "sharp" or "darts".
        filters: channels of input and output.
        strides: 1, or 2 on the edges of a reduction cell that leave its inputs.
        affine: True gives the BatchNorms scale and offset.
        mid_filters: replaces the 32 middle channels of the choke primitives.
    """
    from sharpkeras import layers

    primitive = lookup(name, ops)
    layer, options = primitive.layer, dict(primitive.options)
    layer = getattr(layers, layer) if isinstance(layer, str) else layer
    if primitive.kind == "none":
        return layer(strides, **kwargs)
    if primitive.kind == "skip":
        return layer(**kwargs) if strides == 1 else layers.FactorizedReduce(filters, affine=affine, **kwargs)
    if primitive.kind == "pool" and layer is not layers.ResizablePool:
        return layer(strides=strides, **options, **kwargs)
    if mid_filters and "mid_filters" in options:
        options["mid_filters"] = mid_filters
    return layer(filters, strides=strides, affine=affine, **options, **kwargs)
