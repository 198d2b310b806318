"""What the paper and its code publish: genotypes and paths by name, and the rows of its tables."""

import difflib
import functools
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

from sharpkeras.errors import ConfigError

if TYPE_CHECKING:
    from sharpkeras.spaces import Architecture
    from sharpkeras.spaces.cell.genotype import Genotype
    from sharpkeras.spaces.hypercuboid.path import Path


@functools.cache
def _paper(name: str) -> Any:
    return json.loads(resources.files("sharpkeras").joinpath("paper", name).read_text("utf-8"))


TABLES = {2: "table2_cifar10", 3: "table3_imagenet", 4: "table4_multichannelnet"}


def names() -> tuple[str, ...]:
    """The names of all published genotypes."""
    return tuple(_paper("genotypes.json")["cell_genotypes"])


def path_names() -> tuple[str, ...]:
    """The names of all published paths of MultiChannelNet."""
    return tuple(_paper("genotypes.json")["path_genotypes"])


def architecture(name: str) -> "Architecture":
    """The published Genotype or Path of that name; raises ConfigError with the nearest name."""
    return path(name) if name in path_names() else genotype(name)


def genotype(name: str) -> "Genotype":
    """The published Genotype of that name; raises ConfigError with the nearest name."""
    from sharpkeras.spaces.cell import genotype as genotypes  # heavy: the tables are read without it

    return genotypes.Genotype.from_dict({**_published("cell_genotypes", name), "name": name}, name)


def path(name: str) -> "Path":
    """The published Path of that name; raises ConfigError with the nearest name."""
    from sharpkeras.spaces.hypercuboid import multichannel

    return multichannel.from_node_names(_published("path_genotypes", name), name)


def _published(kind: str, name: str) -> Any:
    entries, known = _paper("genotypes.json")[kind], (*names(), *path_names())
    if name in entries:
        return entries[name]
    near = difflib.get_close_matches(name.upper(), known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(
        "unknown architecture: neither a run directory, nor a file, nor a published name",
        seen=name,
        allowed=", ".join(known),
        next_step=f"{hint}sharpkeras list genotypes",
    )


def table(number: int) -> list[dict[str, Any]]:
    """The rows of table 2, 3 or 4 as printed, with the configuration that reproduces them where one is known."""
    return _paper("tables.json")[TABLES[number]]


def printed(row: Any) -> dict[str, Any] | None:
    """What the paper prints for a recipe's row of a table, an entry of `table`; None where it prints nothing."""
    if row.printed is None:
        return None
    number, name = row.printed
    return next(entry for entry in table(number) if entry["name"] == name)
