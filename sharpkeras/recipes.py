"""Recipes: everything that decides a result, as frozen values that are checked when they are made.

A field carries its help and its range; the command line makes its options from them, so that each fact stands once.
"""

import dataclasses
import difflib
import math
from dataclasses import dataclass

from sharpkeras.errors import ConfigError, printable


def setting(default, help, low=None, high=None, choices=None):
    """A field of a recipe: its default, its help, and the values it may have (`low` and `high` included)."""
    return dataclasses.field(default=default, metadata=dict(help=help, low=low, high=high, choices=choices))


class Recipe:
    """What SearchRecipe and TrainRecipe share: range checks, and the way from and to JSON."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        if self.min_learning_rate > self.learning_rate:
            raise ConfigError(
                "the lowest learning rate lies above the highest",
                where="min_learning_rate",
                seen=self.min_learning_rate,
                allowed=f"at most learning_rate, {self.learning_rate}",
            )
        if self.warmup_epochs >= self.epochs:
            raise ConfigError(
                "the warm-up takes all epochs",
                where="warmup_epochs",
                seen=self.warmup_epochs,
                allowed=f"fewer than epochs, {self.epochs}",
                next_step=f"more --epochs, or --warmup-epochs {self.epochs - 1}",
            )
        if self.power <= 0:
            raise ConfigError("expected a positive power (p in Eq. 2)", where="power", seen=self.power, allowed="x > 0")

    def as_dict(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, settings, where="recipe", base=None):
        """A recipe from JSON values; what is missing comes from `base` (default: the defaults).

        Raises:
            ConfigError: for an unknown key, with the nearest valid one, or a value of the wrong type or range.
        """
        if not isinstance(settings, dict):
            raise ConfigError("expected an object of settings", where=where, seen=type(settings).__name__)
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key, value in settings.items():
            if key not in fields:
                near = difflib.get_close_matches(key, fields, n=1)
                hint = f"did you mean {near[0]}?" if near else f"valid keys: {', '.join(fields)}"
                raise ConfigError(f"unknown key {printable(repr(key), 80)}", where=where, next_step=hint)
            _check(fields[key], value, where)
        return dataclasses.replace(base or cls(), **settings)


@dataclass(frozen=True)
class SearchRecipe(Recipe):
    """A bilevel search in the cell space (§3, §4.2, §4.3)."""

    dataset: str = setting("digits", "digits, cifar10 or folder:PATH")
    limit: int | None = setting(None, "use that many training images, balanced over the classes", low=2)
    image_size: int | None = setting(None, "resize images to this many pixels", low=4, high=1024)
    space: str = setting("sharp", "darts, sharp, sharper, table1 (Table 1 as printed), or primitives with commas")
    ops: str = setting("sharp", "what a primitive's name stands for", choices=("sharp", "darts"))
    weighting: str = setting("max_w", "how primitives are weighted in the sum (Eq. 3)", choices=("scalar", "max_w"))
    order: int = setting(1, "of the gradient of the alphas", low=1, high=2)
    num_nodes: int = setting(4, "intermediate nodes of a cell", low=1, high=16)
    init_channels: int = setting(8, "channels of the first cell", low=2, high=1024)
    num_cells: int = setting(3, "cells of the supernet", low=1, high=64)
    epochs: int = setting(12, "passes over the training half", low=1, high=10**6)
    batch_size: int = setting(64, "images per step and half", low=1, high=65536)
    train_portion: float = setting(0.5, "share of the training images that trains the weights", low=0.01, high=0.99)
    learning_rate: float = setting(0.025, "highest, of the weights", low=0.0)
    min_learning_rate: float = setting(1e-4, "lowest, of the weights", low=0.0)
    power: float = setting(1.0, "p of cosine power annealing (Eq. 2); 1 is cosine annealing", high=100.0)
    warmup_epochs: int = setting(0, "epochs in which the learning rate rises", low=0)
    momentum: float = setting(0.9, "of the weights' SGD", low=0.0, high=1.0)
    l2: float = setting(3e-4, "weight decay of the weights, in the gradient", low=0.0)
    clip_norm: float = setting(5.0, "largest global norm of the weights' gradient", low=1e-6)
    arch_learning_rate: float = setting(3e-3, "of the alphas' Adam", low=0.0)
    arch_l2: float = setting(1e-3, "weight decay of the alphas, in the gradient", low=0.0)
    crop_padding_px: int = setting(1, "random crops from images padded by this much", low=0, high=64)
    cutout_px: int = setting(0, "side of the square that Cutout sets to zero", low=0)
    skip_none: bool = setting(True, "leave `none` out when the genotype is read off")
    seed: int = setting(0, "of weights, alphas, order and augmentation", low=0, high=2**32 - 1)


@dataclass(frozen=True)
class TrainRecipe(Recipe):
    """The training of a final network (§3.3, caption of Table 2)."""

    dataset: str = setting("digits", "digits, cifar10 or folder:PATH")
    limit: int | None = setting(None, "use that many training images, balanced over the classes", low=2)
    image_size: int | None = setting(None, "resize images to this many pixels", low=4, high=1024)
    ops: str = setting("sharp", "what a primitive's name stands for", choices=("sharp", "darts"))
    stem: str = setting("cifar", "stem of the network, by image size", choices=("cifar", "imagenet"))
    init_channels: int = setting(16, "channels of the first cell", low=2, high=1024)
    num_cells: int = setting(5, "cells of the network", low=1, high=64)
    mid_channels: int | None = setting(None, "middle channels of the choke primitives; None is 32", low=1, high=4096)
    epochs: int = setting(30, "passes over the training images", low=1, high=10**6)
    batch_size: int = setting(64, "images per step", low=1, high=65536)
    learning_rate: float = setting(0.1, "highest", low=0.0)
    min_learning_rate: float = setting(1e-8, "lowest", low=0.0)
    power: float = setting(2.0, "p of cosine power annealing (Eq. 2); 1 is cosine annealing", high=100.0)
    warmup_epochs: int = setting(2, "epochs in which the learning rate rises", low=0)
    momentum: float = setting(0.9, "of SGD", low=0.0, high=1.0)
    l2: float = setting(1e-3, "weight decay, in the gradient", low=0.0)
    clip_norm: float = setting(5.0, "largest global norm of the gradient", low=1e-6)
    drop_path: float = setting(0.0, "probability at the last epoch, rising linearly from 0", low=0.0, high=0.99)
    auxiliary_weight: float = setting(0.0, "of the auxiliary head's loss; 0 builds none", low=0.0, high=10.0)
    label_smoothing: float = setting(0.1, "share of the label spread over all classes", low=0.0, high=0.99)
    crop_padding_px: int = setting(1, "random crops from images padded by this much", low=0, high=64)
    cutout_px: int = setting(0, "side of the square that Cutout sets to zero", low=0)
    seed: int = setting(0, "of weights, order, augmentation and drop path", low=0, high=2**32 - 1)


def _check(field, value, where=None):
    """Raises ConfigError unless `value` has the field's type and lies in its range."""
    rule, optional = field.metadata, "None" in str(field.type)
    kind = next(kind for kind in (bool, int, float, str) if kind.__name__ in str(field.type))
    path = f"{where}: {field.name}" if where else field.name
    if value is None and optional:
        return
    number = kind in (int, float) and isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = number and (kind is float or isinstance(value, int)) or kind in (bool, str) and isinstance(value, kind)
    if not fits or number and not math.isfinite(value):
        raise ConfigError("wrong type", where=path, seen=value, allowed=f"a finite {kind.__name__}")
    low, high, choices = rule["low"], rule["high"], rule["choices"]
    if low is not None and value < low or high is not None and value > high:
        limits = [f"{word} {limit}" for word, limit in (("at least", low), ("at most", high)) if limit is not None]
        raise ConfigError("out of range", where=path, seen=value, allowed=", ".join(limits))
    if choices and value not in choices:
        raise ConfigError("unknown value", where=path, seen=value, allowed=", ".join(choices))


# The first row of each is the default: minutes on two cores. The others are the paper's settings (§3.3, §4.2).
SEARCHES = {
    "digits": SearchRecipe(),
    "cifar10": SearchRecipe(
        dataset="cifar10",
        space="darts",
        weighting="scalar",
        init_channels=16,
        num_cells=8,
        epochs=60,
        arch_learning_rate=3e-4,
        crop_padding_px=4,
    ),
}

_CIFAR10 = TrainRecipe(
    dataset="cifar10",
    init_channels=36,
    num_cells=20,
    epochs=2000,
    learning_rate=0.025,
    l2=3e-4,
    warmup_epochs=5,
    drop_path=0.2,
    auxiliary_weight=0.4,
    label_smoothing=0.0,
    crop_padding_px=4,
    cutout_px=16,
)
TRAININGS = {"digits": TrainRecipe(), "cifar10": _CIFAR10}
