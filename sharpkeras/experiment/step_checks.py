"""Whether a run has steps enough for its settings: what leaves the weights where they were is told before it begins."""

from sharpkeras.errors import ConfigError, DataError
from sharpkeras.recipes import TrainRecipe
from sharpkeras.recipes.rows import Recipe

STALE_SHARE = 0.5  # of a moving average that is still the weights of the first update


def check(recipe: TrainRecipe, steps: int) -> list[str]:
    """What a training's settings come to with epochs of that many steps, as notes.

    Gradients that an epoch leaves over go into the first update of the next one; those that are left over at the end
    of the run make no update.

    Raises:
        DataError: not even one full batch is left to train on.
        ConfigError: the run ends before its first update.
    """
    if steps < 1:
        raise DataError(
            f"fewer images than one batch of {recipe.batch_size} are left to train on",
            seen=f"held_out {recipe.held_out}" if recipe.selection == "held_out" else "0 steps in an epoch",
            next_step="lower `batch_size` or `held_out`, use more images, or `selection=last`",
        )
    total = recipe.epochs * steps
    if recipe.accumulate > total:
        raise ConfigError(
            f"the run ends before its first update: it has fewer steps than the {recipe.accumulate} that make one",
            where="accumulate",
            seen=f"{recipe.accumulate}, and {total} steps in all: {recipe.epochs} epochs of {steps}",
            allowed=f"1 to {total}",
            next_step=f"`accumulate={min(steps, recipe.accumulate)}` or less, a smaller `batch_size` or more `epochs`",
        )
    return [note for note in (_left_over(recipe, total), *rates(recipe), _stale(recipe, total)) if note]


def rates(recipe: Recipe) -> list[str]:
    """Notes of learning rates that are 0 from beginning to end; a schedule whose highest is above 0 begins above 0."""
    names = {"learning_rate": "weights", "arch_learning_rate": "alphas"}
    return [
        f"{name} is 0: no step changes the {what}" for name, what in names.items() if getattr(recipe, name, None) == 0
    ]


def _left_over(recipe: TrainRecipe, total: int) -> str | None:
    left = total % recipe.accumulate
    if not left:
        return None
    steps = "last step makes" if left == 1 else f"last {left} of all {total} steps make"
    return f"the {steps} no update: each takes {recipe.accumulate} (`accumulate`)"


def _stale(recipe: TrainRecipe, total: int) -> str | None:
    """Says that a moving average has had too few updates to forget where it began."""
    share = recipe.ema ** (total // recipe.accumulate - 1) if recipe.ema else 0.0
    if share <= STALE_SHARE:
        return None
    return (
        f"{share:.0%} of the moving average, which is the result, will be the weights after the first of "
        f"{total // recipe.accumulate} updates: a lower `ema`, 0 for none, or more `epochs`"
    )
