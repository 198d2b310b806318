"""Recipes: the settings that decide a result, and an entry for each result that the paper has (tables 2, 3 and 4)."""

from sharpkeras.recipes.rows import (
    COST_LIMITS,
    COSTS,
    DATA,
    DIGITS,
    IMAGENET,
    NETWORKS,
    PRECISIONS,
    SEARCHES,
    SELECTIONS,
    TRAININGS,
    SearchRecipe,
    TrainRecipe,
    network_sizes,
    training_of,
)

__all__ = [
    "COSTS",
    "COST_LIMITS",
    "DATA",
    "DIGITS",
    "IMAGENET",
    "NETWORKS",
    "PRECISIONS",
    "SEARCHES",
    "SELECTIONS",
    "TRAININGS",
    "SearchRecipe",
    "TrainRecipe",
    "network_sizes",
    "training_of",
]
