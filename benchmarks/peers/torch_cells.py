"""The supernet and the final network of the cell space as a PyTorch user writes them, structured as the official code.

A module for each operation on each edge; a MixedOp adds Σ_p w_p · op_p(x) in a loop (§2, Fig. 2). Modules carry the
names of the official state dicts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from peers.torch_layers import FactorizedReduce, ReLUConvBN, build
from sharpkeras import primitives

STEM_MULTIPLIER = 3


class MixedOp(nn.Module):
    """Every primitive on one edge, weighted and added; a pool has a BatchNorm behind it, no BatchNorm is affine."""

    def __init__(self, names: Sequence[str], ops: str, filters: int, stride: int) -> None:
        super().__init__()
        self._ops = nn.ModuleList()
        for name in names:
            layer = build(name, ops, filters, stride, affine=False)
            if primitives.lookup(name, ops).kind == "pool":
                layer = nn.Sequential(layer, nn.BatchNorm2d(filters, affine=False))
            self._ops.append(layer)

    def forward(self, state: Tensor, weights: Tensor) -> Tensor:
        return sum(weight * layer(state) for weight, layer in zip(weights, self._ops))


class Cell(nn.Module):
    """What cells of the search and of a final network share: two states brought to the cell's width.

    Args:
        c_older, c_newer: channels of the two states that come in.
        filters: of the cell.
        reduction, after_reduction: whether the cell halves the image, and whether the cell before it did.
        affine: of all BatchNorms.
    """

    def __init__(
        self, c_older: int, c_newer: int, filters: int, reduction: bool, after_reduction: bool, affine: bool
    ) -> None:
        super().__init__()
        self.reduction = reduction
        older = FactorizedReduce if after_reduction else ReLUConvBN
        self.preprocess0 = older(c_older, filters, affine)
        self.preprocess1 = ReLUConvBN(c_newer, filters, affine)
        self._ops = nn.ModuleList()

    def strides(self, source: int) -> int:
        return 2 if self.reduction and source < 2 else 1


class SearchCell(Cell):
    """A MixedOp on every edge; all nodes are concatenated."""

    def __init__(self, *arguments: int, names: Sequence[str], ops: str, num_nodes: int) -> None:
        super().__init__(*arguments, affine=False)
        filters = arguments[2]
        for node in range(num_nodes):
            self._ops.extend(MixedOp(names, ops, filters, self.strides(source)) for source in range(2 + node))
        self.num_nodes = num_nodes

    def forward(self, older: Tensor, newer: Tensor, weights: Tensor) -> Tensor:
        states, edge = [self.preprocess0(older), self.preprocess1(newer)], 0
        for _ in range(self.num_nodes):
            terms = [self._ops[edge + j](state, weights[edge + j]) for j, state in enumerate(states)]
            edge += len(states)
            states.append(sum(terms))
        return torch.cat(states[2:], 1)


class Supernet(nn.Module):
    """The network of the search, for images (B, 3, H, W) and alphas (2, E, P) of normal and reduction cells.

    Args:
        names: P published names of primitives.
        ops: op table.
        weighting: "scalar" or "max_w" (Eq. 3).
        num_classes, init_channels, num_cells, num_nodes: sizes.
    """

    def __init__(
        self,
        names: Sequence[str],
        ops: str = "sharp",
        weighting: str = "scalar",
        num_classes: int = 10,
        init_channels: int = 16,
        num_cells: int = 8,
        num_nodes: int = 4,
    ) -> None:
        super().__init__()
        self.weighting = weighting
        self.alphas_shape = (2, sum(range(2, 2 + num_nodes)), len(names))
        self.stem = stem(init_channels)
        self.cells = nn.ModuleList()
        older = newer = STEM_MULTIPLIER * init_channels
        filters, after = init_channels, False
        for index in range(num_cells):
            reduction = index in (num_cells // 3, 2 * num_cells // 3)
            filters *= 2 if reduction else 1
            cell = SearchCell(older, newer, filters, reduction, after, names=names, ops=ops, num_nodes=num_nodes)
            self.cells.append(cell)
            older, newer, after = newer, num_nodes * filters, reduction
        self.classifier = nn.Linear(newer, num_classes)

    def forward(self, images: Tensor, alphas: Tensor) -> Tensor:
        older = newer = self.stem(images)
        for cell in self.cells:
            older, newer = newer, cell(older, newer, self.mixing_weights(alphas[int(cell.reduction)]))
        return self.classifier(newer.mean((2, 3)))

    def mixing_weights(self, alphas: Tensor) -> Tensor:
        weights = alphas.softmax(-1)
        return weights if self.weighting == "scalar" else 1 - weights.max(-1, keepdim=True).values + weights


class FinalCell(Cell):
    """Two primitives at each node, with drop path on all but Identity."""

    def __init__(self, *arguments: int, pairs: Sequence[tuple[str, int]], concat: Sequence[int], ops: str) -> None:
        super().__init__(*arguments, affine=True)
        filters = arguments[2]
        self._ops.extend(build(name, ops, filters, self.strides(source), affine=True) for name, source in pairs)
        self.sources, self.concat = [source for _, source in pairs], concat

    def forward(self, older: Tensor, newer: Tensor, drop_path: float) -> Tensor:
        states = [self.preprocess0(older), self.preprocess1(newer)]
        for node in range(0, len(self.sources), 2):
            states.append(sum(self.edge(edge, states, drop_path) for edge in (node, node + 1)))
        return torch.cat([states[index] for index in self.concat], 1)

    def edge(self, edge: int, states: Sequence[Tensor], drop_path: float) -> Tensor:
        layer = self._ops[edge]
        outputs = layer(states[self.sources[edge]])
        if drop_path and self.training and not isinstance(layer, nn.Identity):
            keep = 1 - drop_path
            mask = torch.empty((len(outputs), 1, 1, 1), device=outputs.device, dtype=outputs.dtype).bernoulli_(keep)
            outputs = outputs / keep * mask
        return outputs


class Network(nn.Module):
    """The final network of a genotype for CIFAR-10, with the auxiliary head.

    Args:
        genotype: sharpkeras' Genotype.
        ops: op table.
        num_classes, init_channels, num_cells: sizes.
    """

    drop_path = 0.0

    def __init__(
        self, genotype, ops: str = "sharp", num_classes: int = 10, init_channels: int = 36, num_cells: int = 20
    ) -> None:
        super().__init__()
        self.stem = stem(init_channels)
        self.cells = nn.ModuleList()
        self.auxiliary_position = 2 * num_cells // 3
        older = newer = STEM_MULTIPLIER * init_channels
        filters, after = init_channels, False
        for index in range(num_cells):
            reduction = index in (num_cells // 3, 2 * num_cells // 3)
            filters *= 2 if reduction else 1
            pairs, concat = genotype.reduce, genotype.reduce_concat
            if not reduction:
                pairs, concat = genotype.normal, genotype.normal_concat
            cell = FinalCell(older, newer, filters, reduction, after, pairs=pairs, concat=concat, ops=ops)
            self.cells.append(cell)
            older, newer, after = newer, len(concat) * filters, reduction
            if index == self.auxiliary_position:
                self.auxiliary_head = AuxiliaryHead(newer, num_classes)
        self.classifier = nn.Linear(newer, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and those of the auxiliary head."""
        older = newer = self.stem(images)
        for index, cell in enumerate(self.cells):
            older, newer = newer, cell(older, newer, self.drop_path)
            if index == self.auxiliary_position:
                auxiliary = self.auxiliary_head(newer)
        return self.classifier(newer.mean((2, 3))), auxiliary


class AuxiliaryHead(nn.Module):
    """The classifier in the middle of the network, for states of 8×8 pixels."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, 3, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, state: Tensor) -> Tensor:
        return self.classifier(self.features(state).flatten(1))


def stem(init_channels: int) -> nn.Sequential:
    channels = STEM_MULTIPLIER * init_channels
    return nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
