"""Random architectures of a space: the baseline without which no search result means anything."""

import os
from pathlib import Path

from sharpkeras import spaces
from sharpkeras.errors import RunError, SharpKerasError, UsageError
from sharpkeras.io import atomic_writes, json_files
from sharpkeras.recipes import SearchRecipe
from sharpkeras.runs import architectures
from sharpkeras.spaces import Architecture


def sample(
    recipe: SearchRecipe, out: str | os.PathLike[str], count: int = 1, overwrite: bool = False
) -> list[tuple[Path, Architecture]]:
    """Draws random architectures from the space of a SearchRecipe and writes each as a JSON file.

    Args:
        recipe: SearchRecipe; the first architecture has its seed, each further one the next.
        out: a file that ends in .json, for a single architecture, or a folder.
        count: how many.
        overwrite: whether files of architectures that are there are replaced; other files never are.

    Returns:
        A list of (path, architecture).

    Raises:
        UsageError: several architectures for one file, or an unknown space.
        RunError: a file is there already, or cannot be written.
    """
    out, space = Path(out), spaces.of_recipe(recipe)
    if out.suffix == ".json" and count > 1:
        raise UsageError("several genotypes do not fit into one file", where="`out`", seen=str(out), allowed="a folder")
    prefix = "random" if "," in recipe.space else f"random-{recipe.space}"
    drawn = []
    for seed in range(recipe.seed, recipe.seed + count):
        architecture = space.sample(seed, f"{prefix}-{seed}")
        drawn.append((out if out.suffix == ".json" else out / f"{architecture.name}.json", architecture))
    for path, _ in drawn:  # all of them before the first is written
        refuse_to_lose(path, overwrite)
    for path, architecture in drawn:
        atomic_writes.write(path, architecture.as_json().encode())
    return drawn


def refuse_to_lose(path: Path, overwrite: bool) -> None:
    """Raises RunError where an architecture is to be written over another one, or over what is none."""
    if not path.exists():
        return
    atomic_writes.refuse_to_replace(path, overwrite, ("another `out`", "another `seed`", "`overwrite`"))
    try:
        architectures.from_dict(json_files.load(path), str(path))
    except SharpKerasError as error:
        step = "choose another place with `out`"
        raise RunError("is no architecture", where=str(path), seen=error.problem, next_step=step) from None
