"""What the benchmarks measure in turn: the steps of sharpkeras, and the same steps as PyTorch users write them.

`turns` measures any forms in turn, each in a process of its own; `ours` has the steps of sharpkeras. The other modules
import PyTorch, which is no dependency of sharpkeras, and take their weights from ours by official names.
"""
