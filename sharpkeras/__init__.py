"""sharpkeras: differentiable architecture search (DARTS, sharpDARTS) for Keras 3.

primitives → space → supernet → bilevel search → architecture → network → training → measure → export

    import sharpkeras as sk
    found = sk.search("digits", "runs/search", epochs=12)
    sk.train("runs/search", "runs/train")
    model = sk.load("runs/train")

Importing it loads no framework: each name is imported from its module when it is first asked for (PEP 562). It sets one
variable that TensorFlow reads when it is imported (see `backend.onednn`).
"""

import importlib
from typing import TYPE_CHECKING, Any

from sharpkeras import serialization
from sharpkeras.backend import onednn

if TYPE_CHECKING:
    from sharpkeras import errors as errors
    from sharpkeras import layers as layers
    from sharpkeras.api import architecture as architecture
    from sharpkeras.api import benchmark as benchmark
    from sharpkeras.api import compare as compare
    from sharpkeras.api import cost as cost
    from sharpkeras.api import evaluate as evaluate
    from sharpkeras.api import export as export
    from sharpkeras.api import extract as extract
    from sharpkeras.api import forecast as forecast
    from sharpkeras.api import load as load
    from sharpkeras.api import sample as sample
    from sharpkeras.api import search as search
    from sharpkeras.api import sweep as sweep
    from sharpkeras.api import table as table
    from sharpkeras.api import train as train
    from sharpkeras.data.augment import Cutout as Cutout
    from sharpkeras.data.autoaugment import AutoAugment as AutoAugment
    from sharpkeras.experiment.run_options import RunOptions as RunOptions
    from sharpkeras.layers import DilConv as DilConv
    from sharpkeras.layers import DropPath as DropPath
    from sharpkeras.layers import FactorizedReduce as FactorizedReduce
    from sharpkeras.layers import ReLUConvBN as ReLUConvBN
    from sharpkeras.layers import ResizablePool as ResizablePool
    from sharpkeras.layers import SharpSepConv as SharpSepConv
    from sharpkeras.recipes import SearchRecipe as SearchRecipe
    from sharpkeras.recipes import TrainRecipe as TrainRecipe
    from sharpkeras.schedule import CosinePowerAnnealing as CosinePowerAnnealing
    from sharpkeras.searching.search_model import SearchModel as SearchModel
    from sharpkeras.spaces.cell.genotype import Genotype as Genotype
    from sharpkeras.spaces.cell.space import CellSpace as CellSpace
    from sharpkeras.spaces.hypercuboid.path import Path as Path
    from sharpkeras.spaces.hypercuboid.space import HyperCuboid as HyperCuboid

__version__ = "0.1.0"

_HOMES = {
    "api": (
        "architecture",
        "benchmark",
        "compare",
        "cost",
        "evaluate",
        "export",
        "extract",
        "forecast",
        "load",
        "sample",
        "search",
        "sweep",
        "table",
        "train",
    ),
    "data.augment": ("Cutout",),
    "data.autoaugment": ("AutoAugment",),
    "experiment.run_options": ("RunOptions",),
    "layers": ("DilConv", "DropPath", "FactorizedReduce", "ReLUConvBN", "ResizablePool", "SharpSepConv"),
    "recipes": ("SearchRecipe", "TrainRecipe"),
    "schedule": ("CosinePowerAnnealing",),
    "searching.search_model": ("SearchModel",),
    "spaces.cell.genotype": ("Genotype",),
    "spaces.cell.space": ("CellSpace",),
    "spaces.hypercuboid.path": ("Path",),
    "spaces.hypercuboid.space": ("HyperCuboid",),
}  # module → its public names
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}
_MODULES = ("errors", "layers")  # which are public as they are

__all__ = ["__version__", *_MODULES, *_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"sharpkeras.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"sharpkeras.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


onednn.switch_on()
serialization.announce()
