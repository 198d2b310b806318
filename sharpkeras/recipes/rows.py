"""Recipes: everything that decides a result, and a row for each result that the paper has (tables 2, 3 and 4).

`sharpkeras search NAME` and `sharpkeras train NAME` run a row; its printed figures stand in `paper/tables.json`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

from sharpkeras import primitives, weighting
from sharpkeras.errors import ConfigError
from sharpkeras.recipes.settings import Settings, setting
from sharpkeras.spaces import ARCHITECTURES, find_space
from sharpkeras.spaces.network_spec import NetworkSpec

DIGITS = "digits"  # the training of a search whose own name none has
IMAGENET = "imagenet"  # a stem, and the dataset that it is made for

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
SELECTIONS = ("held_out", "last", "test")
COST_LIMITS = {"addmults": "addmults", "parameters": "parameters", "latency": "latency_ms"}  # cost → its setting
COSTS = tuple(COST_LIMITS)
SPECS = "digits, cifar10, imagenet or folder:PATH; `sharpkeras list datasets` has all"


class Recipe(Settings):
    """What SearchRecipe and TrainRecipe share: the rules between settings, and the size of a trial."""

    # Each of the two defines these as settings, with help, range and default of its own.
    dataset: str
    limit: int | None
    image_size: int | None
    ops: str
    init_channels: int
    num_cells: int
    final_filters: int
    epochs: int
    batch_size: int
    learning_rate: float
    min_learning_rate: float
    power: float
    warmup_epochs: int
    momentum: float
    l2: float
    clip_norm: float
    crop_padding_px: int
    cutout_px: int
    precision: str
    seed: int

    # What only a training can set.
    resize_size: int | None = None
    random_resized_crop: bool = False
    autoaugment: str = "none"

    smoke_sizes: ClassVar[dict[str, int]]  # further sizes of a trial

    def __post_init__(self) -> None:
        super().__post_init__()
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
                next_step=f"more `epochs`, or `warmup_epochs={self.epochs - 1}`",
            )
        if self.power <= 0:
            raise ConfigError("expected a positive power (p in Eq. 2)", where="power", seen=self.power, allowed="x > 0")

    def smoke(self) -> Self:
        """The same at the smallest size: two steps on generated images of the right size, in a narrow network."""
        family = self.dataset.removeprefix("generated:").partition(":")[0]
        dataset = f"generated:{family if family in ('digits', 'imagenet') else 'cifar10'}"
        changes: dict[str, Any] = {"dataset": dataset, **self.smoke_sizes}
        changes |= dict(init_channels=4, num_cells=3, batch_size=4, epochs=1, warmup_epochs=0)
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class SearchRecipe(Recipe):
    """A bilevel search (§3, §4.2, §4.3); what sizes mean for a space, its `from_recipe` says."""

    dataset: str = setting("digits", f"images: {SPECS}")
    limit: int | None = setting(None, "use that many training images, balanced over the classes", low=2)
    image_size: int | None = setting(None, "resize images to this many pixels", low=4, high=1024)
    space: str = setting(
        "sharp", "primitives: darts, sharp, sharper, table1 (Table 1 as printed), multichannel, or some with commas"
    )
    ops: str = setting("sharp", "layers that the names of primitives stand for", choices=primitives.OPS)
    weighting: str = setting("max_w", "how primitives are weighted in the sum (Eq. 3)", choices=weighting.WEIGHTINGS)
    order: int = setting(1, "order of the gradient of the alphas", low=1, high=2)
    num_nodes: int = setting(4, "intermediate nodes of a cell", low=1, high=16)
    init_channels: int = setting(8, "channels of the first cell; fewest filters of multichannel", low=2, high=1024)
    num_cells: int = setting(3, "cells of the supernet; stages of multichannel", low=1, high=64)
    num_scales: int = setting(4, "filter counts of multichannel, each twice the one before", low=1, high=8)
    final_filters: int = setting(768, "filters before the classifier of multichannel", low=1, high=65536)
    epochs: int = setting(12, "passes over the training half", low=1, high=10**6)
    batch_size: int = setting(64, "images per step, from each half", low=1, high=65536)
    train_portion: float = setting(0.5, "share of the training images that trains the weights", low=0.01, high=0.99)
    learning_rate: float = setting(0.025, "highest learning rate of the weights", low=0.0)
    min_learning_rate: float = setting(1e-4, "lowest learning rate of the weights", low=0.0)
    power: float = setting(1.0, "exponent p of cosine power annealing (Eq. 2); 1 is cosine annealing", high=100.0)
    warmup_epochs: int = setting(0, "epochs in which the learning rate rises", low=0)
    momentum: float = setting(0.9, "momentum of the weights' SGD", low=0.0, high=1.0)
    l2: float = setting(3e-4, "weight decay of the weights, in the gradient", low=0.0)
    clip_norm: float = setting(5.0, "largest global norm of the weights' gradient", low=1e-6)
    arch_learning_rate: float = setting(3e-3, "learning rate of the alphas' Adam", low=0.0)
    arch_l2: float = setting(1e-3, "weight decay of the alphas, in the gradient", low=0.0)
    crop_padding_px: int = setting(1, "random crops from images padded by this much", low=0, high=64)
    cutout_px: int = setting(0, "side of the square that Cutout sets to zero", low=0)
    skip_none: bool = setting(True, "leave `none` out when the genotype is read off the alphas")
    max_addmults: int | None = setting(
        None, "budget: AddMults that the found network may have, such as 600M", low=1, high=10**18
    )
    max_parameters: int | None = setting(None, "budget: parameters that it may have, such as 3M", low=1, high=10**15)
    max_latency_ms: float | None = setting(None, "budget: milliseconds that it may take, by `latency_table`", low=0.0)
    penalty: str = setting("none", "cost that the alphas' loss counts without a budget", choices=("none", *COSTS))
    cost_weight: float = setting(
        0.1,
        "weight of the expected cost in the alphas' loss, or of its excess over a budget",
        low=0.0,
    )
    cost_of: str | None = setting(
        None, "training recipe whose network costs and budgets mean; by default that of the search's name, else digits"
    )
    latency_table: str | None = setting(None, "file of `sharpkeras benchmark --primitives`")
    precision: str = setting("float32", "precision of convolutions; all else stays float32", choices=PRECISIONS)
    seed: int = setting(0, "seed of weights, alphas, order and augmentation", low=0, high=2**32 - 1)

    # No setting: the training recipe that goes with the row that these settings come from.
    training: str = dataclasses.field(default=DIGITS, compare=False, repr=False)

    # Two batches of four in either half.
    smoke_sizes = {"limit": 16, "num_nodes": 2, "num_scales": 2, "final_filters": 32}

    def __post_init__(self) -> None:
        super().__post_init__()
        budgets = [f"max_{name}" for name in COST_LIMITS.values() if getattr(self, f"max_{name}") is not None]
        if len(budgets) > 1:
            raise ConfigError("more than one budget", where=", ".join(budgets), allowed="one of them")
        if self.cost == "latency" and not self.latency_table:
            step = "sharpkeras benchmark --primitives --out latencies.json, then `latency_table=latencies.json`"
            raise ConfigError("a latency needs a table of this machine", where="latency_table", next_step=step)
        if self.cost_of is not None and self.cost_of not in TRAININGS:
            allowed = ", ".join(TRAININGS)
            raise ConfigError("unknown training recipe", where="cost_of", seen=self.cost_of, allowed=allowed)

    @property
    def cost(self) -> str:
        """What is in the loss or has a limit: a name in COSTS, or "none"."""
        limited = [name for name, of in COST_LIMITS.items() if getattr(self, f"max_{of}") is not None]
        return limited[0] if limited else self.penalty

    @property
    def limit_of_cost(self) -> float | None:
        """The budget, None where there is none."""
        return None if self.cost == "none" else getattr(self, f"max_{COST_LIMITS[self.cost]}")

    def priced(self) -> Self:
        """The same, its costs and budgets those of the network that is trained next.

        That is the network of `cost_of`, by default the training recipe of the row's name; where the search decides
        sizes of the network itself, one of these sizes.
        """
        if self.cost_of is not None or find_space(self.space).searched_sizes:
            return self
        return dataclasses.replace(self, cost_of=self.training)


@dataclass(frozen=True)
class TrainRecipe(Recipe):
    """The training of a final network (§3.3, caption of Table 2)."""

    dataset: str = setting("digits", f"images: {SPECS}")
    limit: int | None = setting(None, "use that many training images, balanced over the classes", low=2)
    image_size: int | None = setting(None, "resize images to this many pixels", low=4, high=1024)
    resize_size: int | None = setting(
        None, "of the short side, before the centre of image_size is cut out for evaluation", low=4, high=2048
    )
    ops: str = setting("sharp", "layers that the names of primitives stand for", choices=primitives.OPS)
    stem: str = setting("cifar", "stem of the network, by image size", choices=("cifar", "imagenet"))
    init_channels: int = setting(16, "channels of the first cell", low=2, high=1024)
    num_cells: int = setting(5, "cells of the network", low=1, high=64)
    final_filters: int = setting(768, "filters before the classifier of a path of multichannel", low=1, high=65536)
    mid_channels: int | None = setting(None, "middle channels of the choke primitives; None is 32", low=1, high=4096)
    epochs: int = setting(30, "passes over the training images", low=1, high=10**6)
    batch_size: int = setting(64, "images per step", low=1, high=65536)
    accumulate: int = setting(1, "steps whose mean gradient makes one update", low=1, high=1024)
    learning_rate: float = setting(0.1, "highest learning rate", low=0.0)
    min_learning_rate: float = setting(1e-8, "lowest learning rate", low=0.0)
    power: float = setting(2.0, "exponent p of cosine power annealing (Eq. 2); 1 is cosine annealing", high=100.0)
    warmup_epochs: int = setting(2, "epochs in which the learning rate rises", low=0)
    momentum: float = setting(0.9, "momentum of SGD", low=0.0, high=1.0)
    l2: float = setting(1e-3, "weight decay, in the gradient", low=0.0)
    clip_norm: float = setting(5.0, "largest global norm of the gradient", low=1e-6)
    ema: float = setting(
        0.0, "momentum of the weights' moving average, which is then the result", low=0.0, high=0.99999
    )
    drop_path: float = setting(
        0.0, "drop path at the last epoch: a probability, rising linearly from 0", low=0.0, high=0.99
    )
    auxiliary_weight: float = setting(0.0, "weight of the auxiliary head's loss; 0 builds none", low=0.0, high=10.0)
    label_smoothing: float = setting(0.1, "share of the label spread over all classes", low=0.0, high=0.99)
    random_resized_crop: bool = setting(False, "crop a part of random area and ratio, from images on disk")
    crop_padding_px: int = setting(1, "random crops from images padded by this much", low=0, high=64)
    autoaugment: str = setting("none", "policy of AutoAugment", choices=("none", "cifar10", "imagenet"))
    cutout_px: int = setting(0, "side of the square that Cutout sets to zero", low=0)
    selection: str = setting(
        "held_out",
        "which epoch's weights are kept: the best on training images held out for it, the last, or the best on the "
        "test images, as the paper did, with a label on each number",
        choices=SELECTIONS,
    )
    held_out: float = setting(0.1, "share of the training images that the selection holds out", low=0.001, high=0.9)
    precision: str = setting("float32", "precision of convolutions; all else stays float32", choices=PRECISIONS)
    seed: int = setting(0, "seed of weights, order, augmentation and drop path", low=0, high=2**32 - 1)

    smoke_sizes = {"limit": 10}  # two batches of four, and what is held out


R = TypeVar("R", bound=Recipe)


@dataclass(frozen=True)
class RecipeEntry(Generic[R]):
    """A recipe by name.

    Args:
        settings: SearchRecipe or TrainRecipe.
        summary: what it is, one line.
        architecture: published genotype that it trains, or that came out of it.
        printed: (table, name of the row) where the paper prints its result.
        note: where paper, official code and published command differ, and what was taken.
    """

    settings: R
    summary: str
    architecture: str | None = None
    printed: tuple | None = None
    note: str = ""


# --- searches: 60 epochs (§3.3); the published commands have 120, and batches of 48 and 24 on the memory of 2019 ---

_SEARCH = SearchRecipe(
    dataset="cifar10",
    space="darts",
    weighting="scalar",
    init_channels=16,
    num_cells=8,
    epochs=60,
    arch_learning_rate=3e-4,
    crop_padding_px=4,
)
_SEARCH_NOTE = "60 epochs as the paper says; the published commands have 120, and batch 48 (darts) or 24 (sharp)"


def _search(**settings: Any) -> SearchRecipe:
    return dataclasses.replace(_SEARCH, **settings)


# --- the search of MultiChannelNet: §4.1, and the published command ---

_MULTICHANNEL_NOTE = (
    "60 epochs as the paper says; the published command has 120, and AutoAugment. Four filter counts and four stages, "
    "as in the published paths; the paper's text says ((4x4)x3x3x2)"
)


def _multichannel(**settings: Any) -> SearchRecipe:
    sizes = {"space": "multichannel", "init_channels": 32, "num_scales": 4, "num_cells": 4}
    return _search(**sizes, cutout_px=16, **settings)


# The first row of each is the default: minutes on two cores.
SEARCHES = {
    "digits": RecipeEntry(SearchRecipe(), "the demo: real 8×8 digits, minutes on two cores"),
    "darts": RecipeEntry(
        _search(ops="darts"), "DARTS itself, first order", "DARTS_V1", (2, "DARTS first order (published genotype)")
    ),
    "darts-second-order": RecipeEntry(
        _search(ops="darts", order=2),
        "DARTS itself, second order",
        "DARTS_V2",
        (2, "DARTS second order (published genotype)"),
    ),
    "sharpsepconv-darts": RecipeEntry(
        _search(),
        "DARTS' primitives made of SharpSepConv, first order",
        "SHARPSEPCONV_DARTS",
        (2, "SharpSepConvDARTS"),
        _SEARCH_NOTE,
    ),
    "sharpdarts": RecipeEntry(
        _search(space="sharp"),
        "the primitives of Table 1, first order",
        "SHARP_DARTS",
        (2, "sharpDARTS"),
        _SEARCH_NOTE + "; `space=table1` adds avg_pool_3x3, which Table 1 prints and the code leaves out",
    ),
    "sharpsepconv-darts-max-w": RecipeEntry(
        _search(weighting="max_w"),
        "the same as sharpsepconv-darts under Max-W weighting (Eq. 3): future work of §5",
        "SHARPSEPCONV_DARTS_MAX_W",
    ),
    "sharpdarts-max-w": RecipeEntry(
        _search(space="sharp", weighting="max_w"),
        "the same as sharpdarts under Max-W weighting (Eq. 3): future work of §5",
        "SHARP_DARTS_MAX_W",
    ),
    "multichannel-scalar": RecipeEntry(
        _multichannel(weighting="scalar"),
        "MultiChannelNet, the paper's HyperCuboid (§4.1)",
        "MULTI_CHANNEL_SCALAR_PATH",
        (4, "Scalar"),
        _MULTICHANNEL_NOTE,
    ),
    "multichannel-max-w": RecipeEntry(
        _multichannel(weighting="max_w"),
        "MultiChannelNet under Max-W weighting (Eq. 3)",
        "MULTI_CHANNEL_MAX_W_PATH",
        (4, "Max-W"),
        _MULTICHANNEL_NOTE,
    ),
}

# --- final trainings: caption of Table 2 ---

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
    autoaugment="cifar10",
    cutout_px=16,
    precision="mixed_float16",
)
_CIFAR10_NOTE = (
    "the epoch is selected on 10 % of the training images; `selection=test` is the paper's protocol, which trains on "
    "all and selects on the test images"
)
_PLAIN = dataclasses.replace(_CIFAR10, autoaugment="none", epochs=1000)

# --- ImageNet: §3.3, Fig. 5, and the published command ---

_IMAGENET = TrainRecipe(
    dataset="imagenet",
    image_size=224,
    resize_size=256,
    stem="imagenet",
    init_channels=48,
    num_cells=14,
    epochs=300,
    batch_size=224,
    learning_rate=0.05,
    min_learning_rate=0.00075,
    power=10.0,
    warmup_epochs=10,
    l2=1e-4,
    auxiliary_weight=0.4,
    label_smoothing=0.1,
    random_resized_crop=True,
    crop_padding_px=0,
    autoaugment="imagenet",
    cutout_px=112,
    held_out=0.02,
    precision="mixed_float16",
)
_IMAGENET_NOTE = (
    "learning rate 0.05 to 0.00075 at batch 224, from the published command; the official script's defaults are 0.1 "
    "per 256 images. p = 10 from Fig. 5. The epoch is selected on 2 % of the training images"
)


def _imagenet(mid_channels: int | None = None) -> TrainRecipe:
    return dataclasses.replace(_IMAGENET, mid_channels=mid_channels)


# --- Table 4: the published command ---

_PATH = dataclasses.replace(
    _CIFAR10, batch_size=512, learning_rate=0.1, auxiliary_weight=0.0, drop_path=0.0, precision="float32"
)
_PATH_NOTE = "2000 epochs at learning rate 0.1 and batch 512, from the published command. " + _CIFAR10_NOTE

TRAININGS = {
    "digits": RecipeEntry(TrainRecipe(), "the demo: real 8×8 digits, minutes on two cores"),
    "sharpsepconv-darts": RecipeEntry(
        _CIFAR10,
        "CIFAR-10, AutoAugment, 2000 epochs",
        "SHARPSEPCONV_DARTS",
        (2, "SharpSepConvDARTS"),
        _CIFAR10_NOTE,
    ),
    "darts-ssc": RecipeEntry(
        _CIFAR10,
        "CIFAR-10, AutoAugment, 2000 epochs: DARTS' genotype with SharpSepConv, no search",
        "DARTS_V2",
        (2, "DARTS+SSC, no search"),
        _CIFAR10_NOTE,
    ),
    "sharpdarts": RecipeEntry(
        _CIFAR10, "CIFAR-10, AutoAugment, 2000 epochs", "SHARP_DARTS", (2, "sharpDARTS"), _CIFAR10_NOTE
    ),
    "sharpsepconv-darts-plain": RecipeEntry(
        _PLAIN,
        "CIFAR-10, no AutoAugment, 1000 epochs",
        "SHARPSEPCONV_DARTS",
        (2, "SharpSepConvDARTS, no AutoAugment"),
        _CIFAR10_NOTE,
    ),
    "darts-ssc-plain": RecipeEntry(
        _PLAIN,
        "CIFAR-10, no AutoAugment, 1000 epochs: DARTS' genotype with SharpSepConv, no search",
        "DARTS_V2",
        (2, "DARTS+SSC, no search, no AutoAugment"),
        _CIFAR10_NOTE,
    ),
    "sharpdarts-plain": RecipeEntry(
        _PLAIN,
        "CIFAR-10, no AutoAugment, 1000 epochs",
        "SHARP_DARTS",
        (2, "sharpDARTS, no AutoAugment"),
        _CIFAR10_NOTE,
    ),
    "sharpsepconv-darts-imagenet": RecipeEntry(
        _imagenet(),
        "ImageNet, AutoAugment, 300 epochs",
        "SHARPSEPCONV_DARTS",
        (3, "SharpSepConvDARTS"),
        _IMAGENET_NOTE,
    ),
    "sharpdarts-imagenet-96": RecipeEntry(
        _imagenet(96),
        "ImageNet, AutoAugment, 300 epochs, 96 middle channels",
        "SHARP_DARTS",
        (3, "sharpDARTS cmid 96"),
        _IMAGENET_NOTE,
    ),
    "sharpdarts-imagenet-32": RecipeEntry(
        _imagenet(32),
        "ImageNet, AutoAugment, 300 epochs, 32 middle channels",
        "SHARP_DARTS",
        (3, "sharpDARTS cmid 32"),
        _IMAGENET_NOTE,
    ),
    **{
        f"multichannel-{name.lower()}": RecipeEntry(
            _PATH,
            f"CIFAR-10, AutoAugment, 2000 epochs: the {origin} path of MultiChannelNet",
            f"MULTI_CHANNEL_{name.upper().replace('-', '_')}_PATH",
            (4, name),
            _PATH_NOTE,
        )
        for name, origin in (("Scalar", "searched"), ("Handmade", "handmade"), ("Max-W", "searched"))
    },
}


# A search goes with the training of its name.
SEARCHES = {
    name: dataclasses.replace(row, settings=dataclasses.replace(row.settings, training=name))
    if name in TRAININGS
    else row
    for name, row in SEARCHES.items()
}


# ---- the training of what a search found ----

DATA = ("dataset", "limit", "image_size")  # settings that say which images are read
AUXILIARY_SIDES = range(29, 41)  # pixels that the auxiliary head of the cifar stem is made for


def training_of(
    search: SearchRecipe, name: str | None = None, shape: Sequence[int] | None = None, images: int | None = None
) -> TrainRecipe:
    """The TrainRecipe by which the find of a SearchRecipe is trained: it reads the images of the search.

    A recipe of ImageNet keeps its own images, as costs and budgets that name it mean ImageNet, unless the search read
    ImageNet's too. Sizes of the network that the search has decided are its own, unless the search's costs are those of
    a recipe; what such a network has no layers for is 0.

    Args:
        search: SearchRecipe.
        name: of a row of TRAININGS; None is that of `cost_of`, else that which goes with the search.
        shape: (H, W, C) of the search's images, where they are known: the recipe then fits them.
        images: how many these are.
    """
    row = TRAININGS[name or search.cost_of or search.training].settings
    space = find_space(search.space)
    changes: dict[str, Any] = {"ops": search.ops}
    changes |= dict.fromkeys(ARCHITECTURES[space.architecture].without, 0.0)
    changes |= {} if search.cost_of else {name: getattr(search, name) for name in space.searched_sizes}
    if row.stem == IMAGENET and search.dataset.partition(":")[0] != IMAGENET:
        return dataclasses.replace(row, **changes)
    kept = [field for field in DATA if field != "image_size" or row.stem != IMAGENET]
    changes |= {field: getattr(search, field) for field in kept}
    return _fitting(dataclasses.replace(row, **changes), search, shape, images)


def _fitting(recipe: TrainRecipe, search: SearchRecipe, shape: Sequence[int] | None, images: int | None) -> TrainRecipe:
    """The TrainRecipe with what images of that shape and number leave no room for made smaller."""
    changes: dict[str, Any] = {}
    if shape and recipe.stem != IMAGENET:
        side = min(shape[:2])
        changes |= {"cutout_px": side // 2} if recipe.cutout_px > side else {}
        changes |= {} if set(shape[:2]) <= set(AUXILIARY_SIDES) else {"auxiliary_weight": 0.0}
    if images:
        trained_on = int(images * (1 - recipe.held_out)) if recipe.selection == "held_out" else images
        changes |= {"batch_size": max(1, min(search.batch_size, trained_on))} if recipe.batch_size > trained_on else {}
    return dataclasses.replace(recipe, **changes)


# ---- networks of architectures that no run has the sizes of ----

NETWORKS = {  # stem, pixels, classes, init_channels, num_cells (Table 2 and 3)
    "cifar10": ("cifar", 32, 10, 36, 20),
    "imagenet": ("imagenet", 224, 1000, 48, 14),
}


def network_sizes(
    name: str | None = None, num_classes: int | None = None, input_size: int | None = None, **settings: Any
) -> NetworkSpec:
    """The NetworkSpec of a row of NETWORKS, by default the first, with what is given instead."""
    stem, pixels, classes, channels, cells = NETWORKS[name or next(iter(NETWORKS))]
    sizes: dict[str, Any] = {"stem": stem, "init_channels": channels, "num_cells": cells}
    recipe = TrainRecipe(auxiliary_weight=0.0, **(sizes | settings))
    side = input_size or pixels
    return NetworkSpec(recipe, (side, side, 3), num_classes or classes)
