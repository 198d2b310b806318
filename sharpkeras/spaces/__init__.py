"""Search spaces. A space is six methods; everything else of sharpkeras works on any of them.

- `init_alphas(seed)` → the architecture parameters (logits), a list of arrays
- `mixing_weights(alphas)` → softmax over the space's own groups, then the weighting (Eq. 3)
- `supernet(...)` → a keras.Model of (images, mixing weights)
- `extract(alphas)` → the architecture found, e.g. a Genotype
- `sample(seed)` → a random architecture, the baseline of every search
- `network(architecture, ...)` → the final keras.Model

For the collapse watch it has `primitive_kinds`: whether each primitive is a convolution, a pool, a skip or nothing.
"""
