"""JSON as a file format that strangers write: one meaning per text, and a clear message for everything else.

Python's own reader lets a repeated key win silently, accepts NaN, and runs out of stack on deep nesting.
"""

import json
import logging
import math
import re
from pathlib import Path

from sharpkeras.errors import ConfigError, UsageError

logger = logging.getLogger(__name__)

MAX_BYTES = 2**20
MAX_DEPTH = 16
MAX_DIGITS = 100  # of one number; Python converts integers in quadratic time

# Strings are matched whole, so that brackets and quotes inside them are not seen.
TOKENS = re.compile(r'(?P<string>"(?:[^"\\]|\\.)*")(?P<colon>\s*:)?|(?P<open>[\[{])|(?P<close>[\]}])', re.DOTALL)


def load(path):
    """The value in the JSON file at `path`.

    Raises:
        UsageError: there is no readable file.
        ConfigError: as `loads`, and for text that is not UTF-8.
    """
    path = Path(path)
    try:
        if not path.is_file() and path.exists():
            raise UsageError("is not a regular file", where=str(path), allowed="a JSON file")
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"can not be read: {error.strerror}", where=str(path), allowed="a JSON file") from None
    _refuse_size(raw, str(path))
    try:
        return loads(raw.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        seen = f"byte {raw[error.start]:#04x} at offset {error.start}"
        raise ConfigError("is not UTF-8 text", where=str(path), seen=seen, allowed="JSON text") from None


def loads(text, where):
    """The value that the JSON `text` stands for.

    Args:
        text: at most 1 MiB and 16 levels deep; a byte order mark at the start is ignored.
        where: what the messages call it, usually the file.

    Raises:
        ConfigError: no JSON, a repeated key, a number that is not finite or too long, too large or too deep.
    """
    if text.startswith("\ufeff"):
        logger.warning("%s begins with a byte order mark, which is ignored", where)
        text = text[1:]
    _refuse_size(text.encode("utf-8", "surrogatepass"), where)
    if "\0" in text:
        place = _place(text, text.index("\0"))
        raise ConfigError("has a NUL byte", where=f"{where}, {place}", allowed="JSON text")
    _refuse_depth(text, where)
    try:
        value = json.loads(
            text,
            parse_constant=lambda name: _refuse_number(name, where),
            parse_float=lambda digits: _finite(digits, where),
            parse_int=lambda digits: _integer(digits, where),
        )
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"is not JSON: {error.msg[:1].lower()}{error.msg[1:].removesuffix(' at')}",
            where=f"{where}, {_place(text, error.pos)}",
            seen=text[error.pos : error.pos + 40] or "the end of the text",
            allowed='JSON such as {"name": [1, 2]}; never Python source or a pickle',
        ) from None
    _refuse_repeated_keys(text, where)
    return value


def _place(text, offset):
    line, column = text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
    return f"line {line}, column {column}"


def _refuse_size(raw, where):
    if len(raw) > MAX_BYTES:
        raise ConfigError("is too large", where=where, seen=f"more than {MAX_BYTES} bytes", allowed="at most 1 MiB")


def _refuse_depth(text, where):
    depth = 0
    for token in TOKENS.finditer(text):
        depth += bool(token["open"]) - bool(token["close"])
        if depth > MAX_DEPTH:
            raise ConfigError(
                "is nested too deeply",
                where=f"{where}, {_place(text, token.start())}",
                seen=f"more than {MAX_DEPTH} levels",
                allowed=f"at most {MAX_DEPTH} levels",
            )


def _refuse_repeated_keys(text, where):
    """Names both places of a key that an object has twice; `text` is known to be JSON."""
    objects = []
    for token in TOKENS.finditer(text):
        if token["open"]:
            objects.append({})
        elif token["close"]:
            objects.pop()
        elif token["colon"]:
            key = json.loads(token["string"])  # "a" and "\u0061" are the same key
            if key in objects[-1]:
                first, second = _place(text, objects[-1][key]), _place(text, token.start())
                problem = f"has a key twice, first at {first}"
                raise ConfigError(problem, where=f"{where}, {second}", seen=key, allowed="each key once")
            objects[-1][key] = token.start()


def _refuse_number(digits, where):
    raise ConfigError("has a number that is not finite", where=where, seen=digits, allowed="finite numbers")


def _refuse_length(digits, where):
    if len(digits) > MAX_DIGITS:
        raise ConfigError(
            "has a number that is too long",
            where=where,
            seen=f"{digits[:10]}… with {len(digits)} characters",
            allowed=f"at most {MAX_DIGITS} characters",
        )


def _integer(digits, where):
    _refuse_length(digits, where)
    return int(digits)


def _finite(digits, where):
    _refuse_length(digits, where)
    return float(digits) if math.isfinite(float(digits)) else _refuse_number(digits, where)
