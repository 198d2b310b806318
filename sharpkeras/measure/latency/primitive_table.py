"""Table of primitive latencies: keys for the layers of final networks, one for all layers that are equal."""

import json
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sharpkeras.errors import ConfigError, printable
from sharpkeras.io import json_files
from sharpkeras.measure.machine import device_name

if TYPE_CHECKING:
    import keras

logger = logging.getLogger("sharpkeras")

SCHEMA_VERSION = 1  # of a table of latencies
BOOKKEEPING = {"name", "dtype", "trainable", "seed", "build_input_shape"}  # what changes neither AddMults nor time
START_OF_WEIGHTS = ("_initializer", "_regularizer", "_constraint")
FUNCTIONS = ("function", "__lambda__")


def key(layer: "keras.layers.Layer", input_shape: Sequence[int]) -> str:
    """Key of an unbuilt layer and its input shape: the same text for equal ones in every process.

    It is JSON: the name of the layer, its configuration, the shape that it reads.

        ["sharpkeras>ReLUConvBN",{"affine":true,"filters":16,"kernel_size":1,"strides":1},[32,32,48]]

    Args:
        layer: a layer, or a Sequential of layers.
        input_shape: (H, W, C), or (C,) of a dense layer.

    Raises:
        ConfigError: if the configuration does not say all, as that of a lambda or of a graph of layers.
    """
    import keras  # here, since a table is read without it too

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns of a lambda, which is refused below
            name, config = _essence(keras.saving.serialize_keras_object(layer))
        return json.dumps([name, config, list(input_shape)], sort_keys=True, separators=(",", ":"))
    except (NotImplementedError, TypeError, ValueError, OSError) as error:
        raise ConfigError(
            "the configuration of this layer does not say what it computes",
            where=type(layer).__name__,
            seen=" ".join(str(error).split()).partition(". ")[0],
            allowed="a layer whose get_config returns every argument of its constructor, or a Sequential of such",
        ) from error


def _essence(value: Any) -> Any:
    """What Keras made of an object, with nothing left but what is computed; objects become [name, configuration].

    Raises:
        ValueError: for a function, which only has a name, and a graph, which is told by the names of its layers.
    """
    if isinstance(value, (list, tuple)):
        return [_essence(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "class_name" not in value or "config" not in value:
        return {name: _essence(item) for name, item in value.items() if not _idle(name)}
    registered = value.get("registered_name") or ""
    if "inbound_nodes" in value or (value["class_name"] in FUNCTIONS and ">" not in registered):
        raise ValueError("a graph of layers" if "inbound_nodes" in value else "a function that is not registered")
    # A registered name outlasts a move of the code; other classes only have that of their module.
    name = registered if ">" in registered else f"{value.get('module') or '__main__'}.{value['class_name']}"
    return [name, _essence(value["config"])]


def _idle(name: Any) -> bool:
    return name in BOOKKEEPING or str(name).endswith(START_OF_WEIGHTS)


# --- tables of latencies, by key ---


def load_table(path: str | os.PathLike[str]) -> Callable[["keras.layers.Layer", Sequence[int]], float]:
    """Read a table of latencies as a measure: (layer, input shape) → milliseconds.

    It raises a ConfigError for a part that is not in the table.

    Raises:
        UsageError: when there is no such file.
        ConfigError: when it is no table.
    """
    try:
        content = json_files.load(path)
    except ConfigError as error:
        error.seen = None  # a stranger's recipe can name any file as a table, and a message is shown to others
        raise
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        seen = content.get("schema_version") if isinstance(content, dict) else type(content).__name__
        raise _no_table(f"{path}: schema_version", seen, SCHEMA_VERSION)
    table = content.get("table")
    if not isinstance(table, dict) or not table:
        raise _no_table(f"{path}: table", type(table).__name__, "an object of parts")
    for part, row in table.items():
        milliseconds: Any = row.get("ms") if isinstance(row, dict) else None
        if type(milliseconds) not in (int, float) or milliseconds < 0:
            where = f"{path}: table[{printable(repr(part), 100)}].ms"
            raise _no_table(where, milliseconds, "a number of milliseconds, 0 or more")
    if content.get("device") != device_name():
        logger.warning("%s was measured on %s, not on this machine, %s", path, content.get("device"), device_name())
    if content.get("unstable"):
        logger.warning("%s was measured on a noisy machine: more than half of its parts are UNSTABLE", path)
    return lookup(table, path)


def lookup(
    table: dict[str, dict[str, Any]], path: str | os.PathLike[str]
) -> Callable[["keras.layers.Layer", Sequence[int]], float]:
    """The measure (layer, input shape) → milliseconds of a table; it raises ConfigError for a part that is missing."""

    def milliseconds(layer: "keras.layers.Layer", input_shape: Sequence[int]) -> float:
        part = key(layer, input_shape)
        if part not in table:
            raise ConfigError(
                "a part that is not in the table of latencies",
                where=str(path),
                seen=words(part),
                next_step=f"sharpkeras benchmark --primitives --overwrite --out {path}, "
                "with the `dataset`, `space`, `cost_of` and other sizes of the search",
            )
        return table[part]["ms"]

    return milliseconds


def _no_table(where: str, seen: Any, allowed: Any) -> ConfigError:
    step = "sharpkeras benchmark --primitives --out latencies.json"
    return ConfigError("is no table of latencies", where=where, seen=seen, allowed=allowed, next_step=step)


def words(key: str) -> str:
    """A key for readers: "SharpSepConv(filters=16, strides=2) on 32×32×16"."""
    name, config, shape = json.loads(key)
    return f"{_name(name, config)} on {'×'.join(map(str, shape))}"


def _name(name: str, config: dict[str, Any]) -> str:
    if "layers" in config:
        return " + ".join(_name(*layer) for layer in config["layers"])
    arguments = ", ".join(f"{name}={value}" for name, value in config.items() if value is not None)
    return f"{name.split('>')[-1].split('.')[-1]}({arguments})"
