"""Search spaces. A space is a few methods; everything else of sharpkeras works on any of them.

- `init_alphas(seed)` → the architecture parameters (logits), a list of arrays
- `mixing_weights(alphas)` → softmax over the space's own groups, then the weighting (Eq. 3)
- `supernet(...)` → a keras.Model of (images, mixing weights)
- `extract(alphas, …)` → the architecture found: a Genotype, a Path
- `sample(seed)` → a random architecture, the baseline of every search
- `network(architecture, ...)` → the final keras.Model

For the collapse watch it has `decisions` and `kinds_of`: what was to be decided, and between which kinds of primitives.
For a budget it has `costs(measure, …)`, what each choice adds to the cost of the final network; `expected_cost`, the
mean of it under the alphas, with a gradient; and `extract` takes a limit.
"""

from typing import NamedTuple


class Costs(NamedTuple):
    """What the final network of an architecture costs: the sum of a fixed part and of what each of its choices adds.

    fixed: of the layers that all architectures have.
    choices: arrays of the shapes of the alphas.
    """

    fixed: float
    choices: list
