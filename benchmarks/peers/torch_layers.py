"""The layers of DARTS and sharpDARTS in PyTorch, an `nn.Module` each (§3.1, Fig. 1 and 3, Table 1).

Modules carry the names of the official state dicts, which `sharpkeras.spaces.state_dict` writes.
"""

from typing import Any

import torch
from torch import Tensor, nn

from sharpkeras import primitives

POOL_EPSILON = 1e-3  # of the BatchNorm in ResizablePool


class SharpSepConv(nn.Module):
    """Two separable convolutions around a middle of adaptable width (Fig. 1 and 3).

    Args:
        c_in, c_out: channels.
        kernel_size: odd; of both depthwise convolutions.
        stride, dilation_rate: of the first depthwise convolution.
        mid_filters: middle channels; None is c_out · mid_multiplier.
        affine: True gives the BatchNorms scale and offset.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation_rate: int = 1,
        mid_filters: int | None = None,
        mid_multiplier: int = 1,
        affine: bool = True,
    ) -> None:
        super().__init__()
        middle, pad = mid_filters or c_out * mid_multiplier, (kernel_size - 1) // 2
        self.op = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(c_in, c_in, kernel_size, stride, dilation_rate * pad, dilation_rate, c_in, bias=False),
            nn.Conv2d(c_in, middle, 1, bias=False),
            nn.BatchNorm2d(middle, affine=affine),
            nn.ReLU(),
            nn.Conv2d(middle, middle, kernel_size, 1, pad, groups=middle, bias=False),
            nn.Conv2d(middle, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out, affine=affine),
        )

    def forward(self, state: Tensor) -> Tensor:
        return self.op(state)


class DilConv(nn.Module):
    """The dilated convolution of DARTS: ReLU, dilated depthwise, pointwise, BatchNorm."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation_rate: int = 2,
        affine: bool = True,
    ) -> None:
        super().__init__()
        pad = dilation_rate * (kernel_size - 1) // 2
        self.op = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(c_in, c_in, kernel_size, stride, pad, dilation_rate, c_in, bias=False),
            nn.Conv2d(c_in, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out, affine=affine),
        )

    def forward(self, state: Tensor) -> Tensor:
        return self.op(state)


class ReLUConvBN(nn.Module):
    """ReLU, 1×1 convolution, BatchNorm: what brings a cell's input to its own width."""

    def __init__(self, c_in: int, c_out: int, affine: bool = True) -> None:
        super().__init__()
        convolution = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.op = nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(c_out, affine=affine))

    def forward(self, state: Tensor) -> Tensor:
        return self.op(state)


class FactorizedReduce(nn.Module):
    """Two 1×1 convolutions of stride 2, one of them on images shifted by one pixel, concatenated; BatchNorm."""

    def __init__(self, c_in: int, c_out: int, affine: bool = True) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_1 = nn.Conv2d(c_in, c_out // 2, 1, 2, bias=False)
        self.conv_2 = nn.Conv2d(c_in, c_out // 2, 1, 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out, affine=affine)

    def forward(self, state: Tensor) -> Tensor:
        state = self.relu(state)
        return self.bn(torch.cat([self.conv_1(state), self.conv_2(state[:, :, 1:, 1:])], 1))


class ResizablePool(nn.Module):
    """A 3×3 pool; a 1×1 convolution and BatchNorm where the number of channels changes."""

    def __init__(self, c_in: int, c_out: int, stride: int, pool: str = "max", affine: bool = True) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(c_out, POOL_EPSILON, affine=affine)
        resize = [nn.Conv2d(c_in, c_out, 1, bias=False), norm] if c_in != c_out else []
        self.op = nn.Sequential({"max": nn.MaxPool2d, "average": nn.AvgPool2d}[pool](3, stride, 1), *resize)

    def forward(self, state: Tensor) -> Tensor:
        return self.op(state)


class Zero(nn.Module):
    """The primitive `none`, computed as the official code does: the strided state times 0."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, state: Tensor) -> Tensor:
        return state[:, :, :: self.stride, :: self.stride] * 0.0


def build(name: str, ops: str, filters: int, stride: int, affine: bool) -> nn.Module:
    """The module of a published primitive between states of `filters` channels, by the rows of `primitives.OPS`."""
    row = primitives.lookup(name, ops)
    options: dict[str, Any] = dict(row.options)
    match row.kind, row.layer:
        case "none", _:
            return Zero(stride)
        case "skip", _:
            return nn.Identity() if stride == 1 else FactorizedReduce(filters, filters, affine)
        case _, "MaxPool":
            return nn.MaxPool2d(3, stride, 1)
        case _, "AveragePool":
            return nn.AvgPool2d(3, stride, 1, count_include_pad=options["counted_padding"])
    layers = {"SharpSepConv": SharpSepConv, "DilConv": DilConv, "ResizablePool": ResizablePool}
    return layers[str(row.layer)](filters, filters, stride=stride, affine=affine, **options)
