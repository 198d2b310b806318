"""What a `.keras` file may name of sharpkeras: it loads after `import sharpkeras` alone, which imports no framework.

Keras knows a class of others once its module was imported. Here it is told of each of them by its place, when Keras
itself is imported or at once where it was; the module follows when a file names the class.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = "sharpkeras"  # under which they are registered
CLASSES = {
    "layers": (
        "AveragePool",
        "BatchNormalization",
        "Conv2D",
        "ConvBN",
        "ConvBNReLU",
        "DepthwiseConv2D",
        "DilConv",
        "DropPath",
        "FactorizedReduce",
        "Identity",
        "MaxPool",
        "ReLUConvBN",
        "ResizablePool",
        "SharpSepConv",
        "SplitConv",
        "Zero",
    ),
    "schedule": ("CosinePowerAnnealing",),
    "optimizers": ("SGD", "Adam"),
    "spaces.final_network": ("FinalNetwork",),
    "spaces.cell.network": ("AuxiliaryHead", "CellNetwork"),
    "spaces.cell.mixed_op": ("MixedOp",),
    "spaces.cell.supernet": ("CellSupernet",),
    "spaces.hypercuboid.network": ("PathNetwork",),
    "data.augment": ("Cutout",),
    "data.autoaugment": ("AutoAugment",),
    "experiment.load": ("ImageClassifier",),
}
NAMES_IN_FILES = {"CellNetwork": "Network", "CellSupernet": "Supernet"}  # of classes that files know by another name


class Later:
    """A stand-in for a class in Keras' registry: the first access to an attribute, as of `from_config`, imports it."""

    def __init__(self, module: str, name: str) -> None:
        self._place = module, name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        module, name = self._place
        return getattr(getattr(importlib.import_module(f"{PACKAGE}.{module}"), name), attribute)


class WhenKerasComes:
    """A finder that lets the others find Keras, and tells it of the classes when it has been imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_announce(module: ModuleType) -> None:
                execute(module)
                sys.meta_path.remove(self)
                _announce()

            spec.loader.exec_module = execute_and_announce
        return spec


def announce() -> None:
    """Tells Keras of the classes, now or when it is imported."""
    if "keras" in sys.modules:
        _announce()
    else:
        sys.meta_path.insert(0, WhenKerasComes())


def _announce() -> None:
    known = sys.modules["keras"].saving.get_custom_objects()
    for module, names in CLASSES.items():
        for name in names:
            known.setdefault(f"{PACKAGE}>{NAMES_IN_FILES.get(name, name)}", Later(module, name))
