"""sharpkeras: differentiable architecture search (DARTS, sharpDARTS) for Keras 3.

primitives → space → supernet → bilevel search → architecture → network → training → measure → export
"""

import importlib

from sharpkeras import serialization

__version__ = "0.1.0"

_HOMES = {
    "architecture": "runs.architectures",
    "compare": "experiment.compare",
    "evaluate": "experiment.evaluate",
    "export": "experiment.export",
    "extract": "experiment.extract",
    "sample": "experiment.sample",
    "search": "experiment.search",
    "train": "experiment.train",
}  # public name → its module, imported when the name is first asked for (PEP 562)

__all__ = ["__version__", *_HOMES]


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"sharpkeras.{_HOMES[name]}"), name)


def __dir__():
    return sorted({*globals(), *__all__})


serialization.announce()
