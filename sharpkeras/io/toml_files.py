"""TOML for files that strangers write, with the limits of `json_files`."""

import os
import tomllib
from typing import Any

from sharpkeras.errors import ConfigError, UsageError
from sharpkeras.io import regular_files

MAX_BYTES = 2**14  # tomllib takes quadratic time for a name of many parts: at 1 MiB, hours


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings in the TOML file at `path`.

    Raises:
        UsageError: there is no readable file.
        ConfigError: it is no TOML, too large or nested too deeply.
    """
    try:
        with regular_files.opened(path) as file:
            raw = file.read(MAX_BYTES + 1)
    except regular_files.RefusedError as error:
        raise UsageError(error.strerror, where=str(path), allowed="a TOML file") from None
    except OSError as error:
        raise UsageError("cannot be read", where=str(path), seen=error.strerror) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError("is too large", where=str(path), seen=f"over {MAX_BYTES} bytes", allowed="at most 16 KiB")
    try:
        return tomllib.loads(raw.decode("utf-8-sig"))
    except RecursionError:
        raise ConfigError("is nested too deeply", where=str(path), allowed="name = value, one a line") from None
    except ValueError as error:  # no TOML, no UTF-8, or a number of thousands of digits
        raise ConfigError("is not TOML", where=str(path), seen=str(error), allowed="name = value") from None
