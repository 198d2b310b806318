"""Search spaces. A space is a few methods; everything else of sharpkeras works on any of them.

- `init_alphas(seed)` → the architecture parameters (logits), a list of arrays
- `mixing_weights(alphas)` → softmax over the space's own groups, then the weighting (Eq. 3)
- `supernet(...)` → a keras.Model of (images, mixing weights)
- `extract(alphas, …)` → the architecture found: a Genotype, a Path
- `sample(seed)` → a random architecture, the baseline of every search
- `network(architecture, ...)` → the final keras.Model

For the collapse watch it has `decisions` and `kinds_of`: what was to be decided, and between which kinds of primitives.
For a budget it has `costs(measure, …)`, what each choice adds to the cost of the final network; `expected_cost`, the
mean of it under the alphas, with a gradient; and `extract` takes a limit.
"""

import re
from typing import NamedTuple

from sharpkeras.errors import ConfigError, printable

SCHEMA_VERSION = 1  # of the file of an architecture
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Costs(NamedTuple):
    """What the final network of an architecture costs: the sum of a fixed part and of what each of its choices adds.

    fixed: of the layers that all architectures have.
    choices: arrays of the shapes of the alphas.
    """

    fixed: float
    choices: list


def check_fields(fields, where, names, expected):
    """Raises ConfigError unless `fields`, from an architecture's file, has these names and a version that is known.

    Args:
        fields: what stands in the file; without `schema_version` it is read as version 1, a `name` may be there.
        where: the file's name.
        names: of all other fields.
        expected: what such a file looks like, for messages.
    """
    if not isinstance(fields, dict):
        raise ConfigError("expected a JSON object", where=where, seen=type(fields).__name__, allowed=expected)
    version = fields.get("schema_version", SCHEMA_VERSION)
    if type(version) is not int or version != SCHEMA_VERSION:
        raise ConfigError("unknown version", where=f"{where}: schema_version", seen=version, allowed=SCHEMA_VERSION)
    missing = [name for name in names if name not in fields]
    unknown = sorted(set(fields) - {*names, "kind", "schema_version", "name"})
    if missing or unknown:
        problem = f"missing {', '.join(missing)}" if missing else f"unknown key {printable(repr(unknown[0]), 80)}"
        raise ConfigError(problem, where=where, allowed=expected)


def check_name(value, where):
    """The name of an architecture, or None; raises ConfigError for what is no plain file name."""
    if value is None:
        return None
    if not isinstance(value, str) or not NAME_PATTERN.fullmatch(value):
        raise ConfigError("a name must be a plain file name", where=where, seen=value, allowed=NAME_PATTERN.pattern)
    return value
