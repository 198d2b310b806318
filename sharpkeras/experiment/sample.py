"""Random architectures of a space: the baseline without which no search result means anything."""

from pathlib import Path

from sharpkeras.errors import RunError, SharpKerasError, UsageError
from sharpkeras.experiment.builders import search_space
from sharpkeras.io import atomic_writes, json_files
from sharpkeras.runs import architectures


def sample(recipe, out, count=1, overwrite=False):
    """Draws random genotypes from the space of a SearchRecipe and writes each as a JSON file; see `CellSpace.sample`.

    Args:
        recipe: SearchRecipe; the first genotype has its seed, each further one the next.
        out: a file that ends in .json, for a single genotype, or a folder.
        count: how many.
        overwrite: whether genotype files that are there are replaced; other files never are.

    Returns:
        A list of (path, Genotype).

    Raises:
        UsageError: several genotypes for one file, or an unknown space.
        RunError: a file is there already, or can not be written.
    """
    out, space = Path(out), search_space(recipe)
    if out.suffix == ".json" and count > 1:
        raise UsageError("several genotypes do not fit into one file", where="`out`", seen=str(out), allowed="a folder")
    prefix = "random" if "," in recipe.space else f"random-{recipe.space}"
    drawn = []
    for seed in range(recipe.seed, recipe.seed + count):
        genotype = space.sample(seed, f"{prefix}-{seed}")
        drawn.append((out if out.suffix == ".json" else out / f"{genotype.name}.json", genotype))
    for path, _ in drawn:  # all of them before the first is written
        refuse_to_lose(path, overwrite)
    for path, genotype in drawn:
        atomic_writes.write(path, genotype.as_json().encode())
    return drawn


def refuse_to_lose(path, overwrite):
    """Raises RunError where an architecture is to be written over another one, or over what is none."""
    if not path.exists():
        return
    if not overwrite:
        steps = ("another `out`", "another `seed`", "`overwrite`")
        raise RunError("exists already", where=str(path), next_step=steps)
    try:
        architectures.from_dict(json_files.load(path), str(path))
    except SharpKerasError as error:
        step = "choose another place with `out`"
        raise RunError("is no architecture", where=str(path), seen=error.problem, next_step=step) from None
