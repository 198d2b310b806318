"""What the paper and its code publish: genotypes by name, and the rows of its tables."""

import difflib
import functools
import json
from importlib import resources

from sharpkeras.errors import ConfigError


@functools.cache
def _paper(name):
    return json.loads(resources.files("sharpkeras").joinpath("paper", name).read_text("utf-8"))


def names():
    """The names of all published genotypes."""
    return tuple(_paper("genotypes.json")["cell_genotypes"])


def genotype(name):
    """The published Genotype of that name; raises ConfigError with the nearest name."""
    from sharpkeras.spaces.cell import genotype as genotypes  # heavy: the tables are read without it

    if name not in names():
        near = difflib.get_close_matches(name.upper(), names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(
            "unknown genotype: neither a run directory, nor a file, nor a published name",
            seen=name,
            allowed=", ".join(names()),
            next_step=f"{hint}sharpkeras list genotypes",
        )
    return genotypes.from_dict({**_paper("genotypes.json")["cell_genotypes"][name], "name": name}, name)


def table(number):
    """The rows of table 2 or 3 as printed, with the configuration that reproduces them where one is known."""
    return _paper("tables.json")[{2: "table2_cifar10", 3: "table3_imagenet"}[number]]


def printed(row):
    """What the paper prints for a recipe's row of a table, an entry of `table`; None where it prints nothing."""
    if row.printed is None:
        return None
    number, name = row.printed
    return next(entry for entry in table(number) if entry["name"] == name)
