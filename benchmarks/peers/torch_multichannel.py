"""MultiChannelNet (§4.1, Fig. 6) as a PyTorch user writes it, one module per operation: the peer of `cuboid_step.py`.

Every choice of a grid is evaluated eagerly and added in a loop. Modules carry the names of the official state dicts,
so that `sharpkeras.spaces.state_dict` reads what `Multichannel.state_dict` holds.
"""

from torch import nn

from peers.torch_layers import ResizablePool, SharpSepConv

modules = nn.ModuleList
WEIGHTINGS = {"scalar": lambda weights: weights, "max_w": lambda weights: 1 - weights.max() + weights}  # Eq. 3


class Multichannel(nn.Module):
    """The supernet: per filter count a stem and a head, and per stage a grid of stride 1 and one of stride 2.

    Args:
        filters: the filter counts.
        num_stages: pairs of grids.
        weighting: a key of WEIGHTINGS.
        final_filters: of the heads.
        num_classes: of the logits.
    """

    def __init__(self, filters, num_stages, weighting, final_filters=768, num_classes=10):
        super().__init__()

        def grid(stride):
            return modules(
                modules(modules((ResizablePool(i, o, stride), SharpSepConv(i, o, stride=stride))) for o in filters)
                for i in filters
            )

        self.weighting = WEIGHTINGS[weighting]
        self.alphas_shape = (2, num_stages, len(filters), len(filters), 2)  # stride, stage, c_in, c_out, primitive
        self.stem = modules(nn.Sequential(nn.Conv2d(3, c, 3, 1, 1, bias=False), nn.BatchNorm2d(c)) for c in filters)
        self.op_grid = modules(modules((grid(1), grid(2))) for _ in range(num_stages))
        self.base = modules(SharpSepConv(c, final_filters) for c in filters)
        self.classifier = nn.Linear(final_filters, num_classes)

    def forward(self, images, alphas):
        """Logits (B, classes) of images (B, 3, H, W) and alphas of `alphas_shape`."""
        states = [stem(images) for stem in self.stem]
        for stage, grids in enumerate(self.op_grid):
            for grid, slabs in zip(grids, alphas):
                states = self.position(states, grid, slabs[stage])
        features = sum(head(state) for head, state in zip(self.base, states))
        return self.classifier(features.mean((2, 3)))

    def position(self, states, grid, slab):
        """The states after one grid: per c_out the weighted sum over c_in and primitives."""
        weights = self.weighting(slab.flatten().softmax(0)).view_as(slab)
        return [
            sum(
                weights[i, o, p] * primitive(state)
                for i, state in enumerate(states)
                for p, primitive in enumerate(grid[i][o])
            )
            for o in range(len(states))
        ]
