"""The peer of `cuboid_step.py`: MultiChannelNet (§4.1, Fig. 6) as a PyTorch user writes it, one module per operation.

Every choice of a grid is evaluated eagerly and added in a loop. Modules carry the names of the official state dicts,
so that `sharpkeras.spaces.state_dict` reads what `Multichannel.state_dict` holds.
"""

import torch
from torch import nn

WEIGHTINGS = {"scalar": lambda weights: weights, "max_w": lambda weights: 1 - weights.max() + weights}  # Eq. 3


class SharpSepConv(nn.Module):
    """Two separable 3×3 convolutions (Fig. 1 and 3), c_mid = c_out."""

    def __init__(self, c_in, c_out, stride=1):
        super().__init__()
        self.op = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(c_in, c_in, 3, stride, 1, groups=c_in, bias=False),
            nn.Conv2d(c_in, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(),
            nn.Conv2d(c_out, c_out, 3, 1, 1, groups=c_out, bias=False),
            nn.Conv2d(c_out, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )

    def forward(self, state):
        return self.op(state)


class ResizablePool(nn.Module):
    """A 3×3 max-pool; a 1×1 convolution and BatchNorm where the number of channels changes."""

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        resize = [nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out, eps=1e-3)] if c_in != c_out else []
        self.op = nn.Sequential(nn.MaxPool2d(3, stride, 1), *resize)

    def forward(self, state):
        return self.op(state)


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
                modules(modules((ResizablePool(i, o, stride), SharpSepConv(i, o, stride))) for o in filters)
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


def modules(layers):
    return nn.ModuleList(layers)


class Search:
    """First-order bilevel search by PyTorch's own optimizers, with the settings of the paper's search.

    Args:
        model: a Multichannel.
        learning_rate: of the weights.
    """

    def __init__(self, model, learning_rate):
        self.model = model
        self.alphas = nn.Parameter(1e-3 * torch.randn(model.alphas_shape))
        self.arch_optimizer = torch.optim.Adam([self.alphas], 3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
        self.weight_optimizer = torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9, weight_decay=3e-4)

    def load(self, state, alphas):
        """Starts from given arrays: weights by their names, without the counters of BatchNorm, and alphas."""
        arrays = {name: torch.from_numpy(array) for name, array in state.items()}
        self.model.load_state_dict(self.model.state_dict() | arrays)
        self.alphas.data.copy_(torch.from_numpy(alphas))

    def step(self, training, validation):
        """Alphas on the validation batch, then weights on the training batch, both (images, labels); the latter's loss.

        `loss.backward()` computes the gradients of all weights for the alphas too, and throws them away: so does the
        official code, and so does everyone who writes no more than that.
        """
        self.backward(validation)
        self.arch_optimizer.step()
        loss = self.backward(training)
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.weight_optimizer.step()
        return loss

    def backward(self, batch):
        """The loss of a batch, whose gradients take the place of those before."""
        images, labels = batch
        self.arch_optimizer.zero_grad()
        self.weight_optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(images, self.alphas), labels)
        loss.backward()
        return loss.detach()
